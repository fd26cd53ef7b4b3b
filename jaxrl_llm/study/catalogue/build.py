"""Tricks from knobs: what the table of techniques knows of a knob is not written again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrl_llm import techniques
from jaxrl_llm.study.catalogue.record import Trick


def dotted(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keys without a section are knobs of the algorithm."""
    return {key if "." in key else f"algorithm.{key}": value for key, value in changes.items()}


def of_knob(
    name: str,
    changes: Mapping[str, Any],
    *,
    knob: str | None = None,
    title: str | None = None,
    neutral: Mapping[str, Any] | None = None,
    needs: Mapping[str, Any] | None = None,
    excludes: tuple[str, ...] = (),
    moves: str | None = None,
) -> Trick:
    """A trick of knobs of the algorithm, with source, claim and metric of the knob it is about.

    Args:
      changes: knobs, and keys of other sections with their dots; so in ``neutral`` and ``needs``.
      knob: that it is about; None: the first of ``changes``.
      title: None: the knob's, and the value.
      moves: None: the knob's own metric, if its level is one that has it.
    """
    knob = knob or next(iter(changes))
    value = changes[knob]
    table = techniques.TABLE
    of_all, of_level = table[knob, None], table.get((knob, value), table[knob, None])
    if title is None:
        title = of_all.title if value is True else f"{of_all.title}: {value}"
    if moves is None:
        moves = "" if value == "none" or of_all.effect is None else of_all.effect
    return Trick(
        name,
        dotted(changes),
        title=title,
        source=of_level.source or of_all.source,
        claim=of_level.study or of_all.study,
        neutral=None if neutral is None else dotted(neutral),
        needs=dotted(needs or {}),
        excludes=excludes,
        moves=moves,
    )
