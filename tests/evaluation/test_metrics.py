import itertools

import numpy as np
import pytest

from jaxrl_llm.evaluation.metrics import average_at_k, benchmark_averages, estimate, majority_at_k, pass_at_k
from tests.oracles import coverage


def verdicts(problems=40, samples=4, seed=0):
    generator = np.random.default_rng(seed)
    return generator.random((problems, samples)) < generator.random((problems, 1))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(k):
    correct = verdicts(problems=12, samples=5)
    by_enumeration = [[any(choice) for choice in itertools.combinations(row, k)] for row in correct]
    assert pass_at_k(correct, k).value == pytest.approx(np.mean(by_enumeration))


def test_pass_at_one_is_the_average():
    correct = verdicts()
    assert pass_at_k(correct, 1) == pytest.approx(average_at_k(correct))


def test_pass_at_k_without_bias_keeps_its_expectation_as_samples_grow():
    """The plug-in 1 - (1 - c/s)^k does not: it comes out at 0.552 with 4 samples of a chance of 0.3, for 0.657."""
    correct = np.random.default_rng(0).random((4000, 4)) < 0.3
    assert pass_at_k(correct, 3).value == pytest.approx(1 - 0.7**3, abs=0.02)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_more_samples_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match=rf"pass@{k} needs k in 1\.\.4"):
        pass_at_k(verdicts(), k)


@pytest.mark.parametrize(
    ("answers", "correct", "value"),
    [
        (["5", "5", "6"], [1, 1, 0], 1.0),
        (["5", "6", "6"], [1, 0, 0], 0.0),
        (["0.5", "1/2", "6", "6"], [1, 1, 0, 0], 0.5),  # the two correct ones are one answer; two answers tie
        (["5", "6", "7"], [0, 1, 0], 1 / 3),
        (["5", None, None], [1, 0, 0], 1.0),  # no answer, no vote
        ([None, None], [0, 0], 0.0),
        (["6", "6", "7", "7"], [0, 0, 0, 0], 0.0),
    ],
)
def test_the_majority_of_one_problem(answers, correct, value):
    assert majority_at_k([answers], np.array([correct])).value == pytest.approx(value)


def test_the_majority_of_many_problems_is_the_mean_of_each():
    generator = np.random.default_rng(0)
    answers = [[str(answer) for answer in row] for row in generator.integers(0, 4, (30, 5))]
    correct = np.array([[answer == "2" for answer in row] for row in answers])
    expected = []
    for row in answers:
        most = max(row.count(answer) for answer in row)
        winners = {answer for answer in row if row.count(answer) == most}
        expected.append(("2" in winners) / len(winners))
    assert majority_at_k(answers, correct).value == pytest.approx(np.mean(expected))


def test_the_interval_holds_the_value_and_is_the_same_every_time():
    for result in (average_at_k(verdicts()), pass_at_k(verdicts(), 2)):
        assert 0 <= result.low < result.value < result.high <= 1
    assert average_at_k(verdicts()) == average_at_k(verdicts())


def test_repeating_a_sample_tells_nothing_new():
    correct = verdicts(samples=1)
    assert average_at_k(np.repeat(correct, 16, axis=1)) == pytest.approx(average_at_k(correct))


def test_the_interval_agrees_with_the_normal_one_where_that_one_holds():
    values = verdicts(problems=2000).mean(axis=1)
    error = values.std(ddof=1) / np.sqrt(len(values))
    result = estimate(values)
    assert (result.value - result.low, result.high - result.value) == pytest.approx((1.96 * error,) * 2, rel=0.1)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 5)])
def test_the_interval_holds_the_truth_about_nineteen_times_in_twenty(first, second):
    """Problems whose chances are drawn from Beta(first, second); 300 draws of 80 problems with 4 samples each."""
    generator = np.random.default_rng(1)
    truth, concentration = first / (first + second), first + second
    values = coverage.evaluations(truth, 80, 4, concentration, 300, generator)
    assert 0.91 <= coverage.coverage_of_evaluations(values, truth) <= 0.98  # 0.95 within three standard errors


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("problems", coverage.EVALUATED)
@pytest.mark.parametrize("accuracy", coverage.ACCURACIES)
def test_the_interval_does_so_with_few_right_answers_and_few_problems(accuracy, problems, samples):
    """Problems that differ much, and 8 samples of problems that do not; the standard error of the share is 1 %."""
    generator = np.random.default_rng(1)
    spreads = (coverage.DIFFER,) if samples == 1 else (coverage.DIFFER, coverage.ALIKE)
    for concentration in spreads:
        values = coverage.evaluations(accuracy, problems, samples, concentration, 400, generator)
        assert coverage.coverage_of_evaluations(values, accuracy) >= 0.92


def test_all_wrong_or_all_right_is_no_certainty():
    nothing = average_at_k(np.zeros((30, 8)))
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    # of that rate, 0 of 30 are 1.96 standard errors away
    assert nothing.high / np.sqrt(nothing.high * (1 - nothing.high) / 30) == pytest.approx(1.96, rel=1e-4)
    everything = average_at_k(np.ones((30, 8)))
    assert everything == pytest.approx((1.0, 1 - nothing.high, 1.0))


@pytest.mark.parametrize("problems", [1, 5, 30, 500])
@pytest.mark.parametrize("samples", [1, 2, 8, 64])
@pytest.mark.parametrize("spread", [True, False], ids=["of many problems", "of one problem after another"])
def test_from_none_right_to_all_each_right_sample_moves_both_ends_up(problems, samples, spread):
    total = problems * samples
    counts = sorted({*range(min(total, 20) + 1), *np.linspace(0, total, 30, dtype=int).tolist()})
    right = np.arange(total) < np.array(counts)[:, None]
    order = (-1, samples, problems) if spread else (-1, problems, samples)
    values = right.reshape(order).mean(axis=1 if spread else 2)
    ends = np.array([estimate(row)[1:] for row in values])
    assert (np.diff(ends, axis=0) > 0).all()


def test_a_right_sample_more_of_any_problem_lowers_no_end():
    generator = np.random.default_rng(0)
    for _ in range(300):
        problems, samples = int(generator.integers(2, 80)), generator.choice([2, 4, 8])
        first, second = generator.uniform(0.1, 3, 2)
        counts = generator.binomial(samples, generator.beta(first, second, problems))
        one = generator.integers(problems)
        more = counts + (np.arange(problems) == one) * (counts[one] < samples)
        before, after = estimate(counts / samples), estimate(more / samples)
        assert after.low >= before.low and after.high >= before.high


def test_with_one_sample_the_interval_is_wilson_s_score_interval():
    values = verdicts(samples=1).mean(axis=1)
    result, n = estimate(values), len(values)
    for end in (result.low, result.high):
        assert abs(result.value - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(1.96, rel=1e-4)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,)])
def test_verdicts_on_nothing_are_refused(shape):
    with pytest.raises(ValueError, match="at least one of each"):
        average_at_k(np.zeros(shape))


def test_answers_and_verdicts_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"answers must be \[1, 2\]"):
        majority_at_k([["5"]], np.array([[1, 0]]))


def test_a_benchmark_s_average_is_over_its_own_problems_however_they_are_mixed():
    values = np.array([[1.0, 0.0, 0.5, 0.25, 0.75], [0.0, 0.0, 1.0, 1.0, 1.0]])
    averages = benchmark_averages(values, ["b", "a", "a", "b", "a"])
    assert list(averages) == ["b", "a"]
    np.testing.assert_allclose(averages["b"], [0.625, 0.5])
    np.testing.assert_allclose(averages["a"], [1.25 / 3, 2 / 3])
