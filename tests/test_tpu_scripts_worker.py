"""What tpu_scripts/worker.sh does on a worker of a TPU VM, against fake systemctl, sudo, git, uv and gcsfuse."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.fakes.shell import SCRIPTS, Shell


@pytest.fixture
def worker(tmp_path):
    """A shell whose `home` has the scripts and the settings where tpu_vm.sh copies them."""
    shell = Shell(tmp_path)
    home = tmp_path / "jaxrl-llm"
    home.mkdir()
    for name in ("common.sh", "worker.sh"):
        shutil.copy(SCRIPTS / name, home)
    shell.settings({"OVERRIDES": "(steps=5)"}, name="jaxrl-llm/settings.sh")
    return shell, home


STATE = ["systemctl", "show", "--property=SubState", "--value", "jaxrl-llm"]
MOUNTED = {"mountpoint": [{"code": 0}]}
NOT_MOUNTED = {"mountpoint": [{"code": 1}]}


def in_state(state: str) -> dict[str, list[dict[str, str]]]:
    return {"systemctl show": [{"out": f"{state}\n"}]}


def test_setup_installs_the_commit_and_mounts_the_bucket(worker):
    shell, home = worker
    shell.tell({**in_state("dead"), **NOT_MOUNTED})
    out, _ = shell.run(home / "worker.sh", "setup")
    assert out == "worker setup: done\n"
    source, python = home / "source", home / "venv" / "bin" / "python"
    assert shell.words == [
        STATE,
        ["git", "clone", "--quiet", "https://github.com/OWNER/jaxrl_llm.git", str(source)],
        ["git", "-C", str(source), "fetch", "--quiet", "origin", "main"],
        ["git", "-C", str(source), "checkout", "--quiet", "--detach", "FETCH_HEAD"],
        ["uv", "venv", "--quiet", "--python", "3.12", str(home / "venv")],
        ["uv", "pip", "install", "--quiet", "--python", str(python), "--editable", f"{source}[tpu]"],
        ["mountpoint", "--quiet", str(home / "bucket")],
        ["gcsfuse", "--enable-streaming-writes=false", "--rename-dir-limit=0", "my-bucket", str(home / "bucket")],
    ]


def test_a_second_setup_neither_clones_nor_mounts_again(worker):
    shell, home = worker
    (home / "source" / ".git").mkdir(parents=True)
    shell.fake(home / "venv" / "bin" / "python")
    shell.tell({**in_state("exited"), **MOUNTED})
    shell.run(home / "worker.sh", "setup")
    assert [words[:1] + words[3:5] for words in shell.words if words[0] in ("git", "uv", "gcsfuse")] == [
        ["git", "fetch", "--quiet"],
        ["git", "checkout", "--quiet"],
        ["uv", "--quiet", "--python"],
    ]


def test_a_fresh_worker_gets_gcsfuse_and_uv_first(worker):
    shell, home = worker
    shell.without("gcsfuse")
    shell.without("uv")
    shell.fake(home / "uv" / "bin" / "uv")  # what pip would install
    shell.tell({**in_state("dead"), **MOUNTED, "lsb_release": [{"out": "jammy\n"}]})
    shell.run(home / "worker.sh", "setup")
    key = "/usr/share/keyrings/cloud.google.asc"
    apt = ["sudo", "apt-get", "-o", "DPkg::Lock::Timeout=600", "--quiet"]
    assert [words for words in shell.words if words[0] == "sudo" and words[1] == "apt-get"] == [
        [*apt, "update"],
        [*apt, "--yes", "install", "gcsfuse", "python3-venv", "git"],
    ]
    source = f"deb [signed-by={key}] https://packages.cloud.google.com/apt gcsfuse-jammy main\n"
    assert [(call["words"][2], call["stdin"]) for call in shell.calls if call["words"][:2] == ["sudo", "tee"]] == [
        (key, ""),
        ("/etc/apt/sources.list.d/gcsfuse.list", source),
    ]


def test_code_does_not_change_under_a_process_that_trains(worker):
    shell, home = worker
    shell.tell(in_state("running"))
    for command in ("setup", "launch"):
        out, _ = shell.run(home / "worker.sh", command)
        assert out == f"worker {command}: done\n"
    assert shell.words == [STATE, STATE]


def test_a_setup_that_fails_is_not_reported_as_done(worker):
    shell, home = worker
    shell.tell({**in_state("dead"), "git clone": [{"code": 128}]})
    out, _ = shell.run(home / "worker.sh", "setup", code=128)
    assert out == ""
    assert shell.words[-1][:2] == ["git", "clone"]


@pytest.mark.parametrize("state", ["dead", "exited", "failed"])
def test_launch_starts_a_service_in_place_of_one_that_has_ended(worker, state):
    shell, home = worker
    shell.tell(in_state(state))
    shell.run(home / "worker.sh", "launch")
    ended = [["sudo", "systemctl", "stop", "jaxrl-llm"], ["sudo", "systemctl", "reset-failed", "jaxrl-llm"]]
    assert [words for words in shell.words if words != STATE] == [
        *(ended if state != "dead" else []),
        [
            *["sudo", "systemd-run", "--quiet", "--unit=jaxrl-llm", f"--uid={os.getuid()}", "--remain-after-exit"],
            f"--working-directory={home}/source",
            f"--property=StandardOutput=append:{home}/train.log",
            f"--property=StandardError=append:{home}/train.log",
            *["bash", f"{home}/worker.sh", "train"],
        ],
    ]


def test_train_runs_the_command_line_with_run_folder_and_cache_in_the_bucket(worker):
    shell, home = worker
    (home / "source").mkdir()
    shell.fake(home / "venv" / "bin" / "jaxrl-llm")
    shell.tell({**MOUNTED, "jaxrl-llm train": [{"out": "trained\n", "code": 7}]})
    out, _ = shell.run(home / "worker.sh", "train", code=7)
    assert out == "trained\n"
    run_dir = f"--config.run_dir={home}/bucket/runs/gsm8k-lite-ppo-0"
    train = ["jaxrl-llm", "train", "--config=configs/gsm8k.py", "--config.steps=5", run_dir]
    assert shell.words[-1] == train
    assert shell.calls[-1]["cache"] == f"{home}/bucket/jax_cache"


def test_workers_of_several_hosts_find_each_other(worker):
    shell, home = worker
    (home / "source").mkdir()
    shell.fake(home / "venv" / "bin" / "jaxrl-llm")
    shell.settings({"SLICES": "2", "HOSTS_PER_SLICE": "4"}, name="jaxrl-llm/settings.sh")
    shell.tell(MOUNTED)
    shell.run(home / "worker.sh", "train")
    assert "--distributed" in shell.words[-1]


def test_train_refuses_a_folder_that_is_not_the_bucket(worker):
    shell, home = worker
    shell.tell(NOT_MOUNTED)
    _, err = shell.run(home / "worker.sh", "train", code=2)
    assert "is not mounted" in err
    assert [words[0] for words in shell.words] == ["mountpoint"]


def test_the_command_that_is_launched_is_one_that_the_command_line_takes(worker):
    from jaxrl_llm import cli_arguments
    from jaxrl_llm import config as configs

    shell, home = worker
    (home / "source").mkdir()
    shell.fake(home / "venv" / "bin" / "jaxrl-llm")
    shell.tell(MOUNTED)
    shell.run(home / "worker.sh", "train")
    overrides, others = cli_arguments.split_overrides(shell.words[-1][1:])
    parsed = cli_arguments.make_parser().parse_args(others)
    config = configs.load(SCRIPTS.parent / parsed.config, overrides)
    assert parsed.command == "train"
    assert config.steps == 5
    assert config.run_dir == f"{home}/bucket/runs/gsm8k-lite-ppo-0"
