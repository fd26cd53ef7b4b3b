import itertools

import numpy as np
import pytest

from jaxrl_llm.evaluation.metrics import average_at_k, benchmark_averages, estimate, majority_at_k, pass_at_k


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
    truth, hits = first / (first + second), 0
    for _ in range(300):
        chances = generator.beta(first, second, (80, 1))
        result = average_at_k(generator.random((80, 4)) < chances)
        hits += result.low <= truth <= result.high
    assert 0.90 <= hits / 300 <= 0.98  # 0.95 within three standard errors, less what a percentile bootstrap loses


def test_all_wrong_or_all_right_is_no_certainty():
    nothing = average_at_k(np.zeros((30, 8)))
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert (1 - nothing.high) ** 30 == pytest.approx(0.025)  # that rate would show 0 of 30 this often
    everything = average_at_k(np.ones((30, 8)))
    assert everything == pytest.approx((1.0, 1 - nothing.high, 1.0))


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
