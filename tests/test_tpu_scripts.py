"""The launchers in tpu_scripts/, against fake gcloud, kubectl, xpk, sbatch and the like that record their arguments."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.shell import EXAMPLE, SCRIPTS, Shell, is_executable

COMMANDS = {
    "tpu_vm.sh": ["create", "state", "setup", "launch", "tail", "resume", "stop", "fetch", "delete"],
    "gke.sh": ["create", "image", "manifest", "launch", "state", "tail", "stop", "fetch", "delete"],
    "xpk.sh": ["create", "launch", "state", "stop", "fetch", "delete"],
    "slurm.sh": ["setup", "launch", "state", "tail", "stop"],
}
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
WHERE = ["--project=my-project", "--zone=us-east5-b", "--quiet"]
TWO_SLICES = {"SLICES": "2", "HOSTS_PER_SLICE": "4", "ACCELERATOR_TYPE": "v6e-16"}


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


def test_shellcheck_finds_nothing():
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: pip install -e .[dev]"
    fakes = SCRIPTS.parent / "tests" / "fakes"
    scripts = sorted(map(str, [*SCRIPTS.glob("*.sh"), *fakes.glob("*.sh")]))
    found = subprocess.run([shellcheck, "-x", *scripts], cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert found.stdout == ""
    assert found.returncode == 0


@pytest.mark.parametrize("script", COMMANDS)
def test_help_names_every_command_and_needs_no_settings(shell, script):
    out, _ = shell.run(script, "--help")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2:3].isalpha()][
        : len(COMMANDS[script])
    ] == COMMANDS[script]
    assert is_executable(SCRIPTS / script)


def test_the_example_holds_every_setting_once_and_no_other():
    listed = subprocess.run(
        ["bash", "-c", f'source {SCRIPTS}/common.sh; printf "%s\\n" "${{KNOWN_SETTINGS[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    assert [line.partition("=")[0] for line in lines] == listed


@pytest.mark.parametrize(
    ("script", "command"),
    [
        (script, command)
        for script in COMMANDS
        for command in COMMANDS[script]
        if (script, command) != ("slurm.sh", "tail")
    ],
)
def test_a_dry_run_prints_the_commands_of_a_run_and_runs_none(shell, script, command):
    settings = shell.settings({"SHARED_FOLDER": str(shell.folder / "shared")})
    if script == "slurm.sh" and command == "launch":
        shell.run(script, "setup", settings)
    shell.tell({})
    printed, _ = shell.run(script, command, settings, "--dry-run")
    assert shell.words == []
    if command in ("resume", "manifest"):
        return  # resume acts on answers; a manifest is text
    shell.tell(
        {
            "describe": [{"out": "ACTIVE\n"}],
            **{
                f"worker.sh {verb}": [{"out": f"worker {verb}: done\n"}]
                for verb in ("setup", "launch", "stop", "state")
            },
        }
    )
    shell.run(script, command, settings)
    # launch asks squeue first; an image is built in a new folder each time
    called = [words for words in shell.words if words[0] != "squeue" or command == "state"]
    names = {words[0] for words in called}
    lines = [shlex.split(line) for line in printed.splitlines() if line and Path(line.split()[0]).name in names]
    lines = [[Path(words[0]).name, *words[1:]] for words in lines]
    assert called
    assert re.sub(r"[^'=]*/tmp[.]\w+", "NEW", str(lines)) == re.sub(r"[^'=]*/tmp[.]\w+", "NEW", str(called))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"RUN_NAME": "My_Run"}, "RUN_NAME='My_Run'"),
        ({"COMMIT": ""}, "COMMIT=''"),
        ({"COMMIT": "--upload-pack=x"}, "COMMIT='--upload-pack=x'"),
        ({"CONFIG": "gsm8k"}, "CONFIG='gsm8k'"),
        ({"OVERRIDES": "(steps)"}, "OVERRIDES has 'steps'"),
        ({"OVERRIDES": "(--config.steps=2)"}, "without --config."),
        ({"OVERRIDES": "(run_dir=runs/x)"}, "the scripts set run_dir"),
        ({"CAPACITY": "preemptible"}, "expected spot, on-demand or reserved"),
        ({"BUCKET": "gs://my-bucket"}, "BUCKET='gs://my-bucket'"),
        ({"ZONE": "us-east5"}, "ZONE='us-east5'"),
        ({"SLICES": "0"}, "SLICES='0'"),
        ({"HOSTS_PER_SLICE": "four"}, "HOSTS_PER_SLICE='four'"),
        ({"RUNTIME_VERSION": ""}, "RUNTIME_VERSION=''"),
        ({"POLL_SECONDS": "1m"}, "POLL_SECONDS='1m'"),
        ({"BUCKET": "my-bucket\nZONES=us-east5-b"}, "unknown setting ZONES"),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_runs(shell, changes, part):
    out, err = shell.run("tpu_vm.sh", "resume", shell.settings(changes), code=2)
    assert (out, shell.words) == ("", [])
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert part in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["create"], "expected COMMAND SETTINGS"),
        (["creat", "my_run.sh"], "unknown command creat"),
        (["create", "my_run.sh", "--dryrun"], "unknown option --dryrun"),
        (["create", "absent.sh"], "absent.sh does not exist"),
    ],
)
def test_a_wrong_word_is_one_line(shell, words, part):
    shell.settings()
    _, err = shell.run("tpu_vm.sh", *words, code=2)
    assert part in err
    assert len(err.splitlines()) == 1
    assert shell.words == []


def test_a_setting_that_the_file_leaves_out_is_not_taken_from_the_environment(shell):
    settings = shell.settings()
    settings.write_text(
        "\n".join(line for line in settings.read_text().splitlines() if not line.startswith("PROJECT="))
    )
    _, err = shell.run("tpu_vm.sh", "create", settings, code=2, PROJECT="another-project")
    assert "PROJECT=''" in err


def test_a_tool_that_is_not_installed_is_named_and_a_dry_run_does_without(shell):
    shell.without("gcloud")
    _, err = shell.run("tpu_vm.sh", "create", shell.settings(), code=2)
    assert "gcloud is not on PATH" in err
    shell.run("tpu_vm.sh", "create", shell.settings(), "--dry-run")


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [
        ({}, ["--node-id=gsm8k-lite-ppo-0", "--spot"]),
        ({"CAPACITY": "on-demand"}, ["--node-id=gsm8k-lite-ppo-0"]),
        (
            {"CAPACITY": "reserved", "SERVICE_ACCOUNT": "a@b.c"},
            ["--node-id=gsm8k-lite-ppo-0", "--reserved", "--service-account=a@b.c"],
        ),
        ({"SLICES": "2"}, ["--node-count=2", "--node-prefix=gsm8k-lite-ppo-0", "--spot"]),
    ],
)
def test_create_asks_for_the_slices_and_the_capacity_of_the_settings(shell, changes, arguments):
    shell.run("tpu_vm.sh", "create", shell.settings(changes))
    kind = ["--accelerator-type=v6e-8", "--runtime-version=v2-alpha-tpuv6e"]
    assert shell.words == [[*QUEUED, "create", "gsm8k-lite-ppo-0", *kind, *arguments, *WHERE]]


def test_setup_copies_scripts_and_settings_to_all_workers_of_all_slices(shell):
    settings = shell.settings(TWO_SLICES)
    shell.tell({"worker.sh setup": [{"out": "worker setup: done\n" * 8}]})
    shell.run("tpu_vm.sh", "setup", settings)
    everywhere = ["--worker=all", "--node=all"]
    name = "gsm8k-lite-ppo-0"
    scripts = [str(SCRIPTS / "common.sh"), str(SCRIPTS / "worker.sh")]
    assert shell.words == [
        [*QUEUED, "ssh", name, *everywhere, "--command=mkdir -p jaxrl-llm", *WHERE],
        [*QUEUED, "scp", *scripts, f"{name}:jaxrl-llm/", *everywhere, *WHERE],
        [*QUEUED, "scp", str(settings), f"{name}:jaxrl-llm/settings.sh", *everywhere, *WHERE],
        [*QUEUED, "ssh", name, *everywhere, "--command=bash jaxrl-llm/worker.sh setup", *WHERE],
    ]


@pytest.mark.parametrize("answers", [7, 9])
def test_workers_that_do_not_answer_or_that_no_setting_speaks_of_are_an_error(shell, answers):
    # gcloud ssh ends with 0 although it could not reach a slice
    shell.tell({"worker.sh launch": [{"out": "worker launch: done\n" * answers}]})
    _, err = shell.run("tpu_vm.sh", "launch", shell.settings(TWO_SLICES), code=1)
    assert f"{answers} of 8 workers" in err


def running(state: str, count: int = 1) -> dict[str, str]:
    return {"out": f"worker state: {state}\n" * count}


DONE = {verb: [{"out": f"worker {verb}: done\n"}] for verb in ("setup", "launch", "stop")}
ABSENT = {"err": "ERROR: (gcloud) NOT_FOUND: no such resource\n", "code": 1}
SILENT = {"err": "ssh: connection refused\n", "code": 255}
START = ["jaxrl-llm", "scp", "scp", "setup", "launch"]  # mkdir -p jaxrl-llm, two copies, two commands


def in_state(*states: str) -> list[dict[str, str]]:
    return [{"out": f"{state}\n"} for state in states]


def test_resume_creates_starts_asks_again_after_a_preemption_and_ends_with_the_run(shell):
    life = [ABSENT, *in_state("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "ACTIVE", "SUSPENDED")]
    shell.tell(
        {
            "describe": [*life, ABSENT, *in_state("ACTIVE")],
            "worker.sh state": [SILENT, running("running"), SILENT, running("running"), running("exited")],
            **{f"worker.sh {verb}": told for verb, told in DONE.items()},
        }
    )
    shell.run("tpu_vm.sh", "resume", shell.settings())
    look = ["describe", "state"]
    assert shell.verbs() == [
        *["describe", "create", "describe", "describe"],
        *[*look, *START, *look],
        *["describe", "delete", "describe", "create"],
        *[*look, *START, *look, *look],
    ]
    (deleted,) = [words for words in shell.words if words[4] == "delete"]
    assert deleted == [*QUEUED, "delete", "gsm8k-lite-ppo-0", "--force", *WHERE]


@pytest.mark.parametrize("states", [["failed", "running"], ["dead", "running"]])
def test_one_worker_that_failed_or_that_booted_anew_restarts_all(shell, states):
    told = {"out": "".join(f"worker state: {state}\n" for state in states)}
    shell.tell(
        {
            "describe": in_state("ACTIVE"),
            "worker.sh state": [told, running("exited", 2)],
            **{f"worker.sh {verb}": [{"out": f"worker {verb}: done\n" * 2}] for verb in DONE},
        }
    )
    shell.run("tpu_vm.sh", "resume", shell.settings({"SLICES": "2"}))
    assert shell.verbs() == ["describe", "state", "stop", *START, "describe", "state"]


def test_resume_gives_up_after_max_restarts_failures(shell):
    shell.tell(
        {
            "describe": in_state("ACTIVE"),
            "worker.sh state": [running("failed")],
            **{f"worker.sh {verb}": told for verb, told in DONE.items()},
        }
    )
    _, err = shell.run("tpu_vm.sh", "resume", shell.settings({"MAX_RESTARTS": "2"}), code=1)
    assert shell.verbs().count("launch") == 2
    assert "gave up after 3 failures: training failed" in err


@pytest.mark.parametrize(
    ("answers", "verbs"),
    [
        # no permission, say: nothing is created for it
        ({"describe": [{"err": "PERMISSION_DENIED\n", "code": 1}]}, {"describe"}),
        # what cannot be reached is neither stopped nor deleted: it may be training
        ({"describe": in_state("ACTIVE"), "ssh": [SILENT]}, {"describe", "state", "jaxrl-llm"}),
        ({"describe": in_state("SUSPENDED"), "delete": [SILENT]}, {"describe", "delete"}),
        ({"describe": [ABSENT], "create": [SILENT]}, {"describe", "create"}),
    ],
)
def test_resume_gives_up_when_nobody_answers_for_long(shell, answers, verbs):
    shell.tell(answers)
    _, err = shell.run("tpu_vm.sh", "resume", shell.settings(), code=1)
    assert set(shell.verbs()) == verbs
    assert "gave up after 11 misses" in err


def test_a_queued_resource_that_failed_is_asked_for_again_at_most_max_restarts_times(shell):
    shell.tell({"describe": [*in_state("FAILED"), ABSENT, *in_state("FAILED")]})
    _, err = shell.run("tpu_vm.sh", "resume", shell.settings({"MAX_RESTARTS": "1"}), code=1)
    assert shell.verbs() == ["describe", "delete", "describe", "create", "describe"]
    assert "gave up after 2 failures" in err
