"""The hierarchical bootstrap: seeds are drawn again, and problems, which all seeds share."""

from __future__ import annotations

import numpy as np

from jaxrl_llm.study.statistics.paired import CONFIDENCE, Crossed, Interval, over_seeds_and_problems, variances

RESAMPLES = 2000


def bootstrap_interval(
    values: np.ndarray, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The studentized interval of the mean of [S, N] for new seeds and new problems; equal input gives equal output.

    Each draw takes S seeds and N problems with replacement, all seeds the same problems, and
    t* = (mean* - mean) / error* with the standard error of that draw. The interval is
    [mean - error · upper quantile of t*, mean - error · lower quantile]. Plain percentiles know nothing of the spread
    that few seeds hide.

    Raises:
      ValueError: fewer than 2 seeds.

    Reference: Efron and Tibshirani, 1993, chapter 12 (bootstrap-t); Owen, 2007, "The pigeonhole bootstrap", for the
    crossed draws; Agarwal et al., 2021, arXiv 2108.13264, for resampling runs.
    """
    mean = over_seeds_and_problems(values)
    seeds, problems = values.shape
    generator = np.random.default_rng(seed)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(np.float64)
    of_problems = generator.multinomial(problems, np.full(problems, 1 / problems), resamples).astype(np.float64)
    drawn = drawn_mean_squares(values.astype(np.float64) - mean.value, of_seeds, of_problems)
    by_seed, by_problem, _ = variances(drawn)
    error = np.sqrt(by_seed + by_problem)
    # a draw of one seed S times has no spread and says nothing
    t = drawn.mean[error > 0] / error[error > 0]
    if t.size == 0:
        return Interval(mean.value, mean.value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(t, [tail, 1 - tail])
    return Interval(mean.value - float(high) * mean.error, mean.value - float(low) * mean.error)


def drawn_mean_squares(values: np.ndarray, of_seeds: np.ndarray, of_problems: np.ndarray) -> Crossed:
    """Of [S, N] under how often each seed [R, S] and each problem [R, N] was drawn: no draw is written out."""
    seeds, problems = values.shape
    by_seed = of_problems @ values.T / problems  # [R, S]
    by_problem = of_seeds @ values / seeds  # [R, N]
    mean = (of_seeds * by_seed).sum(axis=1) / seeds
    square_seeds = problems * (of_seeds * np.square(by_seed - mean[:, None])).sum(axis=1)
    square_problems = seeds * (of_problems * np.square(by_problem - mean[:, None])).sum(axis=1)
    total = ((of_seeds @ np.square(values)) * of_problems).sum(axis=1) - seeds * problems * np.square(mean)
    rest = np.maximum(total - square_seeds - square_problems, 0)
    freedom = max(problems - 1, 1)
    return Crossed(
        mean, square_seeds / (seeds - 1), square_problems / freedom, rest / ((seeds - 1) * freedom), seeds, problems
    )
