#!/bin/bash
# Trains {{ job.experiment }} on {{ place.slices }} × {{ accelerator }} of the GKE cluster {{ place.cluster }}, by XPK.
# A workload that is preempted is started again, up to {{ place.max_restarts }} times, and goes on from its last
# checkpoint in {{ job.run_dir }}
set -e
where=(--cluster={{ place.cluster }} --zone={{ place.zone }}{% if place.project %} --project={{ place.project }}{% endif %})
{% if not place.image %}
ls {{ place.package | words }} >/dev/null || exit 1 # jaxdenoise: python -m build --wheel
{% endif %}
{% set cluster_create %}
xpk cluster create "${where[@]}" --tpu-type={{ accelerator }} --num-slices={{ place.slices }}{% if place.spot %} --spot{% endif %}
{% endset %}
{% if place.create_cluster %}
{{ cluster_create }}
{% else %}
# Once, or with --create-cluster:
# {{ cluster_create }}
{% endif %}

xpk workload create "${where[@]}" --workload={{ name }} \
  --tpu-type={{ accelerator }} --num-slices={{ place.slices }} \
  --max-restarts={{ place.max_restarts }} --termination-grace-period-seconds={{ place.grace_seconds }} \
{% for name, value in env %}
  --env={{ (name ~ "=" ~ value) | quote }} \
{% endfor %}
{% if place.image %}
  --docker-image={{ place.image }} \
{% else %}
  --base-docker-image=python:{{ python }} --script-dir={{ folder | quote }} \
{% endif %}
  --command={{ command | quote }}

# Waits until it has ended; 125 says that it failed. The log is in Cloud Logging.
xpk workload list "${where[@]}" --wait-for-job-completion={{ name }}

# Afterwards:
# xpk workload delete "${where[@]}" --workload={{ name }}
# xpk cluster delete "${where[@]}"
