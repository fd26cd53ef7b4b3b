#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on every worker of a TPU VM. tpu_vm.sh copies it there beside common.sh and the
# settings. Its last line is "worker COMMAND: ..." when all went well, which tpu_vm.sh counts.
set -euo pipefail

FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
source "$FOLDER/common.sh"

usage() {
  cat <<'END'
usage: worker.sh setup|launch|state|train|stop

  setup   install gcsfuse and the run's commit, mount the bucket; does nothing while training runs
  launch  start training as a service of systemd, unless it runs
  state   print running, exited (finished), failed, or dead (not started since the VM booted)
  train   train in the foreground; the service runs this
  stop    stop the service

Reads settings.sh in its own folder.
END
}

UNIT=jaxrl-llm
BUCKET_FOLDER=$FOLDER/bucket
DRY_RUN=no

setup() {
  [[ $(state) != running ]] || return 0 # code does not change under a process
  if ! command -v gcsfuse >/dev/null; then
    local release key=/usr/share/keyrings/cloud.google.asc
    release=$(lsb_release --codename --short)
    curl --fail --silent --show-error https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$release main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    # a fresh VM may still be installing updates: wait for the lock
    sudo apt-get -o DPkg::Lock::Timeout=600 --quiet update
    sudo apt-get -o DPkg::Lock::Timeout=600 --quiet --yes install gcsfuse python3-venv git
  fi
  install_commit "$FOLDER" tpu
  mkdir -p "$BUCKET_FOLDER"
  mountpoint --quiet "$BUCKET_FOLDER" || gcsfuse "${GCSFUSE_FLAGS[@]}" "$BUCKET" "$BUCKET_FOLDER"
  mkdir -p "$BUCKET_FOLDER/runs"
}

state() { systemctl show --property=SubState --value "$UNIT"; }

launch() {
  [[ $(state) != running ]] || return 0
  stop
  sudo systemd-run --quiet --unit="$UNIT" --uid="$(id -u)" --remain-after-exit \
    --working-directory="$FOLDER/source" \
    --property="StandardOutput=append:$FOLDER/train.log" --property="StandardError=append:$FOLDER/train.log" \
    bash "$FOLDER/worker.sh" train
}

# A service that has ended stays known until it is stopped (exited) or reset (failed).
stop() {
  [[ $(state) != dead ]] || return 0
  sudo systemctl stop "$UNIT"
  sudo systemctl reset-failed "$UNIT" 2>/dev/null || true # not failed: nothing to reset
}

train() {
  mountpoint --quiet "$BUCKET_FOLDER" || die "$BUCKET_FOLDER is not mounted: the run would go to the VM's own disk"
  set_train "$BUCKET_FOLDER" "$((SLICES * HOSTS_PER_SLICE))"
  export JAX_COMPILATION_CACHE_DIR=$CACHE
  cd "$FOLDER/source"
  exec "$FOLDER/venv/bin/jaxrl-llm" "${TRAIN[@]}"
}

case ${1-} in
  -h | --help) usage ;;
  setup | launch | state | train | stop)
    load_settings "$FOLDER/settings.sh"
    need_run
    case $1 in
      state) echo "worker state: $(state)" ;;
      train) train ;;
      *)
        "$1"
        echo "worker $1: done"
        ;;
    esac
    ;;
  *) die "unknown command '${1-}': expected setup, launch, state, train or stop" ;;
esac
