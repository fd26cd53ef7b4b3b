"""The keys in which two configs differ, with the values of both and, for knobs of the algorithm, both formulas."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl_llm import config as configs
from jaxrl_llm import explain
from jaxrl_llm.training.settings import Settings

_APART = "run_dir"  # two runs never share a folder: that is no difference between them


@dataclasses.dataclass(frozen=True)
class Difference:
    """A key whose values differ.

    Attributes:
      path: dotted.
      values: of the one and of the other.
      formulas: what the values mean, for a knob of the algorithm; else None.
    """

    path: str
    values: tuple[Any, Any]
    formulas: tuple[str, str] | None = None


def read(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a config file, parsed and checked.

    Raises:
      FileNotFoundError: no file at ``path``.
      ValueError: what :mod:`jaxrl_llm.config` refuses, after the name of the file.
    """
    try:
        settings = configs.parse(configs.load(path, overrides))
        configs.check(settings, devices=None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return settings


def _value(settings: Settings, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), settings)


def differences(one: Settings, other: Settings) -> list[Difference]:
    """Every key but run_dir whose values differ, in the order of configs/base.py."""
    found = []
    for path in configs.key_types():
        values = _value(one, path), _value(other, path)
        if values[0] == values[1] or path == _APART:
            continue
        section, _, name = path.rpartition(".")
        formulas = (explain.knob(one, name), explain.knob(other, name)) if section == "algorithm" else None
        found.append(Difference(path, values, formulas))
    return found


def diff(paths: tuple[str, str], overrides: Sequence[str] = ()) -> str:
    """The differences of two config files as text for a terminal.

    Args:
      paths: of the one and of the other.
      overrides: "dotted.path=value", applied to both.

    Raises:
      FileNotFoundError, ValueError: as :func:`read`.
    """
    one, other = (read(path, overrides) for path in paths)
    folders = "" if one.run_dir == other.run_dir else f" ({_APART}: {one.run_dir}, {other.run_dir})"
    found = differences(one, other)
    if not found:
        return f"no difference{folders}"
    width = max(map(len, paths))
    lines = []
    for difference in found:
        lines.append(difference.path)
        shown = [str(value) for value in difference.values]
        column = max(map(len, shown))
        for i, (path, value) in enumerate(zip(paths, shown, strict=True)):
            formula = "" if difference.formulas is None else f"  {difference.formulas[i]}"
            lines.append(f"  {path:<{width}}  {value:<{column}}{formula}".rstrip())
    return "\n".join([*lines, f"{len(found)} keys differ{folders}"])
