"""Verdicts: which is given when, that it agrees with its interval, and what its sentence says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxrl_llm.study.statistics import Interval, judge, sentence
from jaxrl_llm.study.statistics.verdicts import Judged, verdict_of

SMALLEST = 0.02


def differences(mean: float, spread: float, seeds: int = 16, problems: int = 32, *, seed: int = 0) -> np.ndarray:
    """[S, N] whose mean over all is exactly ``mean`` and whose seeds have exactly that spread."""
    generator = np.random.default_rng(seed)
    by_seed = generator.standard_normal(seeds)
    by_seed = (by_seed - by_seed.mean()) / by_seed.std(ddof=1)
    rest = generator.standard_normal((seeds, problems))
    rest -= rest.mean(axis=0, keepdims=True)
    rest -= rest.mean(axis=1, keepdims=True)
    return mean + spread * by_seed[:, None] + 1e-3 * rest


def said(judged: Judged, missing: int = 0) -> str:
    return sentence(judged, "ours", "base", smallest_effect=SMALLEST, missing=missing)


@pytest.mark.parametrize(
    ("mean", "spread", "verdict", "words"),
    [
        (0.05, 0.04, "helps", "ours helps against base: +5.0 points, 95 % interval [+2.9, +7.1]"),
        (-0.05, 0.04, "hurts", "ours hurts against base: −5.0 points"),
        (0.004, 0.02, "no_difference", "ours against base: no difference larger than 1.5 points: +0.4 points"),
        (0.02, 0.1, "undecided", "ours against base: undecided, needs about"),
        (0.01, 0.005, "helps", "ours helps against base, by less than the 2 points that matter: +1.0 points"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_smallest_effect(mean, spread, verdict, words):
    (found,) = judge([differences(mean, spread)], SMALLEST)
    assert found.verdict == verdict
    assert said(found).startswith(words)
    assert found.difference == pytest.approx(mean)
    # one comparison: the paired t-test, and nothing to correct
    assert found.p == pytest.approx(2 * stats.t.sf(abs(mean) / (spread / 4), 15), rel=1e-6)
    assert found.p_adjusted == found.q == found.p
    assert found.adjusted == pytest.approx(found.interval)
    assert (found.more_seeds is None) == (verdict != "undecided")


@pytest.mark.parametrize(
    ("interval", "adjusted", "verdict"),
    [
        ((0.001, 0.05), (-0.01, 0.06), "undecided"),
        ((0.001, 0.019), (-0.01, 0.03), "no_difference"),
        ((-0.02, 0.02), (-0.03, 0.03), "no_difference"),
        ((-0.021, 0.01), (-0.03, 0.02), "undecided"),
        ((0.01, 0.03), (0.0, 0.04), "undecided"),
        ((-0.05, -0.01), (-0.06, -0.001), "hurts"),
    ],
)
def test_differences_are_called_after_correction_and_equivalence_before(interval, adjusted, verdict):
    assert verdict_of(Interval(*interval), Interval(*adjusted), SMALLEST) == verdict


def test_calls_corrected_p_values_and_corrected_intervals_agree_over_many_comparisons():
    generator = np.random.default_rng(3)
    of_study = [
        differences(mean, 0.04, seed=i) for i, mean in enumerate(generator.normal(0.03, 0.015, size=10).tolist())
    ]
    judged = judge(of_study, SMALLEST)
    called = [found.verdict in ("helps", "hurts") for found in judged]
    assert 2 < sum(called) < 8, "some are called and some are not"
    for found, is_called in zip(judged, called, strict=True):
        assert found.adjusted is not None and found.interval is not None
        assert found.p_adjusted is not None and found.p is not None and found.q is not None
        assert is_called == (found.p_adjusted < 0.05) == (found.adjusted.low > 0 or found.adjusted.high < 0)
        assert found.adjusted.low <= found.interval.low <= found.interval.high <= found.adjusted.high
        assert found.p <= found.q <= found.p_adjusted
    uncorrected = judge([of_study[0]], SMALLEST)[0]
    assert uncorrected.interval == judged[0].interval
    assert judged[0].minimum_detectable > uncorrected.minimum_detectable  # type: ignore[operator]


def test_identical_arms_are_said_to_be_identical():
    for found in judge([np.zeros((16, 8)), differences(0.05, 0.02)], SMALLEST)[:1]:
        assert (found.verdict, found.identical, found.difference, found.p) == ("no_difference", True, 0, 1)
        assert found.bound == found.minimum_detectable == 0
        assert said(found) == "ours and base are identical: no difference in any answer of 16 seeds."


@pytest.mark.parametrize(("seeds", "words"), [(0, "0 pairs"), (1, "1 pair of"), (2, "2 pairs")])
def test_fewer_than_three_pairs_are_undecided_and_do_not_count_as_comparisons(seeds, words):
    few, enough = differences(0.5, 0.01, 2)[:seeds], differences(0.05, 0.04)
    found, other = judge([few, enough], SMALLEST)
    assert (found.verdict, found.seeds, found.more_seeds, found.p, found.adjusted) == (
        "undecided",
        seeds,
        3 - seeds,
        None,
        None,
    )
    assert (found.difference is None, found.interval is None) == (seeds == 0, seeds < 2)
    assert words in said(found)
    assert other.p_adjusted == other.p


def test_missing_pairs_are_said():
    (found,) = judge([differences(0.05, 0.04)], SMALLEST)
    assert said(found, missing=2).endswith("; 2 of 18 pairs are missing.")


def test_where_problems_are_too_few_more_seeds_are_not_asked_for():
    generator = np.random.default_rng(0)
    values = generator.choice([-0.3, 0.3], size=(1, 16)) + 0.01 * generator.standard_normal((16, 16))
    (found,) = judge([values], SMALLEST)
    assert (found.verdict, found.more_seeds) == ("undecided", None)
    assert "only more held-out problems can decide it" in said(found)


def test_a_study_that_adds_the_seeds_it_was_told_decides_four_times_in_five():
    generator = np.random.default_rng(0)
    spread, true = 0.06, 0.03
    (first,) = judge([differences(true, spread)], SMALLEST)
    assert first.verdict == "undecided" and first.more_seeds is not None
    seeds = 16 + first.more_seeds
    drawn = true + spread * generator.standard_normal((400, seeds, 1))
    called = np.asarray(stats.ttest_1samp(drawn[:, :, 0], 0, axis=1)[1]) < 0.05
    assert np.mean(called) == pytest.approx(0.8, abs=0.06)  # standard error 0.02; the seeds are whole numbers


@pytest.mark.parametrize("values", [np.full((4, 3), 0.1), np.full((4, 1), 0.1), np.eye(3) / 3])
def test_differences_without_spread_over_seeds_give_numbers_and_no_warning(values):
    (found,) = judge([values], SMALLEST)
    numbers = [found.difference, found.p, found.p_adjusted, found.bound, found.minimum_detectable]
    numbers += [*(found.interval or ()), *(found.adjusted or ()), *(found.bootstrap or ()), *(found.seeds_alone or ())]
    assert len(numbers) == 13 and all(value is not None and math.isfinite(value) for value in numbers)
    json.dumps(numbers, allow_nan=False)
