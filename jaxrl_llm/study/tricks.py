"""Tricks by name, and what they make of a run's config."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxrl_llm import config as configs
from jaxrl_llm import schema
from jaxrl_llm.study.catalogue import CATALOGUE
from jaxrl_llm.study.catalogue.record import Share, Trick

__all__ = ["CATALOGUE", "Share", "Trick", "apply", "changes_of", "get", "get_value", "set_values"]


def get(name: str | Trick, own: Sequence[Trick] = ()) -> Trick:
    """The trick of a name, of ``own`` or of the catalogue; a trick is itself.

    Raises:
      ValueError: there is none, and what is near; or one of ``own`` has a name of the catalogue.
    """
    if isinstance(name, Trick):
        return name
    for trick in own:
        if trick.name in CATALOGUE:
            raise ValueError(f"own trick {trick.name}: a trick of the catalogue has this name; expected another")
    named = {**CATALOGUE, **{trick.name: trick for trick in own}}
    if name not in named:
        near = difflib.get_close_matches(name, named, n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"{len(named)} are in jaxrl_llm/study/catalogue"
        raise ValueError(f"unknown trick {name!r}; {hint}")
    return named[name]


def changes_of(config: Mapping[str, Any], tricks: Sequence[Trick]) -> dict[str, Any]:
    """Dotted path -> value of all that some tricks set together, each value as its key's type.

    Args:
      config: of the run, as plain values, for what is a share of another key's value.

    Raises:
      ValueError: a path that no config has, a value of the wrong type, two tricks that set one key to different values
        or that exclude each other, or more than one transform.
    """
    kinds = configs.key_types()
    values: dict[str, Any] = {}
    setter: dict[str, str] = {}
    for trick in tricks:
        for other in tricks:
            if other.name in trick.excludes:
                raise ValueError(f"tricks {trick.name} and {other.name} exclude each other")
    everything = [(trick.name, path, value) for trick in tricks for path, value in trick.sets.items()]
    for name, path, value in sorted(everything, key=lambda one: isinstance(one[2], Share)):
        try:
            if isinstance(value, Share):
                whole = values[value.of] if value.of in values else get_value(config, value.of)
                value = math.floor(value.share * whole)
            if path not in kinds:
                raise schema.unknown(path, kinds)
            value = schema.convert(path, value, kinds[path])
        except ValueError as error:
            raise ValueError(f"trick {name}: {error}") from None
        if path in values and values[path] != value:
            raise ValueError(
                f"tricks {setter[path]} and {name} set {path} to {values[path]!r} and {value!r}: expected one value"
            )
        values[path], setter[path] = value, name
    if len(moved := [trick.name for trick in tricks if trick.transform]) > 1:
        raise ValueError(f"tricks {', '.join(moved)} each transform the batch: expected one such trick in an arm")
    return values


def _holder(config: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """The section of a key, and the key's name in it."""
    *parents, name = path.split(".")
    holder: Any = config
    for parent in parents:
        holder = holder.get(parent) if isinstance(holder, Mapping) else None
    if not isinstance(holder, Mapping) or name not in holder or isinstance(holder[name], Mapping):
        raise schema.unknown(path, configs.key_types())
    return holder, name


def get_value(config: Mapping[str, Any], path: str) -> Any:
    """The value of a key of a run's config, by its dotted path.

    Raises:
      ValueError: a path that the config does not have.
    """
    holder, name = _holder(config, path)
    return holder[name]


def set_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a run's config, as plain values, with some keys set by their dotted paths.

    Raises:
      ValueError: a path that the config does not have.
    """
    result = copy.deepcopy(dict(config))
    for path, value in values.items():
        holder, name = _holder(result, path)
        holder[name] = value
    return result


def apply(config: ConfigDict, tricks: Sequence[Trick]) -> ConfigDict:
    """A copy of a run's config with all that some tricks set.

    Raises:
      ValueError: as :func:`changes_of`.
    """
    plain = config.to_dict()
    return ConfigDict(set_values(plain, changes_of(plain, tricks)))
