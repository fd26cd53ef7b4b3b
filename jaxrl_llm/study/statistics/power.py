"""What a study of a given size can see, and how large one must be to see a given effect."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import optimize, stats

from jaxrl_llm.study.statistics.paired import CONFIDENCE, Mean

POWER = 0.8
_MOST_SEEDS = 1_000_000
_MOST_FREEDOM = 10_000  # Student's t is normal beyond, to four digits


def detectable(
    error: float, freedom: float, *, comparisons: int = 1, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """The true difference that a two-sided t-test calls with probability ``power``.

    Args:
      error: standard error of the difference.
      freedom: its degrees of freedom.
      comparisons: m; the test is at level (1 - confidence) / m, Bonferroni's and the first step of Holm's.
    """
    freedom = min(freedom, _MOST_FREEDOM)
    quantile = float(stats.t.ppf(1 - (1 - confidence) / comparisons / 2, freedom))

    def missing(shift: float) -> float:
        # the other side of the test adds less than a thousandth here, and scipy loses precision there
        return float(stats.nct.sf(quantile, freedom, shift)) - power

    top = quantile + 2.0
    while missing(top) < 0:
        top *= 1.5
    return error * float(optimize.brentq(missing, 0.0, top, xtol=1e-6))  # type: ignore[arg-type]


def minimum_detectable(
    spread: float, seeds: int, comparisons: int = 1, *, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """The smallest true difference that a study of that many seeds would most likely show.

    Args:
      spread: standard deviation, over seeds, of the difference of two arms.
      comparisons: of the study, as in :func:`detectable`.

    Returns:
      In the unit of ``spread``; infinity for fewer than 2 seeds, which have no spread.
    """
    _check(spread, comparisons)
    if seeds < 2:
        return math.inf
    return detectable(spread / math.sqrt(seeds), seeds - 1, comparisons=comparisons, power=power, confidence=confidence)


def seeds_needed(
    spread: float, effect: float, comparisons: int = 1, *, power: float = POWER, confidence: float = CONFIDENCE
) -> int:
    """The number of seeds, at least 3, with which a true difference of ``effect`` is most likely seen.

    Raises:
      ValueError: ``effect`` is not above 0, or so small against ``spread`` that over a million seeds are needed.
    """
    _check(spread, comparisons)
    if not effect > 0:
        raise ValueError(f"effect = {effect!r}: expected a difference above 0")

    def seen(seeds: int) -> bool:
        wanted = minimum_detectable(spread, seeds, comparisons, power=power, confidence=confidence)
        return wanted <= effect

    found = _smallest(seen)
    if found is None:
        raise ValueError(f"effect = {effect!r} with spread = {spread!r} needs more than {_MOST_SEEDS:,} seeds")
    return found


def more_seeds(mean: Mean, seeds: int, effect: float, *, comparisons: int = 1) -> int | None:
    """How many seeds beside the ``seeds`` of a comparison would most likely show a true difference of ``effect``.

    Returns:
      At least 1; None where no number of seeds would, since what is left is the spread over problems.
    """

    def seen(count: int) -> bool:
        by_seed = mean.seed_variance * seeds / count
        error = math.sqrt(by_seed + mean.problem_variance)
        # problems are many; with few seeds it is the seeds' part that is known badly
        share = by_seed / (by_seed + mean.problem_variance) if error > 0 else 1.0
        freedom = (count - 1) / max(share * share, 1e-3)
        return detectable(error, freedom, comparisons=comparisons) <= effect

    found = _smallest(seen)
    return None if found is None else max(found - seeds, 1)


def _smallest(holds: Callable[[int], bool]) -> int | None:
    """The smallest number of seeds from 3 on for which a condition holds that, once true, stays so."""
    low, high = 2, 3
    while not holds(high):
        low, high = high, 2 * high
        if low > _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _check(spread: float, comparisons: int) -> None:
    if not (math.isfinite(spread) and spread >= 0):
        raise ValueError(f"spread = {spread!r}: expected a standard deviation, 0 or more")
    if comparisons < 1:
        raise ValueError(f"comparisons = {comparisons!r}: expected at least 1")
