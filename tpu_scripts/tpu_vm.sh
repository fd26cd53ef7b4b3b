#!/usr/bin/env bash
# Training on TPU VMs that a queued resource provides: one slice or several, on demand, reserved or spot.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
source "$HERE/common.sh"

usage() {
  cat <<'END'
usage: tpu_scripts/tpu_vm.sh COMMAND SETTINGS [--dry-run]

  create  ask for the queued resource
  state   print the state of the queued resource and, when it is active, of training on every worker
  setup   copy scripts and settings to all workers, install the commit, mount the bucket; again is harmless
  launch  start training on all workers, in the background; those that train already are left alone
  tail    follow the output of the first worker
  resume  all of the above until the run has ended: create, wait, set up, launch; again after a preemption or a failure
  stop    stop training on all workers
  fetch   copy the run's folder, without checkpoints, to runs/RUN_NAME here
  delete  delete the queued resource with its VMs; the bucket stays

  SETTINGS   a copy of tpu_scripts/settings.sh
  --dry-run  print every command and run none

`resume` keeps no state of its own: stop it and start it again as you like, on any machine with gcloud.
END
}

REMOTE=jaxrl-llm # folder in the home of every worker
MAX_MISSES=10    # looks of `resume` in a row without an answer, or starts without success, before it gives up

qr() { # qr VERB ARGUMENT...: a command of gcloud on the queued resource
  run gcloud compute tpus queued-resources "$@" "--project=$PROJECT" "--zone=$ZONE" --quiet
}

create() {
  local arguments=("--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION")
  if ((SLICES > 1)); then
    arguments+=("--node-count=$SLICES" "--node-prefix=$RUN_NAME")
  else
    arguments+=("--node-id=$RUN_NAME")
  fi
  case $CAPACITY in
    spot) arguments+=(--spot) ;;
    reserved) arguments+=(--reserved) ;;
    on-demand) ;;
  esac
  [[ -z $SERVICE_ACCOUNT ]] || arguments+=("--service-account=$SERVICE_ACCOUNT")
  qr create "$RUN_NAME" "${arguments[@]}"
}

# Prints the state of the queued resource: ABSENT where there is none, UNKNOWN where gcloud does not say.
resource_state() {
  local answer errors
  errors=$(mktemp)
  if answer=$(qr describe "$RUN_NAME" '--format=value(state.state)' 2>"$errors"); then
    printf '%s\n' "$answer"
  elif grep -q NOT_FOUND "$errors"; then
    echo ABSENT
  else
    cat "$errors" >&2
    echo UNKNOWN
  fi
  rm -f "$errors"
}

on_workers() { # on_workers COMMAND: a shell command on every worker of every slice
  qr ssh "$RUN_NAME" --worker=all --node=all "--command=$1" </dev/null
}

# every_worker COMMAND: worker.sh COMMAND everywhere, and the answers. gcloud goes on, with exit code 0, when it cannot
# reach a slice; so the answers are counted.
every_worker() {
  local answers count expected=$((SLICES * HOSTS_PER_SLICE))
  if [[ $DRY_RUN == yes ]]; then
    on_workers "bash $REMOTE/worker.sh $1"
    return
  fi
  answers=$(on_workers "bash $REMOTE/worker.sh $1") || return 1
  answers=$(grep "^worker $1: " <<<"$answers") || true
  count=$(grep -c . <<<"$answers") || true
  printf '%s\n' "$answers"
  ((count == expected)) || {
    say "worker.sh $1: $count of $expected workers (SLICES × HOSTS_PER_SLICE) answered"
    return 1
  }
}

setup() {
  on_workers "mkdir -p $REMOTE" &&
    qr scp "$HERE/common.sh" "$HERE/worker.sh" "$RUN_NAME:$REMOTE/" --worker=all --node=all &&
    qr scp "$SETTINGS" "$RUN_NAME:$REMOTE/settings.sh" --worker=all --node=all &&
    every_worker setup
}

# Prints one word for all workers: failed if one has, else exited if all have, else dead if one is, else running;
# unreachable if some do not answer, or have no scripts yet.
training_state() {
  local states
  states=$(every_worker state 2>/dev/null) || {
    echo unreachable
    return
  }
  case $states in
    *failed*) echo failed ;;
    *dead*) echo dead ;;
    *running* | *start* | *stop*) echo running ;;
    *) echo exited ;;
  esac
}

