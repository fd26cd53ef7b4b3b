"""From the paired differences of a study to verdicts: helps, hurts, no difference larger than x, or undecided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxrl_llm.study import words
from jaxrl_llm.study.statistics.bootstrap import bootstrap_interval
from jaxrl_llm.study.statistics.correction import benjamini_hochberg, holm, holm_confidence
from jaxrl_llm.study.statistics.paired import CONFIDENCE, Interval, Mean, over_seeds, over_seeds_and_problems
from jaxrl_llm.study.statistics.power import detectable, more_seeds

Kind = Literal["helps", "hurts", "no_difference", "undecided"]
FEWEST_SEEDS = 3  # two differences give an interval of one degree of freedom, which is no basis for a verdict


class Judged(NamedTuple):
    """What a study found of one comparison; None where there are too few pairs to say.

    Attributes:
      verdict: see :func:`verdict_of`.
      difference: mean over seeds and problems, arm - reference.
      interval: at 95 %, for new seeds and new problems.
      adjusted: the same at the level of Holm's step; it excludes 0 exactly where Holm calls a difference.
      seeds_alone: at 95 %, for new seeds on these very problems.
      bootstrap: at 95 %, for new seeds and new problems, without Student's t.
      p: of no difference.
      p_adjusted: by Holm, over all comparisons of the study.
      q: by Benjamini and Hochberg, likewise.
      bound: with 95 % confidence the true difference is at most this large, in either direction.
      seeds: pairs of runs.
      minimum_detectable: the smallest true difference that would most likely have been called, power 0.8.
      more_seeds: about how many more seeds would decide; None where it is decided, or where seeds cannot.
      identical: every difference of every seed and problem is exactly 0.
    """

    verdict: Kind
    difference: float | None
    interval: Interval | None
    adjusted: Interval | None
    seeds_alone: Interval | None
    bootstrap: Interval | None
    p: float | None
    p_adjusted: float | None
    q: float | None
    bound: float | None
    seeds: int
    minimum_detectable: float | None
    more_seeds: int | None
    identical: bool


class _Corrected(NamedTuple):
    """One comparison among all: adjusted p-value, q-value, confidence of the interval that goes with the first."""

    p: float
    q: float
    confidence: float


def verdict_of(interval: Interval, adjusted: Interval, smallest_effect: float) -> Kind:
    """The kind of verdict.

    helps, hurts: the interval after correction lies above, below 0. Else no_difference: the plain 95 % interval lies
    within ±smallest_effect, which is stricter than two one-sided tests at 5 % (their interval is that of 90 %). Else
    undecided. Equivalence is claimed of each comparison by itself, without correction.

    Reference: Schuirmann, 1987, "A comparison of the two one-sided tests procedure ..."
    """
    if adjusted.low > 0:
        return "helps"
    if adjusted.high < 0:
        return "hurts"
    if -smallest_effect <= interval.low and interval.high <= smallest_effect:
        return "no_difference"
    return "undecided"


def judge(differences: Sequence[np.ndarray], smallest_effect: float) -> list[Judged]:
    """The verdicts on all comparisons of a study, corrected together.

    Args:
      differences: of each comparison [S, N], arm - reference, a row for each seed that both have; S may be 0.
      smallest_effect: in accuracy; a smaller difference does not matter.
    """
    means = [over_seeds_and_problems(values) if len(values) >= 2 else None for values in differences]
    p = {i: mean.p() for i, mean in enumerate(means) if mean and len(differences[i]) >= FEWEST_SEEDS}
    listed = list(p.values())
    columns = zip(holm(listed), benjamini_hochberg(listed), holm_confidence(listed, CONFIDENCE), strict=True)
    corrected = {i: _Corrected(*map(float, row)) for i, row in zip(p, columns, strict=True)}
    return [
        _judged(values, mean, corrected[i], len(p), smallest_effect)
        if mean and i in corrected
        else _too_few(values, mean)
        for i, (values, mean) in enumerate(zip(differences, means, strict=True))
    ]


def _judged(values: np.ndarray, mean: Mean, corrected: _Corrected, comparisons: int, effect: float) -> Judged:
    seeds = len(values)
    interval, adjusted = mean.interval(), mean.interval(corrected.confidence)
    verdict = verdict_of(interval, adjusted, effect)
    wanted = max(effect, abs(mean.value))
    return Judged(
        verdict=verdict,
        difference=mean.value,
        interval=interval,
        adjusted=adjusted,
        seeds_alone=over_seeds(values).interval(),
        bootstrap=bootstrap_interval(values),
        p=mean.p(),
        p_adjusted=corrected.p,
        q=corrected.q,
        bound=max(abs(interval.low), abs(interval.high)),
        seeds=seeds,
        minimum_detectable=detectable(mean.error, mean.freedom, comparisons=comparisons),
        more_seeds=more_seeds(mean, seeds, wanted, comparisons=comparisons) if verdict == "undecided" else None,
        identical=not values.any(),
    )


def _too_few(values: np.ndarray, mean: Mean | None) -> Judged:
    """Undecided, with what can be said at all."""
    return Judged(
        verdict="undecided",
        difference=float(values.mean(dtype=np.float64)) if len(values) else None,
        interval=mean.interval() if mean else None,
        adjusted=None,
        seeds_alone=over_seeds(values).interval() if mean else None,
        bootstrap=None,
        p=None,
        p_adjusted=None,
        q=None,
        bound=None,
        seeds=len(values),
        minimum_detectable=None,
        more_seeds=FEWEST_SEEDS - len(values),
        identical=bool(len(values)) and not values.any(),
    )


def sentence(judged: Judged, arm: str, reference: str, *, smallest_effect: float, missing: int = 0) -> str:
    """The verdict as one sentence for a reader, in points of accuracy."""
    gone = f"; {missing} of {judged.seeds + missing} pairs are missing" if missing else ""
    if judged.difference is None or judged.adjusted is None or judged.interval is None:
        had = f"{judged.seeds} pair{'' if judged.seeds == 1 else 's'} of runs"
        return f"{arm} against {reference}: undecided, {had}; a verdict needs {FEWEST_SEEDS}{gone}."
    if judged.identical:
        return f"{arm} and {reference} are identical: no difference in any answer of {judged.seeds} seeds{gone}."
    numbers = f"{words.points(judged.difference)} points, 95 % interval {words.interval(*judged.interval)}"
    if judged.verdict in ("helps", "hurts"):
        small = max(abs(judged.adjusted.low), abs(judged.adjusted.high)) < smallest_effect
        less = f", by less than the {100 * smallest_effect:g} points that matter" if small else ""
        said = (
            f"{arm} {judged.verdict} against {reference}{less}: {numbers}, corrected {words.interval(*judged.adjusted)}"
        )
    elif judged.verdict == "no_difference":
        said = f"{arm} against {reference}: no difference larger than {100 * (judged.bound or 0):.1f} points: {numbers}"
    elif judged.more_seeds is None:
        said = f"{arm} against {reference}: undecided, and only more held-out problems can decide it: {numbers}"
    else:
        seeds = f"about {judged.more_seeds} more seed{'' if judged.more_seeds == 1 else 's'}"
        said = f"{arm} against {reference}: undecided, needs {seeds}: {numbers}"
    return f"{said}{gone}."
