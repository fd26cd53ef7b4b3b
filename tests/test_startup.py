"""What a command costs before it does anything, and where it keeps what it compiled."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl_llm import environment

ROOT = Path(__file__).resolve().parents[1]
# What a command that trains needs takes two seconds to import, half of it jax; these would come on top.
LATE = ("datasets", "transformers", "torch", "math_verify", "sympy", "matplotlib", "huggingface_hub", "tensorboardX")


def loaded(program: str) -> set[str]:
    """The packages that a fresh process has loaded after ``program``."""
    program += "\nimport sys; print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    run = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=run, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "program",
    [
        "import jaxrl_llm",
        "from jaxrl_llm import cli\ntry: cli.main(['--help'])\nexcept SystemExit as end: assert not end.code",
        "from jaxrl_llm import cli\ntry: cli.main(['train', '--help'])\nexcept SystemExit as end: assert not end.code",
    ],
    ids=["import", "help", "help of a command"],
)
def test_importing_the_package_and_asking_for_help_load_neither_jax_nor_numpy(program):
    assert loaded(program) & {"jax", "jaxlib", "numpy", "ml_collections", *LATE} == set()


def test_the_training_stack_is_imported_without_the_packages_that_only_some_runs_need():
    assert loaded("import jaxrl_llm.training.loop") & set(LATE) == set()


@pytest.fixture
def no_folder(monkeypatch, tmp_path):
    """A user who has set nothing, and whose caches are in ``tmp_path``; the allocator is left alone."""
    monkeypatch.delenv(environment.COMPILED)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    return tmp_path


def test_compiled_programs_are_kept_in_a_folder_of_the_user_alone(no_folder):
    environment.prepare()
    folder = no_folder / "jaxrl_llm" / "compiled"
    assert os.environ[environment.COMPILED] == str(folder) == str(environment.cache_folder())
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0.1"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_cache_home_the_folder_is_in_the_home(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/somewhere")
    assert environment.cache_folder() == Path("/somewhere/.cache/jaxrl_llm/compiled")


@pytest.mark.parametrize("value", ["", "/bucket/jax_cache"])
def test_the_users_own_folder_goes_before_and_an_empty_one_is_none(no_folder, monkeypatch, value):
    monkeypatch.setenv(environment.COMPILED, value)
    environment.prepare()
    assert os.environ[environment.COMPILED] == value
    assert "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ
    assert not list(no_folder.iterdir())


def test_a_folder_that_cannot_be_made_is_said_and_no_error(no_folder, monkeypatch, capsys):
    (no_folder / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_folder / "file"))
    environment.prepare()
    assert environment.COMPILED not in os.environ
    (line,) = capsys.readouterr().err.splitlines()
    assert "compiled programs are not kept" in line and environment.COMPILED in line
