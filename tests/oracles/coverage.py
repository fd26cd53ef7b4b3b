"""How often intervals hold the truth, by simulation: of jaxrl_llm.study.statistics, and of an evaluation.

    python -m tests.oracles.coverage

prints the tables of docs/statistics.md (three minutes of one core).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy import stats

from jaxrl_llm.evaluation.metrics import estimate
from jaxrl_llm.study.statistics import benjamini_hochberg, bootstrap_interval, holm
from jaxrl_llm.study.statistics.paired import Crossed, crossed, variances

SEEDS = (5, 8, 16, 32)
PROBLEMS = 64
SEED_SPREAD = 0.04  # standard deviation of the seeds' part of a difference, in accuracy
ERROR_SPREAD = 0.25  # of what is left of one seed and problem; four samples a problem give about that
PROBLEM_SPREADS = (0.0, 0.1)
STUDIES = 10_000  # of the tables
BOOTSTRAPPED = 500

ACCURACIES = (0.01, 0.05, 0.2, 0.5)
EVALUATED = (30, 64, 500)  # problems of an evaluation
DIFFER, ALIKE = 1.0, np.inf  # concentrations: many problems are never right or always; all have the same chance

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _collapse(chance: float, depth: float) -> Draw:
    """Seeds that differ by 0.45 standard deviations, of which a share falls by ``depth``; mean 0."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        falls = generator.random(shape) < chance
        return 0.45 * generator.standard_normal(shape) - depth * (falls - chance)

    return draw


# The seeds' part of a difference, mean 0 and about standard deviation 1.
POPULATIONS: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "skewed (exponential)": lambda generator, shape: 1 - generator.exponential(size=shape),
    "15 % of seeds collapse": _collapse(0.15, 2.5),
}
# An arm of which one seed in ten falls by 30 points among seeds that differ by 2.
RARE_AND_DEEP = _collapse(0.1, 7.5)


def differences(
    draw: Draw, generator: np.random.Generator, studies: int, seeds: int, problem_spread: float
) -> np.ndarray:
    """[studies, S, N] differences of two arms whose true difference is 0."""
    size = (studies, seeds, PROBLEMS)
    by_seed = SEED_SPREAD * draw(generator, (studies, seeds, 1))
    by_problem = problem_spread * generator.standard_normal((studies, 1, PROBLEMS))
    return by_seed + by_problem + ERROR_SPREAD * generator.standard_normal(size)


def p_values(squares: Crossed) -> np.ndarray:
    """Of a true mean of 0, [studies]; what Mean.p says of each."""
    by_seed, by_problem, freedom = variances(squares)
    return 2 * stats.t.sf(np.abs(squares.mean) / np.sqrt(by_seed + by_problem), freedom)


def coverage(values: np.ndarray, confidence: float = 0.95) -> float:
    """Share of studies whose interval of that confidence, for new seeds and problems, holds 0."""
    return float(np.mean(p_values(crossed(values)) >= 1 - confidence))


def coverage_of_seeds_alone(values: np.ndarray) -> float:
    """Share of studies whose paired t interval, for new seeds on the same problems, holds 0."""
    test = stats.ttest_1samp(values.mean(axis=2), 0, axis=1)
    return float(np.mean(np.asarray(test[1]) >= 0.05))


def coverage_of_bootstrap(values: np.ndarray, resamples: int) -> float:
    """Share of studies whose bootstrap interval holds 0."""
    ends = [bootstrap_interval(study, resamples=resamples, seed=i) for i, study in enumerate(values)]
    return float(np.mean([low <= 0 <= high for low, high in ends]))


def coverage_of_percentiles(values: np.ndarray) -> float:
    """Share of studies whose plain percentile bootstrap over seeds holds 0: what not to use."""
    generator = np.random.default_rng(0)
    held = []
    for study in values.mean(axis=2):
        drawn = study[generator.integers(len(study), size=(1000, len(study)))].mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        held.append(low <= 0 <= high)
    return float(np.mean(held))


def evaluations(
    accuracy: float, problems: int, samples: int, concentration: float, count: int, generator: np.random.Generator
) -> np.ndarray:
    """[count, problems] shares of right samples, where chances are of Beta(c · accuracy, c · (1 - accuracy))."""
    chances = np.full((count, problems), accuracy)
    if np.isfinite(concentration):
        chances = generator.beta(concentration * accuracy, concentration * (1 - accuracy), (count, problems))
    return generator.binomial(samples, chances) / samples


def coverage_of_evaluations(values: np.ndarray, accuracy: float) -> float:
    """Share of evaluations whose interval holds the accuracy of all problems there could be."""
    found = [estimate(row) for row in values]
    return float(np.mean([one.low <= accuracy <= one.high for one in found]))


def errors(
    studies: int, seeds: int, comparisons: int, real: int, generator: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """(Chance of any wrong call, expected share of wrong calls) by each method, where arms share a reference.

    Args:
      real: of the comparisons have a true difference of two standard deviations.
    """
    arms = generator.standard_normal((studies, comparisons + 1, seeds))
    arms[:, 1 : real + 1] += 2.0
    p = np.asarray(stats.ttest_rel(arms[:, 1:], arms[:, :1], axis=2)[1])
    found = {}
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "none": lambda values: values,
        "Holm": holm,
        "Benjamini-Hochberg": benjamini_hochberg,
    }
    for name, method in methods.items():
        called = np.stack([method(row) for row in p]) < 0.05
        wrong = called[:, real:].sum(axis=1)
        share = wrong / np.maximum(called.sum(axis=1), 1)
        found[name] = (float(np.mean(wrong > 0)), float(np.mean(share)))
    return found


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    generator = np.random.default_rng(0)
    rows = []
    for name, draw in (POPULATIONS | {"10 % fall by 30 points": RARE_AND_DEEP}).items():
        for problem_spread in PROBLEM_SPREADS:
            for seeds in SEEDS:
                values = differences(draw, generator, STUDIES, seeds, problem_spread)
                some = values[:BOOTSTRAPPED]
                shares = (
                    coverage(values),
                    coverage_of_bootstrap(some, resamples=500),
                    coverage_of_seeds_alone(values),
                    coverage_of_percentiles(some),
                )
                rows.append([name, f"{problem_spread:g}", str(seeds), *(f"{100 * share:.1f}" for share in shares)])
    head = ("seeds' part", "spread of problems", "seeds", "crossed t", "bootstrap-t", "paired t", "percentiles")
    print(_table(head, rows), end="\n\n")
    rows = []
    for real in (0, 4, 8):
        for method, (family, rate) in errors(STUDIES, 16, 12, real, generator).items():
            rows.append([str(real), method, f"{100 * family:.1f}", f"{100 * rate:.1f}"])
    print(_table(("real of 12", "correction", "any wrong call, %", "wrong among calls, %"), rows), end="\n\n")
    rows = []
    for accuracy in ACCURACIES:
        for problems in EVALUATED:
            held: list[float] = []
            for samples, concentration in ((1, ALIKE), (8, DIFFER), (8, ALIKE)):
                values = evaluations(accuracy, problems, samples, concentration, STUDIES, generator)
                held.append(coverage_of_evaluations(values, accuracy))
                held.append(coverage_of_percentiles(values[:BOOTSTRAPPED, :, None] - accuracy))
            rows.append([f"{accuracy:g}", str(problems), *(f"{100 * share:.1f}" for share in held)])
    kinds = ("1 sample", "8, problems differ", "8, problems alike")
    head = ("accuracy", "problems", *(name for kind in kinds for name in (kind, "percentiles")))
    print(_table(head, rows))


if __name__ == "__main__":
    main()
