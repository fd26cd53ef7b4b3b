"""One table of techniques: for each knob of an algorithm, and each of its levels, what is known of it.

`explain` and `diff` take their formulas from here, and ``python -m jaxrl_llm.techniques docs/techniques`` writes the
pages of the documentation.
"""

from __future__ import annotations

from collections.abc import Iterable

from jaxrl_llm.techniques import (
    aggregation,
    baselines,
    clips,
    critic,
    kl,
    mismatch,
    rewards,
    scales,
    surrogates,
)
from jaxrl_llm.techniques.record import DERIVED, Technique, fill, names

__all__ = ["DERIVED", "FAMILIES", "TABLE", "Technique", "fill", "get", "names"]

FAMILIES: dict[str, tuple[Technique, ...]] = {
    "Rewards": rewards.RECORDS,
    "Baseline": baselines.RECORDS,
    "Scale, discount, whitening": scales.RECORDS,
    "Critic": critic.RECORDS,
    "Policy loss": surrogates.RECORDS,
    "Ratio, clips and token masks": clips.RECORDS,
    "Sampler and trainer": mismatch.RECORDS,
    "KL and entropy": kl.RECORDS,
    "Aggregation and filters": aggregation.RECORDS,
}


def _table(records: Iterable[Technique]) -> dict[tuple[str, str | None], Technique]:
    table: dict[tuple[str, str | None], Technique] = {}
    for record in records:
        if table.setdefault((record.knob, record.level), record) is not record:
            raise ValueError(f"two records of algorithm.{record.knob}, level {record.level}: expected one")
    return table


TABLE = _table(record for records in FAMILIES.values() for record in records)


def get(knob: str, level: str | None = None) -> Technique:
    """The record of a knob, or of one of its levels.

    Raises:
      ValueError: there is none.
    """
    if (knob, level) not in TABLE:
        raise ValueError(f"algorithm.{knob}, level {level}: expected a knob of configs/base.py and one of its levels")
    return TABLE[knob, level]
