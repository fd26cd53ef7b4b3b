"""Accuracy over n problems with k samples each, with an interval that knows that samples of a problem go together."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
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
    """The mean of one value per problem, with a percentile bootstrap over problems, seeded: equal input, equal output.

    Where every problem has the value 0 (or 1), resampling sees no spread; the bound is then the exact one for 0 of n
    successes, 1 - (α/2)^(1/n) away.

    Args:
      values: [n], each in [0, 1].

    Reference: Efron and Tibshirani 1993, chapter 13; Clopper and Pearson 1934.
    """
    count, mean = len(values), float(np.mean(values))
    tail = (1 - CONFIDENCE) / 2
    if np.all(values == 0) or np.all(values == 1):
        width = 1 - tail ** (1 / count)
        return Estimate(mean, max(0.0, mean - width), min(1.0, mean + width))
    generator = np.random.default_rng(0)
    block = max(1, 2**20 // count)  # resamples at a time: a million numbers, however many problems
    sizes = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    means = [values[generator.integers(count, size=(size, count))].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Estimate(mean, float(low), float(high))


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
