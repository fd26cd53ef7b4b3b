"""A trick: a named difference between two configs, and what is claimed of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl_llm.types import TrainBatch

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Share:
    """⌊share · value of the key ``of``⌋, for a value of a trick that goes with the size of the run."""

    share: float
    of: str

    def __str__(self) -> str:
        return f"{self.share:g} × {self.of}"


@dataclasses.dataclass(frozen=True)
class Trick:
    """A named difference between two configs.

    Attributes:
      name: in snake_case.
      changes: dotted path of a run's config -> value, or a :class:`Share` of another key's; in the catalogue, of
        algorithm, sampling and reward alone.
      title: a few words.
      source: author, year, arXiv id of who proposed it.
      claim: what has been found of it.
      neutral: other values of the same keys with which it does nothing, bit for bit; None: only the base's own values
        are neutral.
      needs: dotted path -> value that must be set too for the changes to be read; set with them, and no part of what
        is claimed: a study that wants the changes alone has the needs in its base.
      excludes: names of tricks that do not go with it, beyond what the knobs themselves refuse.
      moves: the metric that is above 0 when the trick does something; empty: none counts it.
      transform: a user's own idea as code: what it makes of the batch of a rollout step, after all else and before
        mini-batches; it runs under jit, in the engine `lab` only.

    Raises:
      ValueError: a name that is not snake_case, or nothing that it changes.
    """

    name: str
    changes: Mapping[str, Any]
    _: dataclasses.KW_ONLY
    title: str = ""
    source: str = ""
    claim: str = ""
    neutral: Mapping[str, Any] | None = None
    needs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    excludes: tuple[str, ...] = ()
    moves: str = ""
    transform: Callable[[TrainBatch], TrainBatch] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"trick {self.name!r}: expected a name in snake_case, such as clip_higher")
        if not self.changes and self.transform is None:
            raise ValueError(f"trick {self.name}: expected changes, or a transform of the batch")
        if self.neutral is not None and self.neutral.keys() != self.changes.keys():
            raise ValueError(
                f"trick {self.name}: neutral is of {sorted(self.neutral)}, expected the keys of changes, "
                f"{sorted(self.changes)}"
            )

    @property
    def sets(self) -> dict[str, Any]:
        """Dotted path -> value of all that it sets: needs, and changes."""
        return {**self.needs, **self.changes}
