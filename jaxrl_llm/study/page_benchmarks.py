"""The part of a study's page about several benchmarks: what each arm reached in each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrl_llm.report.html import element
from jaxrl_llm.study.figures import Look
from jaxrl_llm.study.page_verdicts import grid, named, number
from jaxrl_llm.study.words import METRICS, percent


def benchmarks(summary: Mapping[str, Any], look: Mapping[str, Look]) -> str:
    """A table for each cell, a column for each benchmark; empty where no run has several.

    The last column is the plain mean over benchmarks, what arXiv 2508.08221 calls average accuracy.
    """
    metric, parts = summary["metric"], []
    for name, cell in summary["cells"].items():
        found = {arm: row["benchmarks"][metric] for arm, row in cell["arms"].items() if row.get("benchmarks")}
        if not found:
            continue
        columns = list(dict.fromkeys(benchmark for of_arm in found.values() for benchmark in of_arm["of"]))
        rows = [
            (
                named(arm, look),
                *(number(percent(of_arm["of"].get(benchmark))) for benchmark in columns),
                number(percent(of_arm["mean"])),
            )
            for arm, of_arm in found.items()
        ]
        parts += [element("h3", name), grid(("arm", *columns, "mean of the benchmarks"), rows)]
    note = (
        f"{METRICS[metric].capitalize()}, mean over seeds. Every benchmark counts alike in the last column; in the "
        "verdicts every problem does."
    )
    return element("p", note) + "".join(parts) if parts else ""
