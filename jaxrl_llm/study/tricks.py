"""A trick: a named difference between two configs, and what is claimed of it."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from jaxrl_llm import config as configs
from jaxrl_llm import schema

if TYPE_CHECKING:
    from jaxrl_llm.types import TrainBatch

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Trick:
    """A named difference between two configs.

    Attributes:
      name: in snake_case.
      changes: dotted path of a run's config -> value; in the catalogue, of algorithm, sampling and reward alone.
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


def find(name: str, tricks: Iterable[Trick]) -> Trick:
    """The trick of a name.

    Raises:
      ValueError: there is none; it names those that are near.
    """
    named = {trick.name: trick for trick in tricks}
    if name not in named:
        near = difflib.get_close_matches(name, named, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else f"; there are {len(named)} in jaxrl_llm/study/catalogue"
        raise ValueError(f"unknown trick {name!r}{hint}")
    return named[name]


def changes_of(tricks: Sequence[Trick]) -> dict[str, Any]:
    """Dotted path -> value of all that some tricks set together, each value as its key's type.

    Raises:
      ValueError: a path that no config has, a value of the wrong type, two tricks that set one key to different values
        or that exclude each other, or more than one transform.
    """
    kinds = configs.key_types()
    values: dict[str, Any] = {}
    setter: dict[str, Trick] = {}
    for trick in tricks:
        for other in tricks:
            if other.name in trick.excludes:
                raise ValueError(f"tricks {trick.name} and {other.name} exclude each other")
        for path, value in trick.sets.items():
            if path not in kinds:
                raise ValueError(f"trick {trick.name}: {schema.unknown(path, kinds)}")
            try:
                value = schema.convert(path, value, kinds[path])
            except ValueError as error:
                raise ValueError(f"trick {trick.name}: {error}") from None
            if path in values and values[path] != value:
                raise ValueError(
                    f"tricks {setter[path].name} and {trick.name} set {path} to {values[path]!r} and {value!r}: "
                    "expected one value"
                )
            values[path], setter[path] = value, trick
    if (moved := [trick.name for trick in tricks if trick.transform]) and len(moved) > 1:
        raise ValueError(f"tricks {', '.join(moved)} each transform the batch: expected one such trick in an arm")
    return values


def set_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a run's config, as plain values, with some keys set by their dotted paths.

    Raises:
      ValueError: a path that the config does not have.
    """
    result = copy.deepcopy(dict(config))
    for path, value in values.items():
        *parents, name = path.split(".")
        holder: Any = result
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or name not in holder:
            raise schema.unknown(path, configs.key_types())
        holder[name] = value
    return result


def apply(config: ConfigDict, tricks: Sequence[Trick]) -> ConfigDict:
    """A copy of a run's config with all that some tricks set.

    Raises:
      ValueError: as :func:`changes_of`.
    """
    return ConfigDict(set_values(config.to_dict(), changes_of(tricks)))
