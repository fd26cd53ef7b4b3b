#!/usr/bin/env bash
# The batch script of slurm.sh: trains until the run has ended, and goes back into the queue when time is up.
# SLURM runs a copy of this file, so $1 says where common.sh, the settings and the code are.
set -euo pipefail

CODE=$1
# shellcheck source=tpu_scripts/common.sh
source "$CODE/common.sh"
load_settings "$CODE/settings.sh"
need_run

set_train "$SHARED_FOLDER" "$((NODES == 1 ? 1 : NODES * GPUS_PER_NODE))"
export JAX_COMPILATION_CACHE_DIR=$CACHE

# A preempted job goes back by itself (--requeue); one that is out of time has to ask.
# shellcheck disable=SC2329  # the trap calls it
next_turn() {
  say "time is up: job $SLURM_JOB_ID goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
}
trap next_turn USR1

# srun does not take --cpus-per-task from sbatch since SLURM 22.05
srun --kill-on-bad-exit=1 "--cpus-per-task=$CPUS_PER_TASK" "$CODE/venv/bin/jaxrl-llm" "${TRAIN[@]}" &
child=$!
code=0
wait "$child" || code=$?
# a signal ends `wait`, not the child
while kill -0 "$child" 2>/dev/null; do
  code=0
  wait "$child" || code=$?
done
exit "$code"
