"""What a study costs and what it could see, before it starts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jaxrl_llm.algorithm import needs_greedy, needs_reference
from jaxrl_llm.training.settings import Settings

if TYPE_CHECKING:
    from jaxrl_llm.study.plan import Study

# Standard deviation, over seeds, of the paired difference of two arms' held-out accuracy, where nothing is known yet:
# the median over the comparisons of the committed studies, docs/paper/*_lab.json, that differ at all. An arm that
# collapses with some seeds varies far more, by 0.12 to 0.18 there.
TYPICAL_SPREAD = {"final": 0.023, "area": 0.012, "best": 0.018}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Upper bounds: every completion as long as the limit, and no step that samples again to fill its batch.

    Attributes:
      sampled_tokens: of training and evaluation, of all runs.
      trained_tokens: with their prompts, times epochs.
      flops: Σ over runs, N parameters: 2·N a sampled or scored token, 6·N a trained one.
      seeds: of an arm in a cell.
      comparisons: of all cells, which are corrected together.
      spread: standard deviation of a paired difference over seeds, in accuracy.
      assumed: whether ``spread`` was not given.
      detectable: the smallest difference that the study finds with probability 0.8; None with fewer seeds than a
        verdict needs, or where it compares nothing.
      smallest_effect: that matters, as the study says.
      seeds_needed: that find the smallest effect with probability 0.8; None: over a million, or nothing is compared.
      seconds: of all runs, one after another; None where nobody has said how long one takes.
    """

    runs: int
    sampled_tokens: float
    trained_tokens: float
    flops: float
    seeds: int
    comparisons: int
    spread: float
    assumed: bool
    detectable: float | None
    smallest_effect: float
    seeds_needed: int | None
    seconds: float | None = None

    def text(self) -> str:
        """A few lines for the console."""
        from jaxrl_llm.study.statistics import FEWEST_SEEDS

        lines = [
            f"{self.runs} runs; at most {self.sampled_tokens:.3g} tokens sampled, {self.trained_tokens:.3g} trained "
            f"on, {self.flops:.3g} FLOPs"
        ]
        if self.seconds is not None:
            lines.append(f"one after another: {self.seconds / 3600:.1f} hours")
        if self.comparisons == 0:
            return "\n".join([*lines, "it compares nothing, and no verdict"])
        needed = "over a million" if self.seeds_needed is None else f"{self.seeds_needed}"
        advice = f"take more seeds ({needed} find smallest_effect = {self.smallest_effect:g})"
        count = f"{self.seeds} seed{'' if self.seeds == 1 else 's'}"
        corrected = f"corrected for {self.comparisons} comparison{'' if self.comparisons == 1 else 's'}"
        origin = "assumed" if self.assumed else "given"
        varies = f"if the paired difference of two arms varies by {self.spread:g} from seed to seed ({origin})"
        if self.detectable is None:
            found = f"{count} can find no difference, however large: a verdict needs {FEWEST_SEEDS}"
            return "\n".join([*lines, f"{found}; {advice}, {corrected}, {varies}"])
        if self.detectable >= 1:
            found = f"{count} find no difference, however large, with probability 0.8"
            return "\n".join([*lines, f"{found}, {corrected}, {varies}: {advice}"])
        found = f"smallest difference that {count} find with probability 0.8"
        lines.append(f"{found}, {corrected}: {self.detectable:.3f} in accuracy, {varies}")
        if self.detectable > self.smallest_effect:
            lines.append(f"that is more than a difference that counts: {advice}, or accept it")
        return "\n".join(lines)


def evaluations(steps: int, every: int) -> int:
    """Evaluations of a run: before the first step, every so many, and after the last."""
    return 1 + len({*range(every, steps + 1, every), steps})


def _parameters(source: str) -> int:
    from jaxrl_llm.models.weights import parameter_count
    from jaxrl_llm.planning.models import architecture

    return parameter_count(architecture(source))


def _tokens(run: Settings) -> tuple[float, float, float]:
    """Tokens of one run: sampled, scored, trained on."""
    data, limit = run.data, run.sampling.max_tokens
    rows = run.steps * data.prompts_per_step * data.samples_per_prompt
    of_evaluation = evaluations(run.steps, run.evaluation.every) * run.evaluation.problems * run.evaluation.samples
    greedy = run.steps * data.prompts_per_step if needs_greedy(run.algorithm) else 0
    passes = (run.algorithm.old_logprobs == "trainer") + needs_reference(run.algorithm)
    whole = rows * (data.max_prompt_tokens + limit)
    return float((rows + of_evaluation + greedy) * limit), float(passes * whole), float(run.training.epochs * whole)


def _seeds_needed(spread: float, effect: float, comparisons: int) -> int | None:
    from jaxrl_llm.study.statistics import seeds_needed

    try:
        return seeds_needed(spread, effect, comparisons) if comparisons else None
    except ValueError:  # more than it looks for
        return None


def estimate(study: Study, *, spread: float | None = None, seconds_a_run: float | None = None) -> Estimate:
    """What a study costs, and the smallest effect that it could see.

    Args:
      spread: standard deviation over seeds of the paired difference of two arms, in accuracy, from an earlier study;
        None: the typical one of the study's metric.
      seconds_a_run: from an earlier run; None: no time is said.

    Raises:
      FileNotFoundError: a model that is not there.
    """
    from jaxrl_llm.study.statistics import FEWEST_SEEDS, minimum_detectable

    sampled = trained = flops = 0.0
    sizes: dict[str, int] = {}
    for run in (run.settings for run in study.runs.values()):
        source = run.model.source
        parameters = sizes.setdefault(source, 0) or _parameters(source)
        sizes[source] = parameters
        of_run = _tokens(run)
        sampled, trained = sampled + of_run[0], trained + of_run[2]
        flops += parameters * (2 * (of_run[0] + of_run[1]) + 6 * of_run[2])
    seeds, comparisons = len(study.seeds), len(study.cells) * len(study.comparisons)
    width = TYPICAL_SPREAD[study.settings.metric] if spread is None else spread
    runs = len(study.runs) * seeds
    enough = seeds >= FEWEST_SEEDS and comparisons
    return Estimate(
        runs=runs,
        sampled_tokens=sampled * seeds,
        trained_tokens=trained * seeds,
        flops=flops * seeds,
        seeds=seeds,
        comparisons=comparisons,
        spread=width,
        assumed=spread is None,
        detectable=minimum_detectable(width, seeds, comparisons) if enough else None,
        smallest_effect=study.settings.smallest_effect,
        seeds_needed=_seeds_needed(width, study.settings.smallest_effect, comparisons),
        seconds=None if seconds_a_run is None else seconds_a_run * runs,
    )
