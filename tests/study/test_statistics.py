"""Means, intervals, corrections, power, and the numbers of a run, against scipy, slow loops and identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from jaxrl_llm.study.statistics import (
    Mean,
    benjamini_hochberg,
    bootstrap_interval,
    curves,
    holm,
    holm_confidence,
    minimum_detectable,
    over_seeds,
    over_seeds_and_problems,
    seeds_needed,
)
from jaxrl_llm.study.statistics.bootstrap import drawn_mean_squares
from jaxrl_llm.study.statistics.paired import crossed
from jaxrl_llm.study.statistics.power import detectable, more_seeds


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def some_differences(generator: np.random.Generator, seeds: int = 6, problems: int = 9) -> np.ndarray:
    by_seed, by_problem = generator.standard_normal((seeds, 1)), generator.standard_normal((1, problems))
    return 0.3 + by_seed + by_problem + generator.standard_normal((seeds, problems))


# --- intervals


def test_the_mean_squares_are_those_of_loops_over_seeds_and_problems(generator):
    values = some_differences(generator)
    seeds, problems = values.shape
    mean = sum(map(float, values.flat)) / values.size
    of_seeds = problems * sum((row.mean() - mean) ** 2 for row in values) / (seeds - 1)
    of_problems = seeds * sum((column.mean() - mean) ** 2 for column in values.T) / (problems - 1)
    rest = sum(
        (values[s, n] - values[s].mean() - values[:, n].mean() + mean) ** 2
        for s in range(seeds)
        for n in range(problems)
    )
    found = crossed(values)
    np.testing.assert_allclose(found[:4], [mean, of_seeds, of_problems, rest / ((seeds - 1) * (problems - 1))])


def test_over_seeds_alone_it_is_the_paired_t_test(generator):
    ours, theirs = generator.standard_normal((2, 7, 5))
    found = over_seeds(ours - theirs)
    expected = stats.ttest_rel(ours.mean(axis=1), theirs.mean(axis=1))
    assert found.p() == pytest.approx(expected[1], rel=1e-9)
    interval = stats.t.interval(0.9, 6, found.value, found.error)
    np.testing.assert_allclose(found.interval(0.9), interval)


def test_with_one_problem_new_problems_add_nothing(generator):
    values = generator.standard_normal((6, 1))
    assert over_seeds_and_problems(values) == pytest.approx(over_seeds(values), rel=1e-12)


def test_problems_that_differ_widen_the_interval_and_no_number_of_seeds_narrows_that_part(generator):
    values = 0.01 * generator.standard_normal((16, 30)) + generator.standard_normal((1, 30))
    found = over_seeds_and_problems(values)
    expected = values.mean(axis=0).var(ddof=1) / 30
    assert found.error**2 == pytest.approx(expected, rel=1e-3)
    assert found.problem_variance > 0.99 * found.error**2
    assert found.freedom == pytest.approx(29, rel=1e-2)
    assert over_seeds(values).error < 0.05 * found.error


def test_seeds_that_tie_by_chance_are_not_taken_for_certainty():
    values = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # each seed has another third right
    assert over_seeds(values).error == 0
    assert over_seeds_and_problems(values).error > 0.01


@pytest.mark.parametrize("of", [over_seeds, over_seeds_and_problems, bootstrap_interval])
def test_fewer_than_two_seeds_have_no_interval(of):
    with pytest.raises(ValueError, match=r"\[1, 3\].*at least 2 seeds"):
        of(np.zeros((1, 3)))


@pytest.mark.parametrize("of", [over_seeds, over_seeds_and_problems])
def test_equal_differences_have_an_interval_of_no_width_and_no_nan(of):
    for value, p in ((0.0, 1.0), (0.5, 0.0)):
        mean = of(np.full((4, 8), value))
        assert (tuple(mean.interval()), mean.p()) == ((value, value), p)


def test_the_bootstrap_moves_and_scales_with_the_numbers(generator):
    values = some_differences(generator)
    low, high = bootstrap_interval(values)
    moved = bootstrap_interval(2 * values + 1)
    np.testing.assert_allclose(moved, (2 * low + 1, 2 * high + 1))
    np.testing.assert_allclose(bootstrap_interval(-values), (-high, -low), rtol=1e-6)  # the same draws, other quantiles
    assert low < values.mean() < high


def test_a_bootstrap_draw_is_the_mean_squares_of_the_table_written_out(generator):
    """Each draw's t, from counts, against taking the drawn rows and columns."""
    values = some_differences(generator, 4, 5)
    of_seeds, of_problems = np.array([[2.0, 0, 1, 1]]), np.array([[0.0, 1, 3, 0, 1]])
    found = drawn_mean_squares(values, of_seeds, of_problems)
    drawn = values[[0, 0, 2, 3]][:, [1, 2, 2, 2, 4]]
    np.testing.assert_allclose([float(np.squeeze(part)) for part in found[:4]], crossed(drawn)[:4], rtol=1e-9)