start() { setup && every_worker launch; }

# Ends all workers before it starts them: one that is left from before could not join the others.
restart() { every_worker stop && start; }

delete() { qr delete "$RUN_NAME" --force; }

# count_up COUNTER LIMIT WHAT: counts what went wrong in a variable of `resume`; more than LIMIT ends the script.
count_up() {
  local -n counter=$1
  local limit=$2 what=$3
  counter=$((counter + 1))
  say "$what"
  if ((counter > limit)); then
    printf 'error: gave up after %s %s: %s\n' "$counter" "$1" "$what" >&2
    exit 1
  fi
}

# One look at the workers, and what follows from it. Returns 1 when the run has ended.
look_at_workers() {
  local training
  training=$(training_state)
  say "$RUN_NAME: ACTIVE, training $training"
  [[ $training == unreachable || $training == dead ]] || misses=0
  case $training in
    running) ;;
    exited) return 1 ;;
    failed)
      count_up failures "$MAX_RESTARTS" "training failed; $0 tail $SETTINGS shows its output"
      restart || count_up misses "$MAX_MISSES" 'not all workers could be started again'
      ;;
    dead) restart || count_up misses "$MAX_MISSES" 'not all workers could be started' ;;
    # New VMs, or a preemption that the resource does not show yet, or the network. What runs is left alone.
    unreachable) start || count_up misses "$MAX_MISSES" 'not all workers could be reached, set up and started' ;;
  esac
}

# Makes room for a new queued resource of the same name; the next look creates it.
ask_again() {
  if delete; then
    misses=0
  else
    count_up misses "$MAX_MISSES" 'the queued resource could not be deleted'
    return 1
  fi
}

# shellcheck disable=SC2034  # count_up reads the counters by name
resume() {
  local failures=0 misses=0 resource
  while :; do
    resource=$(resource_state)
    case $resource in
      ABSENT) create || count_up misses "$MAX_MISSES" 'the queued resource could not be created' ;;
      SUSPENDED | SUSPENDING)
        say "$RUN_NAME: $resource, so it was preempted: asking for it again"
        ask_again && continue
        ;;
      FAILED)
        count_up failures "$MAX_RESTARTS" 'the queued resource failed: no capacity in time, or no quota'
        ask_again && continue
        ;;
      ACTIVE) look_at_workers || return 0 ;;
      UNKNOWN) count_up misses "$MAX_MISSES" 'gcloud does not describe the queued resource' ;;
      *) # WAITING_FOR_RESOURCES, PROVISIONING, CREATING, DELETING
        say "$RUN_NAME: $resource"
        misses=0
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

# What `resume` would run, in order; what it does depends on answers that a dry run does not ask for.
resume_plan() {
  echo '# if there is none:'
  create
  echo "# every $POLL_SECONDS seconds until ACTIVE, and from then on:"
  qr describe "$RUN_NAME" '--format=value(state.state)'
  echo '# when it is ACTIVE:'
  start
  echo '# at every look while ACTIVE; the end is when all workers have exited:'
  every_worker state
  echo '# when training failed on a worker, at most MAX_RESTARTS times:'
  restart
  echo '# after a preemption, and then all of this again:'
  delete
}

parse_arguments 'create state setup launch tail resume stop fetch delete' "$@"
load_settings "$SETTINGS"
need_run
need_repository
need_google_cloud
need RUNTIME_VERSION '[a-z0-9-]+' 'a TPU software version, such as v2-alpha-tpuv6e'
need SERVICE_ACCOUNT '|[^@[:space:]]+@[^@[:space:]]+' 'an email address, or nothing'
need POLL_SECONDS '[0-9]+' 'a number of seconds'
require_tools gcloud

case $COMMAND in
  state)
    if [[ $DRY_RUN == yes ]]; then
      qr describe "$RUN_NAME" '--format=value(state.state)'
      every_worker state
    else
      RESOURCE=$(resource_state)
      echo "$RESOURCE"
      [[ $RESOURCE != ACTIVE ]] || every_worker state
    fi
    ;;
  launch | stop) every_worker "$COMMAND" ;;
  tail) qr ssh "$RUN_NAME" --worker=0 --node=0 "--command=tail -n 100 -F $REMOTE/train.log" ;;
  resume) if [[ $DRY_RUN == yes ]]; then resume_plan; else resume; fi ;;
  fetch) fetch_run ;;
  *) "$COMMAND" ;;
esac
