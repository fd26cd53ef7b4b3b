# shellcheck shell=bash disable=SC2034  # read by the scripts of this folder
# The settings of one run on one machine park. Copy this file, change the copy, and give it to the scripts:
#
#   cp tpu_scripts/settings.sh my_run.sh
#   tpu_scripts/tpu_vm.sh resume my_run.sh --dry-run
#
# It is sourced by bash: NAME=value, no spaces around the "=". A name that is not in this file is an error. A script
# asks only for the settings it uses. No secrets here: the file is copied to the workers (docs/tpu.md).

# --- The run -------------------------------------------------------------------------------------------------------

# Names the run's folder, the queued resource, the job. Lower-case letters, digits and hyphens, at most 40.
RUN_NAME=gsm8k-lite-ppo-0
# Where the workers get the code. COMMIT is a branch, a tag or a hash. Give a hash: a branch may move between a start
# and the resumption after a preemption.
REPOSITORY=https://github.com/OWNER/jaxrl_llm.git
COMMIT=main
# What is run: jaxrl-llm train --config=CONFIG --config.KEY=VALUE ..., for every KEY=VALUE of OVERRIDES.
# run_dir is not for OVERRIDES: the scripts set it to runs/RUN_NAME in the bucket (SLURM: in SHARED_FOLDER).
CONFIG=configs/gsm8k.py
OVERRIDES=(mesh.fsdp=-1 checkpoint.every=10)
# Starts after a failure that was no preemption, before giving up. xpk.sh: preemptions count too.
MAX_RESTARTS=3

# --- Google Cloud: tpu_vm.sh, gke.sh, xpk.sh -----------------------------------------------------------------------

PROJECT=my-project
# A zone with the accelerator: https://cloud.google.com/tpu/docs/regions-zones
ZONE=us-east5-b
# As in --accelerator-type of gcloud and --tpu-type of xpk; the number is chips (v5litepod, v6e) or cores (v4, v5p).
ACCELERATOR_TYPE=v6e-8
# Slices of that type; more than one is Multislice: the mesh axis "data" belongs on the network between them.
SLICES=1
# Worker VMs of one slice: 1 for v6e-8 and v5litepod-8; 4 for v6e-16, v5litepod-16 and v4-32.
HOSTS_PER_SLICE=1
# spot (may be preempted; resumed automatically), on-demand, or reserved
CAPACITY=spot
# Name of the reservation; gke.sh and xpk.sh with CAPACITY=reserved
RESERVATION=
# Bucket for runs and the compilation cache, without gs://, with hierarchical namespace (docs/tpu.md says why).
BUCKET=my-bucket

# --- tpu_vm.sh -----------------------------------------------------------------------------------------------------

# v2-alpha-tpuv6e for v6e, v2-alpha-tpuv5-lite for v5litepod, v2-alpha-tpuv5 for v5p, tpu-ubuntu2204-base for v4
RUNTIME_VERSION=v2-alpha-tpuv6e
# Email of the service account of the VMs; empty: the project's default. It needs to read and write BUCKET.
SERVICE_ACCOUNT=
# Seconds between two looks of `resume`
POLL_SECONDS=60

# --- gke.sh, xpk.sh ------------------------------------------------------------------------------------------------

CLUSTER=my-cluster
# Container image, with its registry. `gke.sh image` builds it from COMMIT and pushes it.
IMAGE=us-east5-docker.pkg.dev/my-project/jaxrl-llm/train:main

# --- gke.sh --------------------------------------------------------------------------------------------------------

# Location of the cluster: a region or a zone
LOCATION=us-east5
NAMESPACE=default
# Kubernetes service account that may read and write BUCKET (Workload Identity Federation)
K8S_SERVICE_ACCOUNT=train
# Of the node pools: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
MACHINE_TYPE=ct6e-standard-8t
TPU_ACCELERATOR=tpu-v6e-slice
TPU_TOPOLOGY=2x4
CHIPS_PER_HOST=8

# --- slurm.sh ------------------------------------------------------------------------------------------------------

# A folder that the login node and all compute nodes see: code, runs and compilation cache go there.
SHARED_FOLDER=/shared/jaxrl-llm
NODES=1
GPUS_PER_NODE=8
# One node: one task, which has all its GPUs. More nodes: one task for each GPU.
CPUS_PER_TASK=64
# As in --mem of sbatch: of one node
MEMORY=512G
# days-hours:minutes:seconds; the job goes back into the queue two minutes before
TIME_LIMIT=1-00:00:00
# Empty: the cluster's default
PARTITION=
ACCOUNT=
