"""The summary of a study: all that its page, its tables and its advice are made from, as plain JSON.

Intervals of comparisons and of accuracies speak about new seeds and new problems of the same kind; the bands of curves
about new seeds on these very problems. The rules are in docs/statistics.md.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_llm.study.plan import Cell, Comparison, Study
from jaxrl_llm.study.records import RunRecord, run_folder
from jaxrl_llm.study.statistics import CONFIDENCE, Interval, Judged, judge, over_seeds_and_problems, sentence
from jaxrl_llm.study.statistics.curves import METRICS, collapsed
from jaxrl_llm.study.summary_arms import accuracies, arm_entry, interval_of, plain, rounded, target_of
from jaxrl_llm.training import log

SCHEMA = 1
# fmt: off
_REQUIRED = (
    "name", "scale", "question", "claim", "source", "engine", "command", "seconds", "versions", "time", "devices",
    "metric", "smallest_effect", "confidence", "correction", "seeds", "problems", "steps", "run", "cells",
)
# fmt: on

Runs = Mapping[tuple[str, str], Sequence[RunRecord]]


def summarize(
    study: Study, records: Iterable[RunRecord], *, command: str, seconds: float, devices: str | None = None
) -> dict[str, Any]:
    """What a study found; the same records give the same summary, but for its time.

    Args:
      records: of this study; runs that failed too, and runs may be missing.
      command: that ran it.
      seconds: that all runs took together.
      devices: that they ran on; None: as the first run says, or else this process's.

    Raises:
      ValueError: a record of no run of this study, or of other problems or evaluations than its neighbours.
    """
    runs, failed = _sorted(study, records)
    ended = [run for of_arm in runs.values() for run in of_arm]
    settings = study.settings
    compared = [(cell, comparison) for cell in study.cells for comparison in study.comparisons]
    pairs = [_pairs(runs, cell, comparison) for cell, comparison in compared]
    judged = judge([_differences(pair, settings.metric) for pair in pairs], settings.smallest_effect)
    rows: dict[str, list[dict[str, Any]]] = {cell.name: [] for cell in study.cells}
    for (cell, comparison), pair, found in zip(compared, pairs, judged, strict=True):
        rows[cell.name].append(_comparison(study, runs, cell, comparison, pair, found))
    texts = {name: getattr(settings, name) for name in ("name", "question", "claim", "source", "engine", "metric")}
    return {
        "schema": SCHEMA,
        **texts,
        "scale": study.scale,
        "command": command,
        "seconds": round(seconds, 1),
        "versions": log.versions(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "devices": devices if devices is not None else _devices(study),
        "smallest_effect": settings.smallest_effect,
        "confidence": CONFIDENCE,
        "correction": "holm",
        "seeds": list(study.seeds),
        "problems": ended[0].accuracy.shape[1] if ended else 0,
        "steps": study.base["steps"],
        "run": dict(_flat(study.base)),
        "cells": {cell.name: _cell(study, cell, runs, failed, rows[cell.name]) for cell in study.cells},
    }


def save_summary(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Writes a summary as strict JSON, whole or not at all, each list of numbers on one line; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(_text(summary) + "\n", encoding="utf-8")
    return partial.replace(path)


def load_summary(path: str | Path) -> dict[str, Any]:
    """Reads what :func:`save_summary` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no summary, or one of another version of the library.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected the summary of a study")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(summary, dict) or "schema" not in summary:
        raise ValueError(f"{path} is not the summary of a study: it has no schema")
    if summary["schema"] != SCHEMA:
        raise ValueError(f"{path}: schema = {summary['schema']!r}, expected {SCHEMA}")
    if missing := [key for key in _REQUIRED if key not in summary]:
        raise ValueError(f"{path} is not the summary of a study: {', '.join(missing)} missing")
    return summary


def _sorted(study: Study, records: Iterable[RunRecord]) -> tuple[Runs, Runs]:
    """(Runs that ended, runs that failed) of each cell and arm, by seed."""
    planned = set(study.jobs())
    ended: dict[tuple[str, str], list[RunRecord]] = {(c.name, a.name): [] for c in study.cells for a in study.arms}
    failed: dict[tuple[str, str], list[RunRecord]] = {key: [] for key in ended}
    shapes: dict[str, tuple[list[int], int]] = {}
    seen: set[tuple[str, str, int]] = set()
    for record in sorted(records, key=lambda run: run.seed):
        name = f"record {record.cell}/{record.arm}, seed {record.seed}"
        job = (record.cell, record.arm, record.seed)
        if job not in planned or job in seen:
            raise ValueError(f"{name}: {'a second one' if job in seen else f'no run of study {study.settings.name}'}")
        seen.add(job)
        if not record.failed and not np.isfinite(record.accuracy).all():
            record = dataclasses.replace(record, failed="its accuracy is not finite")
        if record.failed:
            failed[job[:2]].append(record)
            continue
        shape = (record.eval_steps.tolist(), record.accuracy.shape[1])
        expected = shapes.setdefault(record.cell, shape)
        if shape != expected:
            raise ValueError(
                f"{name}: evaluations of {shape[1]} problems at steps {shape[0]}, expected those of the cell's other "
                f"runs, {expected[1]} problems at steps {expected[0]}"
            )
        ended[job[:2]].append(record)
    return ended, failed


