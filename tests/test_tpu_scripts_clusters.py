"""The launchers for GKE, XPK and SLURM in tpu_scripts/, against fake kubectl, xpk, sbatch and srun."""

from __future__ import annotations

import json
import shlex
import signal
import time

import pytest

from tests.fakes.shell import Shell

TWO_SLICES = {"SLICES": "2", "HOSTS_PER_SLICE": "4", "ACCELERATOR_TYPE": "v6e-16"}
# fsync puts a file into the bucket, and no folder is renamed object by object: a resumed run relies on both
MOUNT = ["write:enable-streaming-writes:false", "file-system:rename-dir-limit:0"]


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


def test_the_jobset_has_the_slices_hosts_and_bucket_of_the_settings_and_a_quoted_command(shell):
    settings = shell.settings({**TWO_SLICES, "OVERRIDES": "(steps=5 'data.template={question} \"\\n\" $HOME')"})
    out, _ = shell.run("gke.sh", "manifest", settings)
    (command,) = [line for line in out.splitlines() if "command:" in line]
    assert json.loads(command.partition(":")[2]) == [
        *["jaxrl-llm", "train", "--config=configs/gsm8k.py", "--distributed", "--config.steps=5"],
        '--config.data.template={question} "\\n" $HOME',
        "--config.run_dir=/bucket/runs/gsm8k-lite-ppo-0",
    ]
    for line in (
        "  name: gsm8k-lite-ppo-0",
        "      replicas: 2",
        "          parallelism: 4",
        "          completions: 4",
        "    maxRestarts: 3",
        '                cloud.google.com/gke-spot: "true"',
        "                      value: /bucket/jax_cache",
        "                      bucketName: my-bucket",
        f"                      mountOptions: {','.join(MOUNT)}",
    ):
        assert line in out.splitlines()
    on_demand, _ = shell.run("gke.sh", "manifest", shell.settings({**TWO_SLICES, "CAPACITY": "on-demand"}))
    assert "gke-spot" not in on_demand


def test_gke_applies_the_manifest_to_the_cluster_of_the_settings_alone(shell):
    settings = shell.settings()
    manifest, _ = shell.run("gke.sh", "manifest", settings)
    shell.run("gke.sh", "launch", settings)
    context = ["--context=gke_my-project_us-east5_my-cluster", "--namespace=default"]
    assert shell.words == [
        [
            "gcloud",
            *["container", "clusters", "get-credentials", "my-cluster", "--location=us-east5", "--project=my-project"],
        ],
        ["kubectl", *context, "apply", "--filename=-"],
    ]
    assert shell.calls[1]["stdin"] == manifest


def test_gke_makes_a_node_pool_for_every_slice(shell):
    shell.run(
        "gke.sh", "create", shell.settings({**TWO_SLICES, "TPU_TOPOLOGY": "4x4", "MACHINE_TYPE": "ct6e-standard-4t"})
    )
    arguments = (
        "--cluster=my-cluster --location=us-east5 --project=my-project --node-locations=us-east5-b "
        "--machine-type=ct6e-standard-4t --num-nodes=4 --workload-metadata=GKE_METADATA --tpu-topology=4x4 --spot"
    )
    create = ["gcloud", "container", "node-pools", "create"]
    assert shell.words == [[*create, f"gsm8k-lite-ppo-0-{slice}", *arguments.split()] for slice in (0, 1)]


def test_xpk_gets_one_command_line_that_a_shell_reads_back(shell):
    shell.run("xpk.sh", "launch", shell.settings({"OVERRIDES": "('data.template={question} =')"}))
    (words,) = shell.words
    (command,) = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    assert shlex.split(command)[3] == "--config.data.template={question} ="
    assert "--env=JAX_COMPILATION_CACHE_DIR=/bucket/jax_cache" in words


