#!/usr/bin/env bash
# Training on TPU slices of a GKE cluster as a JobSet, which restarts itself after preemptions and failures.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
source "$HERE/common.sh"

usage() {
  cat <<'END'
usage: tpu_scripts/gke.sh COMMAND SETTINGS [--dry-run]

  create    add a node pool for every slice to the cluster
  image     build the container image from COMMIT of this repository and push it
  manifest  print the JobSet
  launch    apply the JobSet; it resumes by itself after a preemption
  state     print the JobSet and its pods
  tail      follow the output of all pods
  stop      delete the JobSet
  fetch     copy the run's folder, without checkpoints, to runs/RUN_NAME here
  delete    delete the node pools; the cluster and the bucket stay

  SETTINGS   a copy of tpu_scripts/settings.sh
  --dry-run  print every command and run none

The cluster has JobSet 0.6 or newer, the Cloud Storage FUSE CSI driver and Workload Identity Federation (docs/tpu.md).
END
}

kube() { # kube ARGUMENT...: kubectl on the cluster of the settings, whatever the current context is
  run kubectl "--context=gke_${PROJECT}_${LOCATION}_$CLUSTER" "--namespace=$NAMESPACE" "$@"
}

credentials() {
  run gcloud container clusters get-credentials "$CLUSTER" "--location=$LOCATION" "--project=$PROJECT"
}

# A node pool is one slice: that is what keeps the pods of a slice on connected chips.
create() {
  local slice arguments=("--cluster=$CLUSTER" "--location=$LOCATION" "--project=$PROJECT" "--node-locations=$ZONE"
    "--machine-type=$MACHINE_TYPE" "--num-nodes=$HOSTS_PER_SLICE" --workload-metadata=GKE_METADATA)
  # a slice of one host has the topology of its machine type
  ((HOSTS_PER_SLICE == 1)) || arguments+=("--tpu-topology=$TPU_TOPOLOGY")
  case $CAPACITY in
    spot) arguments+=(--spot) ;;
    reserved) arguments+=(--reservation-affinity=specific "--reservation=$RESERVATION") ;;
    on-demand) ;;
  esac
  for ((slice = 0; slice < SLICES; slice++)); do
    run gcloud container node-pools create "$RUN_NAME-$slice" "${arguments[@]}"
  done
}

delete() {
  local slice
  for ((slice = 0; slice < SLICES; slice++)); do
    run gcloud container node-pools delete "$RUN_NAME-$slice" "--cluster=$CLUSTER" "--location=$LOCATION" \
      "--project=$PROJECT" --quiet
  done
}

image() {
  local context
  context=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$context'" EXIT
  run git -C "$HERE/.." archive "--output=$context/source.tar" "$COMMIT"
  run tar --extract "--file=$context/source.tar" "--directory=$context"
  run docker build "--file=$context/tpu_scripts/Dockerfile" "--tag=$IMAGE" "$context"
  run docker push "$IMAGE"
}

json() { # a JSON string, which YAML reads as it is
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

manifest() {
  local word command
  set_train /bucket "$((SLICES * HOSTS_PER_SLICE))"
  command=$(json jaxrl-llm)
  for word in "${TRAIN[@]}"; do command+=", $(json "$word")"; done
  cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $RUN_NAME
  namespace: $NAMESPACE
  annotations:
    # one child job, which is one slice, to one node pool
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $MAX_RESTARTS
    rules:
      # preemption and maintenance: restart all slices, and do not count it
      - name: disruption
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $HOSTS_PER_SLICE
          completions: $HOSTS_PER_SLICE
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onPodConditions:
                  - type: DisruptionTarget
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
                # files are staged on the node's disk until they are synced: a checkpoint may be large
                gke-gcsfuse/ephemeral-storage-limit: "0"
            spec:
              restartPolicy: Never
              serviceAccountName: $K8S_SERVICE_ACCOUNT
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $TPU_ACCELERATOR
                cloud.google.com/gke-tpu-topology: $TPU_TOPOLOGY
$([[ $CAPACITY != spot ]] || echo '                cloud.google.com/gke-spot: "true"')
              containers:
                - name: train
                  image: $IMAGE
                  command: [$command]
                  env:
                    - name: JAX_COMPILATION_CACHE_DIR
                      value: $CACHE
                  ports:
                    - containerPort: 8471 # TPU runtime
                    - containerPort: 8080 # between slices
                    - containerPort: 8482 # jax.distributed
                  resources:
                    requests:
                      google.com/tpu: $CHIPS_PER_HOST
                    limits:
                      google.com/tpu: $CHIPS_PER_HOST
                  volumeMounts:
                    - name: bucket
                      mountPath: /bucket
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $BUCKET
                      mountOptions: ${GCSFUSE_OPTIONS[0]},${GCSFUSE_OPTIONS[1]}
END
}

launch() {
  credentials
  if [[ $DRY_RUN == yes ]]; then
    kube apply --filename=-
    manifest
  else
    manifest | kube apply --filename=-
  fi
}

follow() {
  local labels="jobset.sigs.k8s.io/jobset-name=$RUN_NAME"
  kube logs "--selector=$labels" --container=train --follow --prefix --tail=100 \
    "--max-log-requests=$((SLICES * HOSTS_PER_SLICE))"
}

parse_arguments 'create image manifest launch state tail stop fetch delete' "$@"
load_settings "$SETTINGS"
need_run
need_google_cloud
need CLUSTER '[a-z][a-z0-9-]*' 'the name of a GKE cluster'
need LOCATION '[a-z]+-[a-z]+[0-9]+(-[a-z])?' 'a region or a zone, such as us-east5'
need NAMESPACE '[a-z0-9]([a-z0-9-]*[a-z0-9])?' 'a namespace'
need K8S_SERVICE_ACCOUNT '[a-z0-9]([a-z0-9.-]*[a-z0-9])?' 'a Kubernetes service account'
need IMAGE '[A-Za-z0-9][A-Za-z0-9_./:@-]+' 'a container image'
need MACHINE_TYPE '[a-z0-9-]+' 'a machine type, such as ct6e-standard-4t'
need TPU_ACCELERATOR 'tpu[a-z0-9-]+' 'a TPU accelerator of GKE, such as tpu-v6e-slice'
need TPU_TOPOLOGY '[0-9]+x[0-9]+(x[0-9]+)?' 'a topology, such as 4x4 or 2x2x4'
need CHIPS_PER_HOST '[1-9][0-9]*' 'the number of chips of a worker VM, 1 or more'
[[ $CAPACITY != reserved ]] || need RESERVATION '[a-z][a-z0-9/-]*' 'the name of a reservation'
require_tools gcloud kubectl

case $COMMAND in
  state)
    credentials
    kube get "jobset/$RUN_NAME"
    kube get pods "--selector=jobset.sigs.k8s.io/jobset-name=$RUN_NAME" --output=wide
    ;;
  tail)
    credentials
    follow
    ;;
  stop)
    credentials
    kube delete "jobset/$RUN_NAME" --ignore-not-found
    ;;
  fetch) fetch_run ;;
  *) "$COMMAND" ;;
esac