def _pairs(runs: Runs, cell: Cell, comparison: Comparison) -> list[tuple[RunRecord, RunRecord]]:
    """(Run of the arm, run of the reference) of each seed that both have."""
    reference = {run.seed: run for run in runs[cell.name, comparison.reference]}
    return [(run, reference[run.seed]) for run in runs[cell.name, comparison.arm] if run.seed in reference]


def _differences(pairs: Sequence[tuple[RunRecord, RunRecord]], metric: str) -> np.ndarray:
    """[S, N], arm - reference."""
    if not pairs:
        return np.zeros((0, 0))
    ours, theirs = zip(*pairs, strict=True)
    return accuracies(ours, metric) - accuracies(theirs, metric)


def _comparison(
    study: Study,
    runs: Runs,
    cell: Cell,
    comparison: Comparison,
    pairs: Sequence[tuple[RunRecord, RunRecord]],
    judged: Judged,
) -> dict[str, Any]:
    missing = len(study.seeds) - len(pairs)
    low, high = judged.interval or (None, None)
    low_adjusted, high_adjusted = judged.adjusted or (None, None)

    def of(metric: str) -> dict[str, float | None]:
        values = _differences(pairs, metric)
        if len(values) == 1:
            return {"difference": rounded(float(values.mean())), "low": None, "high": None}
        return interval_of(over_seeds_and_problems(values) if len(values) else None, name="difference")

    def ends(interval: Interval | None) -> dict[str, float | None]:
        low, high = interval or (None, None)
        return {"low": rounded(low), "high": rounded(high)}

    return {
        "arm": comparison.arm,
        "reference": comparison.reference,
        "metric": study.settings.metric,
        "difference": rounded(judged.difference),
        "low": rounded(low),
        "high": rounded(high),
        "p": rounded(judged.p),
        "p_adjusted": rounded(judged.p_adjusted),
        "q": rounded(judged.q),
        "low_adjusted": rounded(low_adjusted),
        "high_adjusted": rounded(high_adjusted),
        "seeds_alone": ends(judged.seeds_alone),
        "bootstrap": ends(judged.bootstrap),
        "verdict": judged.verdict,
        "identical": judged.identical,
        "bound": rounded(judged.bound),
        "seeds": judged.seeds,
        "missing": missing,
        "minimum_detectable": rounded(judged.minimum_detectable),
        "more_seeds": judged.more_seeds,
        "text": sentence(
            judged,
            comparison.arm,
            comparison.reference,
            smallest_effect=study.settings.smallest_effect,
            missing=missing,
        ),
        **{metric: of(metric) for metric in METRICS},
        "collapsed": {
            role: sum(collapsed(run.accuracy) for run in runs[cell.name, arm])
            for role, arm in (("arm", comparison.arm), ("reference", comparison.reference))
        },
    }


def _cell(study: Study, cell: Cell, runs: Runs, failed: Runs, comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    reference = study.comparisons[0].reference if study.comparisons else study.arms[0].name
    target = target_of(runs[cell.name, reference])
    arms = {}
    for arm in study.arms:
        key = (cell.name, arm.name)
        seen = {run.seed for run in (*runs[key], *failed[key])}
        missing = [seed for seed in study.seeds if seed not in seen]
        arms[arm.name] = arm_entry(arm, runs[key], failed[key], missing, target)
    changes = {path: plain(value) for path, value in cell.changes.items()}
    return {"changes": changes, "target": rounded(target), "arms": arms, "comparisons": comparisons}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, plain(value)


def _devices(study: Study) -> str:
    """What the first run wrote of its devices; the engine `lab` writes nothing, and runs in this process."""
    for job in study.jobs():
        starts = log.read(run_folder(study.folder, *job) / "starts.jsonl", required=False)
        if starts:
            return starts[0]["devices"]
    return log.devices()


def _text(value: Any, indent: int = 0) -> str:
    """JSON without NaN, indented, but lists of plain values on one line."""
    inner, outer = "\n" + " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, Mapping) and value:
        lines = (f"{json.dumps(str(key), ensure_ascii=False)}: {_text(v, indent + 1)}" for key, v in value.items())
        return "{" + inner + f",{inner}".join(lines) + outer + "}"
    if isinstance(value, list | tuple) and any(isinstance(part, Mapping | list | tuple) for part in value):
        return "[" + inner + f",{inner}".join(_text(part, indent + 1) for part in value) + outer + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
