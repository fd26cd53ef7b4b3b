"""What a summary says of one arm in one cell: its numbers of each seed, means, curves, counts, a few texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxrl_llm.evaluation.metrics import benchmark_averages
from jaxrl_llm.report.effects import SHOWN_BY
from jaxrl_llm.study.plan import Arm
from jaxrl_llm.study.records import RunRecord
from jaxrl_llm.study.statistics import curves
from jaxrl_llm.study.statistics.paired import Mean, over_seeds, over_seeds_and_problems

_POINTS = 40  # of a curve
_DIGITS = 4  # of a number of a curve; other numbers have 6
_TOKENS = 200  # of the census of clipped tokens
_SAMPLES = 12
_EFFECT = "effect/"
_CURVES = (  # beside every effect/<knob>
    "reward",
    "reward_std_group",
    "reward_std_batch",
    "zero_variance_groups",
    "length",
    "truncated",
    "repeat_ratio",
    "sampled_entropy",
    "entropy",
    "loss",
    "gradient_norm",
    "kl_sampler",
    "kl_ref",
)

Numbers = list[float | None]


def rounded(value: float | None, digits: int = 6) -> float | None:
    """With that many significant digits; None for what JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def interval_of(mean: Mean | None, *, name: str = "value", share: bool = False) -> dict[str, float | None]:
    """{name, low, high}; ``share`` keeps the ends within 0 and 1."""
    if mean is None:
        return {name: None, "low": None, "high": None}
    low, high = mean.interval()
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return {name: rounded(mean.value), "low": rounded(low), "high": rounded(high)}


def accuracies(runs: Sequence[RunRecord], metric: str) -> np.ndarray:
    """The metric of every run and problem, [S, N]."""
    return np.stack([curves.metric_of(run.accuracy, metric) for run in runs])


def target_of(runs: Sequence[RunRecord]) -> float | None:
    """The accuracy at which nine tenths of what these runs gain is gained; None where they gain nothing."""
    if not runs:
        return None
    start = float(np.mean([run.accuracy[0].mean() for run in runs]))
    final = float(accuracies(runs, "final").mean())
    return start + 0.9 * (final - start) if final > start else None


def arm_entry(
    arm: Arm, runs: Sequence[RunRecord], failed: Sequence[RunRecord], missing: Sequence[int], target: float | None
) -> dict[str, Any]:
    """The part of a summary for an arm.

    Args:
      runs: that ended, by seed.
      failed: runs that did not.
      missing: seeds without a record.
      target: accuracy of the time to target; None: there is none.
    """
    per_seed = _per_seed(runs, target)
    times = per_seed["time_to_target"]
    return {
        "tricks": [
            {
                "name": trick.name,
                "title": trick.title,
                "changes": {path: plain(value) for path, value in trick.changes.items()},
                "source": trick.source,
                "claim": trick.claim,
                "code": trick.transform is not None,
            }
            for trick in arm.tricks
        ],
        "failed": [{"seed": run.seed, "reason": run.failed} for run in failed],
        "missing": list(missing),
        "per_seed": per_seed,
        "mean": {metric: _mean(runs, metric) for metric in curves.METRICS},
        "reached": {
            "median": curves.median_time(times),
            "reached": sum(time is not None for time in times),
            "of": len(times),
        },
        "evaluations": _evaluations(runs),
        "benchmarks": _benchmarks(runs),
        "curves": {name: _curve([run.curves[name] for run in runs]) for name in _recorded(runs)},
        "counts": _counts(runs),
        "samples": [dict(row) for run in runs[:1] for row in run.samples[:_SAMPLES]],
        "repeat_ratio": {"value": _average(run.curves.get("repeat_ratio") for run in runs)},
        "inert": _inert(arm, runs),
    }


def plain(value: Any) -> Any:
    """A value of a config as JSON has it; what JSON has no name for as text."""
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _per_seed(runs: Sequence[RunRecord], target: float | None) -> dict[str, list[Any]]:
    """One number a run that ended, in the order of ``seeds``."""

    def entropy(run: RunRecord) -> bool | None:
        found = run.curves.get("sampled_entropy")
        return None if found is None or not len(found) else curves.entropy_collapsed(found)

    found: dict[str, list[Any]] = {"seeds": [run.seed for run in runs]}
    for metric in curves.METRICS:
        found[metric] = [rounded(float(curves.metric_of(run.accuracy, metric).mean())) for run in runs]
    found["start"] = [rounded(float(run.accuracy[0].mean(dtype=np.float64))) for run in runs]
    found["time_to_target"] = [
        None if target is None else curves.time_to_target(run.eval_steps, run.accuracy, target) for run in runs
    ]
    found["collapsed"] = [curves.collapsed(run.accuracy) for run in runs]
    found["entropy_collapsed"] = [entropy(run) for run in runs]
    return found


