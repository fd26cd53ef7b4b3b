"""Accuracy over n problems with k samples each, with an interval that knows that samples of a problem go together."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
_Z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
BENCHMARKS_AVERAGE = "eval/benchmarks_avg"  # the plain mean of the averages of all benchmarks


class Estimate(NamedTuple):
    """A mean over problems and its 95 % interval over draws of the problems."""

    value: float
    low: float
    high: float


def average_at_k(correct: np.ndarray) -> Estimate:
    """avg@k: the mean share of correct samples, (1/n) Σᵢ (1/k) Σⱼ correctᵢⱼ.

    Args:
      correct: bool or 0/1 [n, k].
    """
    return estimate(_checked(correct).mean(axis=1))


def pass_at_k(correct: np.ndarray, k: int) -> Estimate:
    """pass@k: the chance that one of k samples is correct, (1/n) Σᵢ 1 - C(s - cᵢ, k) / C(s, k), without bias.

    Args:
      correct: bool or 0/1 [n, s]; row i holds cᵢ correct samples.
      k: in 1 .. s.

    Raises:
      ValueError: where k is not in that range.

    Reference: Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    correct = _checked(correct)
    samples = correct.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs k in 1..{samples}, the samples of a problem")
    total = math.comb(samples, k)
    return estimate(np.array([1 - math.comb(samples - count, k) / total for count in correct.sum(axis=1)]))


def majority_at_k(answers: Sequence[Sequence[str | None]], correct: np.ndarray) -> Estimate:
    """maj@k: the share of problems whose most frequent answer is correct.

    All correct samples of a problem give one answer, however they wrote it. A sample without an answer (None) has no
    vote. Where several answers are the most frequent, the problem counts as the chance that one of them, drawn at
    random, is correct.

    Args:
      answers: [n][k], extracted and normalized.
      correct: bool or 0/1 [n, k], the verdicts on them.
    """
    correct = _checked(correct)
    if [len(row) for row in answers] != [correct.shape[1]] * correct.shape[0]:
        raise ValueError(f"majority@k: answers must be {list(correct.shape)}, as the verdicts are")
    return estimate(np.array([_majority(row, verdicts) for row, verdicts in zip(answers, correct, strict=True)]))


def _majority(answers: Sequence[str | None], verdicts: np.ndarray) -> float:
    gold = object()  # one key for all correct answers, unlike any text
    votes = collections.Counter(
        gold if verdict else answer for answer, verdict in zip(answers, verdicts, strict=True) if answer is not None
    )
    most = max(votes.values(), default=0)
    winners = [answer for answer, count in votes.items() if count == most]
    return float(gold in winners) / max(len(winners), 1)


def estimate(values: np.ndarray) -> Estimate:
    """The mean v̄ of one value per problem, with Wilson's score interval for the number n* that n problems are worth:
    all p with (v̄ - p)² ≤ z² p (1 - p) / n*.

    n* = n m (1 - m) / s², with m and s² the mean and variance of the values and of Wilson's own z²/2 problems that are
    all right and z²/2 that are all wrong: n where values are 0 or 1, more where several samples make them less extreme.
    With fewer of these, the upper end would fall as the first samples are right.

    Args:
      values: [n], each in [0, 1].

    Reference: Wilson, 1927, "Probable inference, the law of succession, and statistical inference"; Korn and Graubard,
    1998, for samples in groups.
    """
    count, mean = len(values), float(np.mean(values, dtype=np.float64))
    added = _Z * _Z / 2
    total = count + 2 * added
    center = (count * mean + added) / total
    variance = (float(np.square(values, dtype=np.float64).sum()) + added) / total - center * center
    worth = count * center * (1 - center) / variance
    middle = (mean + added / worth) / (1 + 2 * added / worth)
    half = _Z / (1 + 2 * added / worth) * math.sqrt(mean * (1 - mean) / worth + added / (2 * worth * worth))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Estimate(mean, min(low, mean), max(high, mean))  # by rounding, 0 may be below the lower end


def benchmark_averages(values: np.ndarray, benchmarks: Sequence[str]) -> dict[str, np.ndarray]:
    """The mean over the problems of each benchmark, in the order in which the benchmarks first come.

    Args:
      values: [..., n].
      benchmarks: the benchmark of each of the n problems.

    Returns:
      Benchmark -> [...].
    """
    names = np.array(benchmarks)
    return {name: values[..., names == name].mean(axis=-1, dtype=np.float64) for name in dict.fromkeys(benchmarks)}


def _checked(correct: np.ndarray) -> np.ndarray:
    """bool [n, k], at least one of each."""
    correct = np.asarray(correct)
    if correct.ndim != 2 or correct.size == 0:
        raise ValueError(f"verdicts must be [problems, samples] with at least one of each, got {correct.shape}")
    return correct.astype(bool)