# --- many comparisons


def holm_by_hand(p: list[float], alpha: float) -> set[int]:
    """Which are called: down from the smallest, until one is not."""
    called = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] >= alpha / (len(p) - step):
            break
        called.add(i)
    return called


@pytest.mark.parametrize("count", [1, 2, 7])
def test_holm_calls_what_the_steps_by_hand_call_and_its_intervals_agree(count, generator):
    for _ in range(50):
        p = (generator.random(count) ** 3).tolist()
        for alpha in (0.05, 0.3):
            called = holm_by_hand(p, alpha)
            assert {i for i, value in enumerate(holm(p)) if value < alpha} == called
            # an interval of confidence c excludes 0 where p < 1 - c
            levels = 1 - holm_confidence(p, 1 - alpha)
            assert {i for i in range(count) if p[i] < levels[i]} == called


def test_benjamini_and_hochberg_agree_with_scipy(generator):
    p = generator.random(20) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))


def test_no_comparison_has_no_corrected_value():
    assert [len(of([])) for of in (holm, benjamini_hochberg)] == [0, 0]
    assert len(holm_confidence([], 0.95)) == 0


# --- power


@pytest.mark.parametrize(("seeds", "comparisons"), [(5, 1), (16, 1), (16, 12)])
def test_a_true_difference_of_the_minimum_detectable_is_called_in_four_of_five_studies(seeds, comparisons, generator):
    effect = minimum_detectable(0.05, seeds, comparisons)
    studies = effect + 0.05 * generator.standard_normal((20_000, seeds))
    called = stats.ttest_1samp(studies, 0, axis=1)[1] < 0.05 / comparisons
    assert np.mean(called) == pytest.approx(0.8, abs=0.01)  # standard error 0.003


@pytest.mark.parametrize("comparisons", [1, 12])
def test_the_seeds_needed_are_the_fewest_that_see_the_effect(comparisons):
    needed = seeds_needed(0.05, 0.03, comparisons)
    assert minimum_detectable(0.05, needed, comparisons) <= 0.03 < minimum_detectable(0.05, needed - 1, comparisons)


def test_many_comparisons_and_few_seeds_have_a_detectable_difference_that_is_a_number():
    found = [minimum_detectable(0.05, seeds, count) for seeds in (2, 3, 16, 10**6) for count in (1, 200)]
    assert all(0 < value < math.inf for value in found)
    assert minimum_detectable(0.05, 1) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minimum_detectable(-1.0, 5), "spread = -1.0"),
        (lambda: minimum_detectable(math.nan, 5), "spread = nan"),
        (lambda: minimum_detectable(1.0, 5, 0), "comparisons = 0"),
        (lambda: seeds_needed(1.0, 0.0), "effect = 0.0"),
        (lambda: seeds_needed(1.0, 1e-6), "effect = 1e-06.*more than 1,000,000"),
    ],
)
def test_what_cannot_be_planned_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_more_seeds_are_those_that_a_new_study_of_the_same_spread_would_need():
    mean = Mean(0.01, error=0.05 / 4, freedom=15, seed_variance=0.05**2 / 16, problem_variance=0.0)
    assert 16 + (more_seeds(mean, 16, 0.02) or 0) == seeds_needed(0.05, 0.02)


