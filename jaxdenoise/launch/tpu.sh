#!/bin/bash
# Trains {{ job.experiment }} on a Cloud TPU slice, {{ accelerator }}, and deletes the slice when it has ended.
# A slice that is preempted is created again; the run goes on from its last checkpoint in
# {{ job.run_dir }}
# Leave this running where nothing stops it, such as in tmux, after:
#   ssh-add ~/.ssh/google_compute_engine
name={{ name }}
where=(--zone={{ place.zone }}{% if place.project %} --project={{ place.project }}{% endif %} --quiet)

create() {
  gcloud compute tpus queued-resources create "$name" --node-id="$name" "${where[@]}" \
    --accelerator-type={{ accelerator }} --runtime-version={{ runtime }}{% if place.spot %} --spot{% endif +%}
}
delete() {
  gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force
}
state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
}
on_all_workers() {
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}
wait_until_active() {
  while true; do
    case "$(state)" in
      ACTIVE) return ;;
      FAILED | SUSPENDED) delete && until create; do sleep 60; done ;;
    esac
    sleep 60
  done
}

ls {{ place.package | words }} >/dev/null || exit 1 # jaxdenoise: python -m build --wheel
[ -n "$(state 2>/dev/null)" ] || create || exit 1
trap delete EXIT
trap 'exit 130' INT TERM
for ((restarts = 0; restarts <= {{ place.max_restarts }}; restarts++)); do
  wait_until_active
  gcloud compute tpus tpu-vm scp {{ place.package | words }} "$name": "${where[@]}" --worker=all &&
    on_all_workers {{ install | quote }} &&
    on_all_workers {{ command | quote }} &&
    exit 0
  status=$?
  sleep 120 # by then a preempted slice says so
  if [ "$status" -lt 128 ] && [ "$(state)" = ACTIVE ]; then
    exit "$status" # it has failed, and would again
  fi
  echo "ended with status $status: restart $((restarts + 1)), from the last checkpoint" >&2
done
exit "$status"