@pytest.mark.parametrize(
    ("changes", "capacity"),
    [
        ({}, "--spot"),
        ({"CAPACITY": "on-demand"}, "--on-demand"),
        ({"CAPACITY": "reserved", "RESERVATION": "mine"}, "--reservation=mine"),
    ],
)
def test_xpk_makes_the_cluster_and_attaches_the_bucket(shell, changes, capacity):
    out, _ = shell.run("xpk.sh", "create", shell.settings(changes), "--dry-run")
    shell.run("xpk.sh", "create", shell.settings(changes))
    where = ["--cluster=my-cluster", "--project=my-project", "--zone=us-east5-b"]
    drivers = ["--enable-workload-identity", "--enable-gcsfuse-csi-driver"]
    mounted = ["--mount-point=/bucket", "--readonly=false", "--auto-mount=true"]
    cluster, storage = shell.words
    assert cluster == ["xpk", "cluster", "create", "--tpu-type=v6e-8", "--num-slices=1", capacity, *drivers, *where]
    (manifest,) = [word for word in storage if word.startswith("--manifest=")]
    assert storage == ["xpk", "storage", "attach", "jaxrl-llm", "--type=gcsfuse", manifest, *mounted, *where]
    for line in ("    volumeHandle: my-bucket", *(f"    - {option}" for option in MOUNT)):
        assert line in out.splitlines()


@pytest.mark.parametrize(("nodes", "tasks"), [(1, 1), (4, 8)])
def test_slurm_submits_one_task_or_one_for_each_gpu(shell, nodes, tasks):
    shared = shell.folder / "shared"
    settings = shell.settings({"SHARED_FOLDER": str(shared), "NODES": str(nodes)})
    shell.run("slurm.sh", "setup", settings)
    shell.tell({})
    shell.run("slurm.sh", "launch", settings)
    code = f"{shared}/code/gsm8k-lite-ppo-0"
    _, submitted = shell.words
    assert submitted == [
        *["sbatch", "--job-name=gsm8k-lite-ppo-0", f"--nodes={nodes}", f"--ntasks-per-node={tasks}"],
        *["--gpus-per-node=8", "--cpus-per-task=64", "--mem=512G", "--time=1-00:00:00"],
        *["--requeue", "--signal=B:USR1@120", "--open-mode=append", f"--output={code}/train.log"],
        *[f"--chdir={code}/source", f"{code}/slurm_job.sh", code],
    ]


def test_slurm_submits_neither_twice_nor_settings_that_setup_has_not_seen(shell):
    changes = {"SHARED_FOLDER": str(shell.folder / "shared")}
    settings = shell.settings(changes)
    _, err = shell.run("slurm.sh", "launch", settings, code=2)
    assert "run " in err and "setup" in err
    shell.run("slurm.sh", "setup", settings)
    shell.tell({"squeue": [{"out": "17\n"}]})
    _, err = shell.run("slurm.sh", "launch", settings)
    assert "job 17 already" in err
    assert [words[0] for words in shell.words] == ["squeue"]
    _, err = shell.run("slurm.sh", "launch", shell.settings({**changes, "OVERRIDES": "(steps=9)"}), code=2)
    assert "has changed since setup" in err


def test_the_processes_of_a_slurm_job_with_several_tasks_find_each_other(shell):
    settings = shell.settings({"SHARED_FOLDER": str(shell.folder / "shared"), "NODES": "2"})
    shell.run("slurm.sh", "setup", settings)
    code = shell.folder / "shared" / "code" / "gsm8k-lite-ppo-0"
    shell.tell({})
    shell.run(code / "slurm_job.sh", code, SLURM_JOB_ID="17")
    assert "--distributed" in shell.words[0]


def test_a_slurm_job_out_of_time_goes_back_into_the_queue_and_its_code_is_that_of_training(shell):
    shared = shell.folder / "shared"
    settings = shell.settings({"SHARED_FOLDER": str(shared), "OVERRIDES": "()"})
    shell.run("slurm.sh", "setup", settings)
    code = shared / "code" / "gsm8k-lite-ppo-0"
    shell.tell({"srun": [{"seconds": 1, "code": 3}]})
    job = shell.start(code / "slurm_job.sh", code, SLURM_JOB_ID="17")
    while not shell.words:
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=30)
    assert job.returncode == 3
    train = ["train", "--config=configs/gsm8k.py", f"--config.run_dir={shared}/runs/gsm8k-lite-ppo-0"]
    assert shell.words == [
        ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=64", f"{code}/venv/bin/jaxrl-llm", *train],
        ["scontrol", "requeue", "17"],
    ]
    assert shell.calls[0]["cache"] == f"{shared}/jax_cache"
