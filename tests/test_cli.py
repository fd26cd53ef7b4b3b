"""The command line: what it prints, and that a mistake is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl_llm import cli

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_explain_prints_the_objective_of_the_config_with_its_overrides(capsys):
    assert cli.main(["explain", "--config", str(CONFIGS / "dapo.py"), "--config.algorithm.clip_high=0.32"]) == 0
    assert "[0.8, 1.32]" in capsys.readouterr().out


def test_an_override_may_stand_as_a_word_of_its_own_and_before_the_config(capsys):
    arguments = ["explain", "--config.algorithm.clip_high", "0.32", f"--config={CONFIGS / 'dapo.py'}"]
    assert cli.main(arguments) == 0
    assert "[0.8, 1.32]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["explain", "--config", "nope.py"], "config file nope.py does not exist"),
        (
            ["train", "--config", str(CONFIGS / "grpo.py"), "--config.algorithm.clip_hi=1"],
            "nearest: algorithm.clip_high",
        ),
        (
            [
                "train",
                "--config",
                str(CONFIGS / "grpo.py"),
                "--config.data.samples_per_prompt=1",
                "--config.training.mini_batches=1",
            ],
            "samples_per_prompt = 1",
        ),
        (["train", "--config", str(CONFIGS / "grpo.py"), "--config.steps"], "--config.steps has no value"),
        (
            ["train", "--config", str(CONFIGS / "grpo.py"), "--config.steps", "--config.seed=1"],
            "--config.steps has no value",
        ),
        (["report", "nowhere"], "nowhere/config.json does not exist"),
        (["report", "nowhere", "--config.steps=1"], "report reads the run's own config"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, arguments, part):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert part in line


def test_the_traceback_is_shown_on_request():
    with pytest.raises(FileNotFoundError):
        cli.main(["explain", "--config", "nope.py", "--traceback"])


def test_an_error_from_inside_another_package_keeps_its_traceback(monkeypatch):
    def broken(settings):
        import json

        json.loads("{")

    monkeypatch.setattr("jaxrl_llm.explain.explain", broken)
    with pytest.raises(ValueError, match="Expecting property name"):
        cli.main(["explain", "--config", str(CONFIGS / "grpo.py")])


def test_the_module_runs_as_a_program_from_any_folder(tmp_path):
    command = [sys.executable, "-m", "jaxrl_llm.cli", "explain", "--config", str(CONFIGS / "lite_ppo.py")]
    environment = {"PYTHONPATH": str(CONFIGS.parent), "JAX_PLATFORMS": "cpu", "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean_g" in done.stdout


def test_explain_starts_without_the_packages_that_only_training_needs():
    heavy = "transformers datasets math_verify orbax matplotlib gguf flax tensorboardX sympy torch"
    program = (
        "import sys; from jaxrl_llm import cli; "
        f"code = cli.main(['explain', '--config', {str(CONFIGS / 'grpo.py')!r}]); "
        f"assert not code, code; print('LOADED', *[name for name in {heavy.split()!r} if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(CONFIGS.parent), "JAX_PLATFORMS": "cpu", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]


def test_a_reader_who_has_seen_enough_is_no_error():
    program = [sys.executable, "-m", "jaxrl_llm.cli", "explain", "--config", str(CONFIGS / "grpo.py")]
    environment = {"PYTHONPATH": str(CONFIGS.parent), "JAX_PLATFORMS": "cpu", "PATH": ""}
    started = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.close()
    _, errors = started.communicate()
    assert errors == b""
