"""The mean over seeds and held-out problems, and its interval: every seed answers the same problems (a crossed design).

d_sn = μ + seed_s + problem_n + error_sn, with S seeds and N problems. For a comparison, d is the difference of two arms
that share a seed (common random numbers), so what the seeds have in common is gone before anything is estimated.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# Seeds of few problems with few samples may tie by chance, and their spread is then 0. By sampling alone it is one
# error mean square on average; a twentieth of it is less than five seeds show in one study of a hundred.
_FLOOR = 0.05


class Interval(NamedTuple):
    """The two ends."""

    low: float
    high: float


class Crossed(NamedTuple):
    """Mean squares of the crossed design; of arrays [..., S, N] each field is [...].

    Attributes:
      mean: over seeds and problems.
      of_seeds: N Σ_s (d_s· - d··)² / (S - 1); its expectation is σ²_error + N σ²_seed.
      of_problems: S Σ_n (d_·n - d··)² / (N - 1); its expectation is σ²_error + S σ²_problem. 0 for one problem.
      of_error: Σ (d_sn - d_s· - d_·n + d··)² / ((S - 1)(N - 1)); its expectation is σ²_error. 0 for one problem.
      seeds: S.
      problems: N.
    """

    mean: np.ndarray
    of_seeds: np.ndarray
    of_problems: np.ndarray
    of_error: np.ndarray
    seeds: int
    problems: int


class Mean(NamedTuple):
    """A mean with its standard error, and the degrees of freedom with which that is known.

    Attributes:
      value: the mean.
      error: standard error; 0 where all numbers are equal.
      freedom: degrees of freedom of Student's t.
      seed_variance: part of error² that more seeds make smaller, as 1 / S.
      problem_variance: the rest of error², which only more problems make smaller.
    """

    value: float
    error: float
    freedom: float
    seed_variance: float
    problem_variance: float

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """value ± t · error, the two-sided interval of that confidence."""
        reach = quantile(confidence, self.freedom) * self.error
        return Interval(self.value - reach, self.value + reach)

    def p(self) -> float:
        """Of a true mean of 0, two-sided; 1 where the mean is 0 and 0 where another mean has no spread at all."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))


@functools.lru_cache(maxsize=1024)  # a curve asks for the same one at each of its points
def quantile(confidence: float, freedom: float) -> float:
    """Of Student's t, the size that it exceeds to either side with probability 1 - confidence together."""
    return float(stats.t.isf((1 - confidence) / 2, freedom))


def crossed(values: np.ndarray) -> Crossed:
    """The mean squares of [..., S, N], S at least 2."""
    seeds, problems = values.shape[-2:]
    values = values.astype(np.float64)
    by_seed, by_problem = values.mean(axis=-1), values.mean(axis=-2)
    mean = by_seed.mean(axis=-1)
    of_seeds = problems * np.square(by_seed - mean[..., None]).sum(axis=-1) / (seeds - 1)
    if problems == 1:
        return Crossed(mean, of_seeds, np.zeros_like(mean), np.zeros_like(mean), seeds, problems)
    of_problems = seeds * np.square(by_problem - mean[..., None]).sum(axis=-1) / (problems - 1)
    rest = values - by_seed[..., :, None] - by_problem[..., None, :] + mean[..., None, None]
    of_error = np.square(rest).sum(axis=(-2, -1)) / ((seeds - 1) * (problems - 1))
    return Crossed(mean, of_seeds, of_problems, of_error, seeds, problems)


def variances(squares: Crossed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(seed part, problem part, degrees of freedom) of the variance of the mean, for new seeds and new problems.

    Var(d··) = (A + max(B - E, 0)) / (S N) with the mean squares A of seeds, B of problems, E of errors; Satterthwaite's
    degrees of freedom are (A + B - E)² / (A² / (S - 1) + B² / (N - 1) + E² / ((S - 1)(N - 1))), and S - 1 where B ≤ E.

    Reference: Satterthwaite, 1946, "An approximate distribution of estimates of variance components"; Miller, 2024,
    arXiv 2411.00640, for questions as a sample of questions.
    """
    seeds, problems = squares.seeds, squares.problems
    cells = seeds * problems
    of_seeds = np.maximum(squares.of_seeds, _FLOOR * squares.of_error)
    of_problems = np.maximum(squares.of_problems - squares.of_error, 0)
    total = of_seeds + of_problems
    spread = np.square(of_seeds) / (seeds - 1)
    if problems > 1:
        of_rest = np.square(squares.of_problems) + np.square(squares.of_error) / (seeds - 1)
        spread = spread + np.where(of_problems > 0, of_rest / (problems - 1), 0)
    freedom = np.divide(np.square(total), spread, out=np.full_like(total, seeds - 1.0), where=spread > 0)
    return of_seeds / cells, of_problems / cells, np.maximum(freedom, 1)


def over_seeds_and_problems(values: np.ndarray) -> Mean:
    """The mean of [S, N] as an estimate for new seeds and new problems of the same kind.

    Raises:
      ValueError: fewer than 2 seeds.
    """
    squares = crossed(_checked(values))
    of_seeds, of_problems, freedom = (float(part) for part in variances(squares))
    return Mean(float(squares.mean), (of_seeds + of_problems) ** 0.5, freedom, of_seeds, of_problems)


def over_seeds(values: np.ndarray) -> Mean:
    """The mean of [S, N] as an estimate for new seeds on these very problems: for a difference, the paired t-test.

    Raises:
      ValueError: fewer than 2 seeds.
    """
    by_seed = _checked(values).astype(np.float64).mean(axis=1)
    variance = float(by_seed.var(ddof=1)) / len(by_seed)
    return Mean(float(by_seed.mean()), variance**0.5, len(by_seed) - 1, variance, 0.0)


def _checked(values: np.ndarray) -> np.ndarray:
    if values.ndim != 2 or len(values) < 2 or values.size == 0:
        raise ValueError(f"values have shape {list(values.shape)}: expected [seeds, problems] with at least 2 seeds")
    return values
