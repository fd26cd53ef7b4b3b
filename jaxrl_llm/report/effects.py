"""Which knobs of a run changed nothing: the metrics "effect/<knob>" that were 0 at every step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl_llm.techniques import TABLE
from jaxrl_llm.training.log import read

_PREFIX = "effect/"
# A knob whose work shows in another's metric too: a group that the filter dropped, and a later round replaced.
SHOWN_BY = {"group_filter": "resample_rounds"}


def inert(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each knob that was on and changed nothing in the whole run.

    Args:
      config: of the run, as plain values.
      metrics: rows of metrics.jsonl. An effect of null was a share of nothing, such as of a step without tokens.
    """
    seen: dict[str, bool] = {}  # knob -> whether it changed anything
    for row in metrics:
        for name, value in row.items():
            if name.startswith(_PREFIX):
                knob = name.removeprefix(_PREFIX)
                seen[knob] = seen.get(knob, False) or bool(value)
    values = config.get("algorithm", {})
    return [
        f"algorithm.{knob} = {json.dumps(values.get(knob))} changed no {_counted(knob)} in the whole run"
        for knob in sorted(seen)
        if not seen[knob] and not seen.get(SHOWN_BY.get(knob, ""))
    ]


def _counted(knob: str) -> str:
    """What the metric of the knob counts, in the singular."""
    record = TABLE.get((knob, None))
    return (record.counts or "tokens").removesuffix("s") if record else "token"


def inert_of(run_dir: str | Path) -> list[str]:
    """:func:`inert` of the files of a run that `train` has just ended."""
    folder = Path(run_dir)
    return inert(json.loads((folder / "config.json").read_text()), read(folder / "metrics.jsonl"))
