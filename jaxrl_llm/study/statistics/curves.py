"""What a run comes to: numbers of its evaluations on held-out problems, one a run, by stated rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

METRICS = ("final", "area", "best")
_RUNNING = 3  # evaluations of a running value
_LOST = 0.1  # accuracy
_LOST_SHARE = 0.5  # of what had been gained
_BELOW_START = 0.05  # accuracy
_ENTROPY_LEFT = 0.1  # of the entropy that the run began with
_ENTROPY_WINDOW = 0.1  # of the steps


def metric_of(accuracy: np.ndarray, metric: str) -> np.ndarray:
    """One number a problem, [N], of a run's evaluations [E, N], whose mean is the run's metric.

    Args:
      metric: final (mean of the last quarter of the evaluations after step 0, at least one), area (mean of all after
        step 0), or best (the evaluation of the highest mean; the first of several). A run with no evaluation after
        step 0 has its only one.

    Raises:
      ValueError: another metric.
    """
    after = accuracy[1:] if len(accuracy) > 1 else accuracy
    if metric == "final":
        return after[-max(1, len(after) // 4) :].mean(axis=0, dtype=np.float64)
    if metric == "area":
        return after.mean(axis=0, dtype=np.float64)
    if metric == "best":
        return after[np.argmax(after.mean(axis=1, dtype=np.float64))].astype(np.float64)
    raise ValueError(f"metric = {metric!r}: expected one of {', '.join(METRICS)}")


def running(accuracy: np.ndarray) -> np.ndarray:
    """The mean accuracy of each evaluation after step 0 and up to two before it, also after step 0; [E - 1]."""
    means = accuracy[1:].mean(axis=1, dtype=np.float64)
    sums = np.cumsum(np.concatenate([[0.0], means]))
    ends = np.arange(1, len(means) + 1)
    starts = np.maximum(ends - _RUNNING, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def time_to_target(steps: np.ndarray, accuracy: np.ndarray, target: float) -> int | None:
    """The first evaluation's step at which the running accuracy is at the target; None: not within the run."""
    reached = np.flatnonzero(running(accuracy) >= target)
    return int(steps[1 + reached[0]]) if reached.size else None


def median_time(times: Sequence[int | None]) -> float | None:
    """The median steps to a target over runs, those that never got there counted as infinite; None: it is infinite.

    Leaving those runs out would praise the arm of which only the luckiest run arrives.
    """
    if not times:
        return None
    median = float(np.median([np.inf if time is None else time for time in times]))
    return median if np.isfinite(median) else None


def collapsed(accuracy: np.ndarray) -> bool:
    """Whether a run lost what it had: final < best - max(0.1, (best - start) / 2), or final < start - 0.05.

    ``best`` is the highest running accuracy: the highest single evaluation is partly luck. ``start`` is step 0.
    """
    if len(accuracy) < 2:
        return False
    start, final = float(accuracy[0].mean()), float(metric_of(accuracy, "final").mean())
    best = float(running(accuracy).max())
    return final < best - max(_LOST, _LOST_SHARE * (best - start)) or final < start - _BELOW_START


def entropy_collapsed(entropy: np.ndarray) -> bool | None:
    """Whether the mean entropy of the last tenth of the steps is under a tenth of that of the first tenth.

    Apart from :func:`collapsed`: a policy that has learned a simple task has little entropy and high accuracy.

    Args:
      entropy: [steps], nats a token; nan where a step has none.

    Returns:
      None where either end has no entropy.
    """
    count = max(1, int(_ENTROPY_WINDOW * len(entropy)))
    first, last = (part[np.isfinite(part)] for part in (entropy[:count], entropy[-count:]))
    if not first.size or not last.size:
        return None
    return bool(last.mean() < _ENTROPY_LEFT * first.mean())
