"""Checkpoints: arrays by orbax, the rest of the state as JSON beside them, written while training goes on.

A checkpoint holds all that a run needs to go on as if it had never stopped: parameters, optimizer, the cursor in the
data and the lengths of the log files. Keys need no state: they are folds of (seed, step).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from jaxrl_llm.types import TrainState

FOLDER = "checkpoints"


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


class Checkpoints:
    """The checkpoints of one run folder, one a step; a step that was not fully written does not exist."""

    def __init__(self, run_dir: str | Path, *, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager((Path(run_dir) / FOLDER).absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for what is being written."""
        self._manager.close()

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, extra: dict[str, Any]) -> None:
        """Starts to write; returns when the arrays have been copied, so that the caller may donate them."""
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(_as_dict(state)), extra=ocp.args.JsonSave(extra))
        self._manager.save(step, args=arguments)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of a step, placed as ``like`` is placed, and its JSON values.

        Raises:
          ValueError: the checkpoint is damaged or of another shape.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _as_dict(like))
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), extra=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=arguments)
        except Exception as error:  # orbax and tensorstore raise many kinds; all mean that this folder cannot be read
            raise ValueError(f"checkpoint {step} in {self._manager.directory} cannot be restored: {error}") from error
        return TrainState(**restored["state"]), restored["extra"]
