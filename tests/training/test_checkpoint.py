"""A checkpoint that goes while it is read: the run that writes there keeps only its newest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxrl_llm.algorithm import initial_controls
from jaxrl_llm.training.checkpoint import FOLDER, Checkpoints
from jaxrl_llm.types import TrainState
from tests import policies

ALGORITHM = policies.algorithm()


def save(run: Path, *steps: int, keep: int | None = None) -> None:
    """A parameter that is the number of the step."""
    with Checkpoints(run, keep=keep) as checkpoints:
        for step in steps:
            params = {"w": jnp.full(4, float(step))}
            state = TrainState(jnp.int32(step), params, {}, {}, initial_controls(ALGORITHM), {}, {})
            checkpoints.save(step, state, {"step": step})


def remove(run: Path, *steps: int) -> None:
    for step in steps:
        shutil.rmtree(run / FOLDER / str(step))


def read(run: Path, monkeypatch: pytest.MonkeyPatch, between: Callable[[], None]) -> tuple[float, int]:
    """The parameter and the JSON value that are read, where ``between`` happens once the last step has been chosen."""
    restore, actions = Checkpoints._restore, [between]

    def after_that(checkpoints: Checkpoints, step: int, **items: object) -> object:
        if actions:
            actions.pop()()
        return restore(checkpoints, step, **items)

    monkeypatch.setattr(Checkpoints, "_restore", after_that)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(run, read_only=True) as checkpoints:
        params, extra = checkpoints.restore_params({"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=place)})
    return float(params["w"][0]), extra["step"]


def test_the_newest_that_is_there_is_read_where_a_live_run_has_deleted_the_chosen_one(tmp_path, monkeypatch, capsys):
    save(tmp_path, 1, 2)
    assert read(tmp_path, monkeypatch, lambda: save(tmp_path, 3, 4, keep=1)) == (4.0, 4)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("checkpoint 2 in ")
    assert said.endswith("went while it was read: checkpoint 4 is read instead")


def test_an_older_one_is_read_where_somebody_has_deleted_the_last(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)
    assert read(tmp_path, monkeypatch, lambda: remove(tmp_path, 2)) == (1.0, 1)


def test_no_checkpoint_is_said_where_all_have_gone(tmp_path, monkeypatch):
    save(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="no checkpoint in "):
        read(tmp_path, monkeypatch, lambda: remove(tmp_path, 1))


def test_a_damaged_last_one_is_an_error_though_an_older_one_could_be_read(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)
    with pytest.raises(ValueError, match=r"checkpoint 2 in .* cannot be restored"):
        read(tmp_path, monkeypatch, lambda: shutil.rmtree(tmp_path / FOLDER / "2" / "params"))
