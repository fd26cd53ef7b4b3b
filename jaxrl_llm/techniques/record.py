"""The record of one technique, and how the templates in it are filled."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from typing import Literal

# Names that templates may hold beside knobs, and what a page shows in their place.
DERIVED = {
    "max_tokens": "max_tokens",
    "samples": "G",
    "overlong_start": "max_tokens − overlong_buffer",
    "clip_floor": "1 − clip_low",
    "clip_ceiling": "1 + clip_high",
}


@dataclasses.dataclass(frozen=True)
class Technique:
    """A knob of an algorithm, or one level of a knob of named levels.

    ``formula`` and ``meaning`` are templates: ``{clip_low}`` stands for that knob, ``{max_tokens}`` and the other names
    of :data:`DERIVED` for what follows from the rest of a config. A page shows the name there, `explain` the value.

    Attributes:
      knob: key under ``algorithm`` in configs/base.py.
      level: None for the knob itself.
      title: a few words, the heading in `explain`.
      formula: in Unicode, in the notation of docs/techniques/README.md.
      meaning: one line.
      unit: shape and unit of the value, or of what the formula gives.
      source: author, year, arXiv id of who proposed it.
      study: what arXiv 2508.08221 found, with its caveat; empty where it did not look.
      peers: how other implementations differ from this one or from the paper.
      defects: behaviour of other implementations that is wrong, with numbers.
      trap: what goes wrong silently.
      counts: what the metric "effect/<knob>" is a share of; None: the knob has no metric of its own.
    """

    knob: str
    level: str | None = None
    _: dataclasses.KW_ONLY
    title: str
    formula: str
    meaning: str
    unit: str = ""
    source: str = ""
    study: str = ""
    peers: tuple[str, ...] = ()
    defects: tuple[str, ...] = ()
    trap: str = ""
    counts: Literal["tokens", "rows", "groups", "steps"] | None = None

    @property
    def effect(self) -> str | None:
        """The metric that counts what the knob changed."""
        return None if self.counts is None else f"effect/{self.knob}"


def names(template: str) -> set[str]:
    """The names in braces of a template."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with a value for each of its names.

    Raises:
      ValueError: a name without a value.
    """
    absent = names(template) - values.keys()
    if absent:
        raise ValueError(f"template {template!r}: no value for {', '.join(sorted(absent))}")
    return template.format_map(values)
