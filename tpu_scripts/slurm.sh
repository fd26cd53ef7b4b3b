#!/usr/bin/env bash
# Training on GPU nodes of a SLURM cluster, from its login node; goes back into the queue when preempted or out of time.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
source "$HERE/common.sh"

usage() {
  cat <<'END'
usage: tpu_scripts/slurm.sh COMMAND SETTINGS [--dry-run]

  setup   install COMMIT in SHARED_FOLDER/code/RUN_NAME; again is harmless, but not while the run trains
  launch  submit the job, unless one of this name is queued or runs
  state   print the job
  tail    follow its output
  stop    cancel the job

  SETTINGS   a copy of tpu_scripts/settings.sh
  --dry-run  print every command and run none

The run is in SHARED_FOLDER/runs/RUN_NAME. `launch` after `stop` goes on where it was.
END
}

setup() {
  run mkdir -p "$CODE" "$SHARED_FOLDER/runs"
  install_commit "$CODE" cuda
  # the job reads these when it starts, which may be days from now
  run cp "$HERE/common.sh" "$HERE/slurm_job.sh" "$CODE/"
  run cp "$SETTINGS" "$CODE/settings.sh"
}

launch() {
  local job tasks=1 arguments=()
  if [[ $DRY_RUN == no ]]; then
    [[ -f $CODE/settings.sh ]] || die "$CODE/settings.sh does not exist: run $0 setup $SETTINGS"
    cmp --quiet "$SETTINGS" "$CODE/settings.sh" || die "$SETTINGS has changed since setup: run $0 setup $SETTINGS"
    job=$(squeue "--name=$RUN_NAME" "--user=$(id -un)" --noheader --format=%i)
    if [[ -n $job ]]; then
      say "$RUN_NAME is job $job already"
      return
    fi
  fi
  # one process has all GPUs of a node; where there are more nodes, JAX's convention for SLURM is one for each GPU
  ((NODES == 1)) || tasks=$GPUS_PER_NODE
  [[ -z $PARTITION ]] || arguments+=("--partition=$PARTITION")
  [[ -z $ACCOUNT ]] || arguments+=("--account=$ACCOUNT")
  # USR1 two minutes before the end, to the batch script alone: it asks for the next turn
  run sbatch "--job-name=$RUN_NAME" "--nodes=$NODES" "--ntasks-per-node=$tasks" "--gpus-per-node=$GPUS_PER_NODE" \
    "--cpus-per-task=$CPUS_PER_TASK" "--mem=$MEMORY" "--time=$TIME_LIMIT" "${arguments[@]}" \
    --requeue --signal=B:USR1@120 --open-mode=append "--output=$LOG" "--chdir=$CODE/source" \
    "$CODE/slurm_job.sh" "$CODE"
}

parse_arguments 'setup launch state tail stop' "$@"
load_settings "$SETTINGS"
need_run
need_repository
need SHARED_FOLDER '/[^[:space:]]+' 'an absolute path without spaces that all nodes see'
need NODES '[1-9][0-9]*' 'a number of nodes, 1 or more'
need GPUS_PER_NODE '[1-9][0-9]*' 'a number of GPUs, 1 or more'
need CPUS_PER_TASK '[1-9][0-9]*' 'a number of CPU cores, 1 or more'
need MEMORY '[0-9]+[KMGT]?' 'the memory of a node, such as 512G; 0 is all of it'
need TIME_LIMIT '[0-9:-]+' 'a time, such as 1-00:00:00 for a day'
need PARTITION '[^[:space:]]*' 'the name of a partition, or nothing'
need ACCOUNT '[^[:space:]]*' 'the name of an account, or nothing'
CODE=$SHARED_FOLDER/code/$RUN_NAME
LOG=$CODE/train.log

case $COMMAND in
  setup) require_tools git python3 ;;
  launch) require_tools sbatch squeue ;;
  state) require_tools squeue ;;
  stop) require_tools scancel ;;
  tail) ;;
esac
case $COMMAND in
  state) run squeue "--name=$RUN_NAME" "--user=$(id -un)" '--format=%i %T %M %l %R' ;;
  tail) run tail -n 100 -F "$LOG" ;;
  stop) run scancel "--name=$RUN_NAME" "--user=$(id -un)" ;;
  *) "$COMMAND" ;;
esac