def _mean(runs: Sequence[RunRecord], metric: str) -> dict[str, float | None]:
    """Over seeds and problems; without an interval where one run has ended."""
    if not runs:
        return interval_of(None)
    values = accuracies(runs, metric)
    if len(runs) == 1:
        return {"value": rounded(float(values.mean())), "low": None, "high": None}
    return interval_of(over_seeds_and_problems(values), share=True)


def _evaluations(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    if not runs:
        return _band([], np.zeros((0, 0)))
    means = np.stack([run.accuracy.mean(axis=1, dtype=np.float64) for run in runs])
    return _band(runs[0].eval_steps.tolist(), means)


def _benchmarks(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Metric -> its part in each benchmark, mean over seeds, and the plain mean of these; empty without benchmarks."""
    if not runs or not runs[0].benchmarks:
        return {}
    found = {}
    for metric in curves.METRICS:
        averages = benchmark_averages(accuracies(runs, metric).mean(axis=0), runs[0].benchmarks)
        parts = {name: float(value) for name, value in averages.items()}
        of = {name: rounded(value) for name, value in parts.items()}
        found[metric] = {"of": of, "mean": rounded(float(np.mean(list(parts.values()))))}
    return found


def _recorded(runs: Sequence[RunRecord]) -> list[str]:
    """Metrics that every run has and some step of some run has a number of, in a fixed order."""
    if not runs:
        return []
    shared = set.intersection(*(set(run.curves) for run in runs))
    effects = sorted(name for name in shared if name.startswith(_EFFECT))
    names = [name for name in (*_CURVES, *effects) if name in shared]
    return [name for name in names if any(np.isfinite(run.curves[name]).any() for run in runs)]


def _curve(values: Sequence[np.ndarray]) -> dict[str, list[Any]]:
    """The mean over seeds of at most 40 stretches of steps; step 1 is the first of a run."""
    rows = np.stack(values).astype(np.float64)  # [S, steps]
    parts = np.array_split(np.arange(rows.shape[1]), min(_POINTS, rows.shape[1]))
    means = np.stack([_finite_mean(rows[:, part], axis=1) for part in parts], axis=1)
    return _band([rounded(float(part.mean()) + 1) for part in parts], means)


def _band(steps: list[Any], values: np.ndarray) -> dict[str, list[Any]]:
    """{steps, mean, low, high} of [S, points], nan where a seed has none: 95 % intervals for new seeds."""
    found: dict[str, list[Any]] = {"steps": steps, "mean": [], "low": [], "high": []}
    for column in values.T:
        seen = column[np.isfinite(column)]
        if len(seen) >= 2:
            row = tuple(interval_of(over_seeds(seen[:, None])).values())
        else:
            row = (float(seen[0]) if len(seen) else None, None, None)
        for name, value in zip(("mean", "low", "high"), row, strict=True):
            found[name].append(rounded(value, _DIGITS))
    return found


def _finite_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The mean of the finite numbers; nan where there are none."""
    finite = np.isfinite(values)
    count = finite.sum(axis=axis)
    total = np.where(finite, values, 0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _average(found: Iterable[np.ndarray | None]) -> float | None:
    """Over all steps of all runs that have any."""
    values = [curve for curve in found if curve is not None and curve.size]
    return rounded(float(_finite_mean(np.concatenate(values)))) if values else None


def _counts(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Summed over runs; of tokens those that were clipped most often, and where none was, those there are most of."""
    found: dict[str, Any] = {}
    if runs and all("probability" in run.counts for run in runs):
        found["probability"] = np.sum([run.counts["probability"] for run in runs], axis=0, dtype=np.int64).tolist()
    if not runs or not all(run.counts.keys() >= {"clipped", "tokens"} for run in runs):
        return found
    totals: dict[str, Counter[str]] = {"clipped": Counter(), "tokens": Counter()}
    for name, total in totals.items():
        for run in runs:  # two tokens may have one text
            for text, count in zip(run.vocabulary, run.counts[name].tolist(), strict=True):
                total[text] += int(count)
    ranking = totals["clipped"] if any(totals["clipped"].values()) else totals["tokens"]
    kept = [text for text, count in ranking.most_common(_TOKENS) if count]
    return found | {name: {text: total[text] for text in kept} for name, total in totals.items()}


def _inert(arm: Arm, runs: Sequence[RunRecord]) -> list[str]:
    """Metrics of what the arm's tricks do that were 0 at every step of every run."""
    names = {trick.moves for trick in arm.tricks if trick.moves}
    names |= {_EFFECT + path.rpartition(".")[2] for trick in arm.tricks for path in trick.changes}

    def moved(name: str) -> bool | None:
        """Whether it was ever above 0; None where no run has it."""
        values = [run.curves[name] for run in runs if name in run.curves]
        return any(np.nan_to_num(value).any() for value in values) if values else None

    def shown_by(name: str) -> str:
        return _EFFECT + SHOWN_BY.get(name.removeprefix(_EFFECT), "")

    return sorted(name for name in names if moved(name) is False and not moved(shown_by(name)))
