#!/usr/bin/env bash
# Training on TPU slices of a GKE cluster that XPK keeps (https://github.com/AI-Hypercomputer/xpk).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
source "$HERE/common.sh"

usage() {
  cat <<'END'
usage: tpu_scripts/xpk.sh COMMAND SETTINGS [--dry-run]

  create  make the cluster CLUSTER with its slices, and attach the bucket at /bucket of every workload
  launch  create the workload; it resumes by itself after a preemption, at most MAX_RESTARTS times
  state   print the workload
  stop    delete the workload
  fetch   copy the run's folder, without checkpoints, to runs/RUN_NAME here
  delete  delete the cluster with all that runs on it; the bucket stays

  SETTINGS   a copy of tpu_scripts/settings.sh
  --dry-run  print every command and run none

The image is that of `tpu_scripts/gke.sh image`. `kubectl logs` and the console show the output.
END
}

xpk_on() { # xpk_on NOUN VERB ARGUMENT...: a command of xpk on the cluster
  run xpk "$@" "--cluster=$CLUSTER" "--project=$PROJECT" "--zone=$ZONE"
}

volume() { # the bucket as a volume; its size is asked for and means nothing
  cat <<END
apiVersion: v1
kind: PersistentVolume
metadata:
  name: jaxrl-llm
spec:
  accessModes: [ReadWriteMany]
  capacity:
    storage: 1Ti
  storageClassName: jaxrl-llm
  claimRef:
    name: jaxrl-llm
    namespace: default
  mountOptions:
    - ${GCSFUSE_OPTIONS[0]}
    - ${GCSFUSE_OPTIONS[1]}
  csi:
    driver: gcsfuse.csi.storage.gke.io
    volumeHandle: $BUCKET
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: jaxrl-llm
  namespace: default
spec:
  accessModes: [ReadWriteMany]
  resources:
    requests:
      storage: 1Ti
  storageClassName: jaxrl-llm
  volumeName: jaxrl-llm
END
}

create() {
  local capacity file
  case $CAPACITY in
    reserved) capacity="--reservation=$RESERVATION" ;;
    *) capacity="--$CAPACITY" ;;
  esac
  file=$(mktemp)
  # shellcheck disable=SC2064  # the file of now
  trap "rm -f '$file'" EXIT
  volume >"$file"
  xpk_on cluster create "--tpu-type=$ACCELERATOR_TYPE" "--num-slices=$SLICES" "$capacity" \
    --enable-workload-identity --enable-gcsfuse-csi-driver
  xpk_on storage attach jaxrl-llm --type=gcsfuse "--manifest=$file" --mount-point=/bucket --readonly=false \
    --auto-mount=true
  [[ $DRY_RUN == no ]] || volume
}

launch() {
  set_train /bucket "$((SLICES * HOSTS_PER_SLICE))"
  xpk_on workload create "--workload=$RUN_NAME" "--tpu-type=$ACCELERATOR_TYPE" "--num-slices=$SLICES" \
    "--docker-image=$IMAGE" "--max-restarts=$MAX_RESTARTS" "--env=JAX_COMPILATION_CACHE_DIR=$CACHE" \
    "--command=$(shown jaxrl-llm "${TRAIN[@]}")"
}

parse_arguments 'create launch state stop fetch delete' "$@"
load_settings "$SETTINGS"
need_run
need_google_cloud
need CLUSTER '[a-z][a-z0-9-]*' 'the name of a GKE cluster'
need IMAGE '[A-Za-z0-9][A-Za-z0-9_./:@-]+' 'a container image'
[[ $CAPACITY != reserved ]] || need RESERVATION '[a-z][a-z0-9/-]*' 'the name of a reservation'
if [[ $COMMAND == fetch ]]; then require_tools gcloud; else require_tools xpk; fi

case $COMMAND in
  state) xpk_on workload list "--filter-by-job=$RUN_NAME" ;;
  stop) xpk_on workload delete "--workload=$RUN_NAME" --force ;;
  fetch) fetch_run ;;
  delete) xpk_on cluster delete ;;
  *) "$COMMAND" ;;
esac
