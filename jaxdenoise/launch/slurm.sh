#!/bin/bash
#SBATCH --job-name={{ name }}
#SBATCH --nodes={{ place.nodes }}
#SBATCH --ntasks-per-node={{ place.gpus_per_node }}
#SBATCH --gres=gpu:{{ place.gpus_per_node }}
{% if place.cpus_per_task %}
#SBATCH --cpus-per-task={{ place.cpus_per_task }}
{% endif %}
#SBATCH --time={{ place.time }}
{% if place.partition %}
#SBATCH --partition={{ place.partition }}
{% endif %}
{% if place.account %}
#SBATCH --account={{ place.account }}
{% endif %}
{% for option in place.sbatch %}
#SBATCH --{{ option }}
{% endfor %}
#SBATCH --requeue
#SBATCH --signal=TERM@{{ place.grace_seconds }}
#SBATCH --open-mode=append
#SBATCH --output={{ name }}-%j.log

# One task a GPU. Each sees all GPUs of its node, and JAX takes the one of its local rank.
# {{ place.grace_seconds }} seconds before the time limit, and when it is preempted, SLURM signals the tasks, not this
# shell; they save a checkpoint and exit with 130. What ends with 128 or more was stopped, or lost
# a node, and is queued again; what ends with less has failed.
trap : TERM
{% if place.setup %}
{{ place.setup }}
{% endif %}
{% for name, value in env %}
export {{ name }}={{ value | quote }}
{% endfor %}
srun {% if place.cpus_per_task %}--cpus-per-task={{ place.cpus_per_task }} {% endif %}{{ train | lines }}
status=$?
if [ "$status" -ge 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt {{ place.max_restarts }} ]; then
  echo "ended with status $status: queued again, to go on from the last checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
