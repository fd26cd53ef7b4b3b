"""Checkpoints: arrays by orbax, the rest of the state as JSON beside them, written while training goes on.

A checkpoint holds all that a run needs to go on as if it had never stopped: parameters, optimizer, the cursor in the
data and the lengths of the log files. Keys need no state: they are folds of (seed, step). Of a policy with an adapter
it holds the adapter alone; the base stays where it was loaded from.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from jaxrl_llm.types import Params, TrainState

FOLDER = "checkpoints"


def _items(state: TrainState) -> dict[str, Any]:
    """Parameters apart from the rest, so that an export can read them alone; nothing frozen."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)} | {"frozen": {}}
    return {"params": fields.pop("params"), "state": fields}


def require_base(extra: dict[str, Any], base: str, source: str) -> None:
    """Refuses a model that is not the one that a checkpoint's run began from.

    Args:
      extra: JSON values of the checkpoint; those of earlier versions say nothing of it.
      base: fingerprint of the model, see :func:`jaxrl_llm.models.hub.fingerprint`.
      source: where it lies, for the message.

    Raises:
      ValueError: the fingerprints differ.
    """
    found = extra.get("base", base)
    if found != base:
        raise ValueError(
            f"model.source = {source!r} has fingerprint {base}, but the run began from {found}: expected the files of "
            "that model as they were"
        )


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


class Checkpoints:
    """The checkpoints of one run folder, one a step; a step that was not fully written does not exist."""

    def __init__(self, run_dir: str | Path, *, keep: int | None = None, read_only: bool = False):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=not read_only, cleanup_tmp_directories=not read_only, read_only=read_only
        )
        self._manager = ocp.CheckpointManager((Path(run_dir) / FOLDER).absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for what is being written."""
        self._manager.close()

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def preempted(self, step: int) -> bool:
        """Whether one of several processes was sent SIGTERM, and this is the step after which all stop.

        Every process asks after every step. A process that is alone ends at the signal and never gets here.
        """
        return self._manager.reached_preemption(step)

    def save(self, step: int, state: TrainState, extra: dict[str, Any]) -> None:
        """Starts to write; returns when the arrays have been copied, so that the caller may donate them."""
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        self._manager.save(step, args=ocp.args.Composite(**items, extra=ocp.args.JsonSave(extra)))

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of a step, placed as ``like`` is placed, and its JSON values.

        Args:
          like: donated, but for what is frozen of it: memory seldom holds two states.

        Raises:
          ValueError: the checkpoint is damaged or of another shape.
        """
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in _items(like).items()}
        for array in jax.tree.leaves(_items(like)):
            array.delete()
        restored = self._restore(step, **items, extra=ocp.args.JsonRestore())
        state = TrainState(params=restored["params"], **restored["state"] | {"frozen": like.frozen})
        return state, restored["extra"]

    def restore_params(self, abstract: Params) -> tuple[Params, dict[str, Any]]:
        """The parameters of the last step, placed as the shapes in ``abstract`` say, and its JSON values.

        A run that goes on may delete that step while it is read (``checkpoint.keep``): the one that is last by then is
        read in its place, with a line on stderr.

        Raises:
          FileNotFoundError: there is no checkpoint, or none any more.
          ValueError: as :meth:`restore` says.
        """
        while (step := self.latest) is not None:
            try:
                items = {"params": ocp.args.StandardRestore(abstract), "extra": ocp.args.JsonRestore()}
                restored = self._restore(step, **items)
                return restored["params"], restored["extra"]
            except ValueError:
                self._manager.reload()
                if self.latest == step:  # it is still there, and damaged
                    raise
                then = "none is left" if self.latest is None else f"checkpoint {self.latest} is read instead"
                print(f"checkpoint {step} in {self._manager.directory} went while it was read: {then}", file=sys.stderr)
        raise FileNotFoundError(f"no checkpoint in {self._manager.directory}")

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax and tensorstore raise many kinds; all mean that this folder cannot be read
            raise ValueError(f"checkpoint {step} in {self._manager.directory} cannot be restored: {error}") from error
