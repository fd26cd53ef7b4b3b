# shellcheck shell=bash
# What the scripts of this folder share: settings with their checks, dry runs, and the command that trains. Sourced.

set -euo pipefail

die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() { printf '%s\n' "$*" >&2; }

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || die "bash $BASH_VERSION: expected 4.4 or newer"

readonly KNOWN_SETTINGS=(
  RUN_NAME REPOSITORY COMMIT CONFIG OVERRIDES MAX_RESTARTS
  PROJECT ZONE ACCELERATOR_TYPE SLICES HOSTS_PER_SLICE CAPACITY RESERVATION BUCKET
  RUNTIME_VERSION SERVICE_ACCOUNT POLL_SECONDS
  CLUSTER IMAGE LOCATION NAMESPACE K8S_SERVICE_ACCOUNT MACHINE_TYPE TPU_ACCELERATOR TPU_TOPOLOGY CHIPS_PER_HOST
  SHARED_FOLDER NODES GPUS_PER_NODE CPUS_PER_TASK MEMORY TIME_LIMIT PARTITION ACCOUNT
)

# --- Commands ------------------------------------------------------------------------------------------------------

# Sets COMMAND, SETTINGS and DRY_RUN from the arguments of a script; $1 lists the script's commands. The script's own
# function `usage` prints its help.
parse_arguments() {
  local commands=$1 words=() word
  shift
  DRY_RUN=no
  for word in "$@"; do
    case $word in
      -h | --help)
        usage
        exit 0
        ;;
      --dry-run) DRY_RUN=yes ;;
      -*) die "unknown option $word: expected --dry-run or --help" ;;
      *) words+=("$word") ;;
    esac
  done
  ((${#words[@]} == 2)) || die "expected COMMAND SETTINGS [--dry-run], found ${#words[@]} words; see --help"
  COMMAND=${words[0]}
  # shellcheck disable=SC2034  # for the scripts
  SETTINGS=${words[1]}
  [[ " $commands " == *" $COMMAND "* ]] || die "unknown command $COMMAND: expected one of $commands"
}

# A command as a line that a shell reads back as the same words.
shown() {
  local word words=()
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then words+=("$word"); else words+=("${word@Q}"); fi
  done
  printf '%s\n' "${words[*]}"
}

# Runs a command; with --dry-run prints it instead.
run() {
  if [[ $DRY_RUN == yes ]]; then shown "$@"; else "$@"; fi
}

require_tools() {
  local tool
  [[ $DRY_RUN == no ]] || return 0
  for tool in "$@"; do
    command -v "$tool" >/dev/null || die "$tool is not on PATH: install it, or look at the commands with --dry-run"
  done
}

# --- Settings ------------------------------------------------------------------------------------------------------

# Reads the settings file $1. What the environment holds under these names is not used.
load_settings() {
  local file=$1 name before=''
  [[ -f $file ]] || die "settings file $file does not exist: copy tpu_scripts/settings.sh"
  for name in "${KNOWN_SETTINGS[@]}"; do
    unset "$name"
    printf -v "$name" '%s' ''
  done
  unset OVERRIDES
  OVERRIDES=()
  before=" $(compgen -v | tr '\n' ' ')"
  # shellcheck source=tpu_scripts/settings.sh
  source "$(cd "$(dirname "$file")" && pwd)/$(basename "$file")" # a bare name would be looked for on PATH
  while read -r name; do
    [[ $before == *" $name "* ]] || die "settings file $file: unknown setting $name; all are in tpu_scripts/settings.sh"
  done < <(compgen -v)
}

# need NAME REGEX WHAT: refuses a setting that is not WHAT.
need() {
  local name=$1 regex=$2 what=$3
  [[ ${!name} =~ ^($regex)$ ]] || die "setting $name='${!name}': expected $what"
}

need_run() {
  local override
  need RUN_NAME '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' 'a letter, then lower-case letters, digits and hyphens, at most 40'
  need COMMIT '[A-Za-z0-9_./][A-Za-z0-9_./-]*' 'a branch, a tag or a hash'
  need CONFIG '[A-Za-z0-9_./-]+\.py' 'a config file of the repository, such as configs/gsm8k.py'
  need MAX_RESTARTS '[0-9]+' 'a number of restarts, 0 or more'
  for override in "${OVERRIDES[@]}"; do
    [[ $override =~ ^[A-Za-z_][A-Za-z0-9_.]*=[^[:cntrl:]]*$ ]] ||
      die "setting OVERRIDES has '$override': expected KEY=VALUE in one line, such as steps=200, without --config."
    [[ $override != run_dir=* ]] || die "setting OVERRIDES has '$override': the scripts set run_dir from RUN_NAME"
  done
}

need_repository() {
  need REPOSITORY '(https://|ssh://|git@|/)[^[:space:]]+' 'the address of a git repository'
}

need_google_cloud() {
  need PROJECT '[a-z][a-z0-9.:-]+' 'the id of a Google Cloud project'
  need ZONE '[a-z]+-[a-z]+[0-9]+-[a-z]' 'a zone, such as us-east5-b'
  need ACCELERATOR_TYPE '[a-z0-9]+-[0-9]+' 'a TPU type, such as v6e-8 or v5litepod-16'
  need SLICES '[1-9][0-9]*' 'a number of slices, 1 or more'
  need HOSTS_PER_SLICE '[1-9][0-9]*' 'the number of worker VMs of one slice, 1 or more'
  need CAPACITY 'spot|on-demand|reserved' 'spot, on-demand or reserved'
  need BUCKET '[a-z0-9][a-z0-9._-]+[a-z0-9]' 'the name of a bucket, without gs://'
}

# --- The bucket as a folder ---------------------------------------------------------------------------------------

# Cloud Storage FUSE, with what a run's folder needs (docs/tpu.md). Without streaming writes fsync puts a file into the
# bucket: a checkpoint relies on the log files that were synced before it. And no renaming of folders object by object,
# which gcsfuse allows itself on TPU machines: a checkpoint must appear whole, as a bucket with hierarchical namespace
# does it.
# shellcheck disable=SC2034  # for the scripts
readonly GCSFUSE_FLAGS=(--enable-streaming-writes=false --rename-dir-limit=0)
# shellcheck disable=SC2034  # the same for the CSI driver
readonly GCSFUSE_OPTIONS=(write:enable-streaming-writes:false file-system:rename-dir-limit:0)

# --- The run -------------------------------------------------------------------------------------------------------

# set_train FOLDER PROCESSES: sets TRAIN to the words after "jaxrl-llm", the same for each of so many processes, which
# find each other, and CACHE to JAX's persistent compilation cache; runs and cache are in FOLDER.
set_train() {
  TRAIN=(train "--config=$CONFIG")
  local override
  (($2 == 1)) || TRAIN+=(--distributed)
  for override in "${OVERRIDES[@]}"; do TRAIN+=("--config.$override"); done
  TRAIN+=("--config.run_dir=$1/runs/$RUN_NAME")
  # shellcheck disable=SC2034  # for the scripts
  CACHE=$1/jax_cache
}

# Copies the run's folder from the bucket, without checkpoints, to runs/RUN_NAME here.
fetch_run() {
  run mkdir -p "runs/$RUN_NAME"
  run gcloud storage rsync "gs://$BUCKET/runs/$RUN_NAME" "runs/$RUN_NAME" --recursive '--exclude=^checkpoints/.*' \
    "--project=$PROJECT"
}

# install_commit FOLDER EXTRA: COMMIT in FOLDER/source, installed with that extra in FOLDER/venv. Again is harmless.
install_commit() {
  local folder=$1 extra=$2 uv
  uv=$(command -v uv || true)
  if [[ -z $uv ]]; then # it brings a Python that is new enough: TPU VMs have 3.10
    uv=$folder/uv/bin/uv
    if [[ ! -x $uv ]]; then
      run python3 -m venv "$folder/uv"
      run "$folder/uv/bin/pip" install --quiet uv
    fi
  fi
  [[ -d $folder/source/.git ]] || run git clone --quiet "$REPOSITORY" "$folder/source"
  run git -C "$folder/source" fetch --quiet origin "$COMMIT"
  run git -C "$folder/source" checkout --quiet --detach FETCH_HEAD
  [[ -x $folder/venv/bin/python ]] || run "$uv" venv --quiet --python 3.12 "$folder/venv"
  run "$uv" pip install --quiet --python "$folder/venv/bin/python" --editable "$folder/source[$extra]"
}