def test_no_number_of_seeds_decides_what_the_problems_leave_open():
    mean = Mean(0.01, error=0.05, freedom=60, seed_variance=1e-4, problem_variance=0.05**2 - 1e-4)
    assert more_seeds(mean, 16, 0.02) is None
    assert detectable(mean.error, mean.freedom) > 0.02


# --- numbers of a run


def run(*means: float) -> np.ndarray:
    """[E, 2] with these means."""
    return np.array([[mean - 0.1, mean + 0.1] for mean in means], np.float32)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("final", (0.7 + 0.5) / 2), ("area", np.mean([0.4, 0.8, 0.6, 0.6, 0.6, 0.6, 0.7, 0.5])), ("best", 0.8)],
)
def test_the_metric_of_a_run_is_read_from_its_evaluations_after_step_0(metric, expected):
    values = curves.metric_of(run(0.9, 0.4, 0.8, 0.6, 0.6, 0.6, 0.6, 0.7, 0.5), metric)
    np.testing.assert_allclose(values, [expected - 0.1, expected + 0.1], rtol=1e-6)


def test_a_run_with_one_evaluation_has_its_metric_there_and_another_metric_is_refused():
    assert curves.metric_of(run(0.3), "final").mean() == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"'last'.*final, area, best"):
        curves.metric_of(run(0.3), "last")


def test_the_running_accuracy_is_that_of_three_evaluations_and_never_of_step_0():
    np.testing.assert_allclose(curves.running(run(0.9, 0.1, 0.3, 0.5, 0.7)), [0.1, 0.2, 0.3, 0.5], rtol=1e-6)


@pytest.mark.parametrize(("target", "expected"), [(0.05, 10), (0.25, 30), (0.6, None)])
def test_the_time_to_a_target_is_the_first_step_of_the_running_accuracy_there(target, expected):
    assert curves.time_to_target(np.array([0, 10, 20, 30, 40]), run(0.9, 0.1, 0.3, 0.5, 0.7), target) == expected


@pytest.mark.parametrize(
    ("times", "median"), [([10, 20, 90], 20), ([10, None, None], None), ([10, 30, None, None], None), ([], None)]
)
def test_runs_that_never_arrive_count_as_infinitely_late(times, median):
    assert curves.median_time(times) == median


@pytest.mark.parametrize(
    ("means", "fell"),
    [
        ((0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6), False),
        ((0.3, 0.6, 0.6, 0.6, 0.6, 0.5, 0.5), False),  # a third of the gain is lost
        ((0.3, 0.6, 0.6, 0.6, 0.6, 0.4, 0.4), True),  # two thirds
        ((0.3, 0.33, 0.33, 0.33, 0.3, 0.29, 0.29), False),  # all of a gain that is noise
        ((0.3, 0.3, 0.28, 0.26, 0.24, 0.24, 0.24), True),  # below where it began
        ((0.3, 0.3, 0.3, 0.95, 0.3, 0.3, 0.3), True),  # a peak of one evaluation counts a third
        ((0.3, 0.3, 0.3, 0.5, 0.3, 0.3, 0.3), False),
        ((0.3,), False),
    ],
)
def test_a_run_has_collapsed_if_it_lost_what_it_had(means, fell):
    assert curves.collapsed(run(*means)) is fell


def test_entropy_has_collapsed_below_a_tenth_of_what_it_was():
    falling = np.linspace(1.0, 0.0, 50)
    assert curves.entropy_collapsed(falling) is True
    assert curves.entropy_collapsed(falling + 0.2) is False
    assert curves.entropy_collapsed(np.full(50, np.nan)) is None
    assert curves.entropy_collapsed(np.where(np.arange(50) % 2, np.nan, falling)) is True
