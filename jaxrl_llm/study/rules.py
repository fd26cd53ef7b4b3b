"""What to set where, as data: one rule a knob, its choices, why, and the comparisons that speak for or against them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from jaxrl_llm.study.paper import LITE_PPO, TAKEAWAYS, Check

MODEL_KINDS = ("base", "aligned")
TIERS = ("easy", "medium", "hard")
SHORT = 8192  # tokens; the paper sees a gain of the overlong filter up to here


@dataclasses.dataclass(frozen=True)
class Situation:
    """What advice is asked for.

    Attributes:
      model_kind: base (pretrained) or aligned (instruction-tuned, or trained by reinforcement before).
      data: tier of difficulty for this model: easy, medium or hard.
      max_length: tokens of a completion.
      model_size: billions of parameters; None: not told.

    Raises:
      ValueError: a value that is none of these.
    """

    model_kind: str
    data: str
    max_length: int
    model_size: float | None = None

    def __post_init__(self) -> None:
        for key, value, known in (("model-kind", self.model_kind, MODEL_KINDS), ("data", self.data, TIERS)):
            if value not in known:
                raise ValueError(f"--{key} = {value!r}: expected one of {', '.join(known)}")
        if self.max_length < 1:
            raise ValueError(f"--max-length = {self.max_length}: expected at least 1 token")
        if self.model_size is not None and not (0 < self.model_size < math.inf):
            raise ValueError(f"--model-size = {self.model_size}: expected billions of parameters, above 0")


@dataclasses.dataclass(frozen=True)
class Choice:
    """The values of a rule for some situations.

    Attributes:
      values: dotted path of a run's config -> value.
      why: one or two sentences.
      paper: what the paper has for it, and how certain that is.
      strength: of what does not come from our studies: strong (it follows from the formula), moderate (several panels
        of curves, one seed each) or weak (one panel, or the paper contradicts itself).
      checks: comparisons that can show it.
      model_kinds: for which it is meant.
      tiers: for which it is meant.
      longest: tokens of a completion up to which it is meant.
      largest: billions of parameters up to which it is meant; a size that was not told is above.
    """

    values: Mapping[str, Any]
    why: str
    paper: str
    strength: Literal["strong", "moderate", "weak"]
    checks: tuple[Check, ...] = ()
    _: dataclasses.KW_ONLY
    model_kinds: tuple[str, ...] = MODEL_KINDS
    tiers: tuple[str, ...] = TIERS
    longest: float = math.inf
    largest: float = math.inf

    def fits(self, situation: Situation) -> bool:
        size = math.inf if situation.model_size is None else situation.model_size
        return (
            situation.model_kind in self.model_kinds
            and situation.data in self.tiers
            and situation.max_length <= self.longest
            and size <= self.largest
        )


def _of(takeaway: int, **which: str) -> tuple[Check, ...]:
    """Checks of a takeaway, those with these values alone."""
    checks = TAKEAWAYS[takeaway - 1].checks
    return tuple(check for check in checks if all(getattr(check, key) == value for key, value in which.items()))


_CLIP = "algorithm.clip_high"
# Title of a rule -> its choices; the first that fits a situation is taken, and the last of each fits all.
RULES: dict[str, tuple[Choice, ...]] = {
    "What is taken from the reward": (
        Choice(
            {"algorithm.baseline": "group"},
            "The mean over the answers to a prompt takes the prompt's difficulty out of the advantage.",
            "Takeaway 1: mean and std by group are steadier and end higher than by batch, or neither (figure 4, six "
            "panels of curves); what the mean does alone is not shown.",
            "moderate",
            _of(1, experiment="e01_normalization"),
        ),
    ),
    "What it is divided by": (
        Choice(
            {"algorithm.scale": "batch"},
            "A group that is nearly all right or all wrong has a tiny std, which inflates its advantages: on easy data "
            "most groups are such. The batch's std is one number for all; no std (scale none) is the alternative.",
            "Takeaways 2 and 3: no std is better on easy data (figure 5, 100 steps), the batch's std better than the "
            "group's (figure 6, four panels of curves).",
            "moderate",
            _of(3) + _of(2, arm="group_mean", expected="helps"),
            model_kinds=("base",),
            tiers=("easy",),
        ),
        Choice(
            {"algorithm.scale": "batch"},
            "The batch's std is one number for all groups; a group's own is tiny where nearly all answers are alike.",
            "Takeaway 3: better than the group's std (figure 6, four panels of curves).",
            "moderate",
            _of(3),
            model_kinds=("base",),
        ),
        Choice(
            {"algorithm.scale": "batch"},
            "As for base models. On aligned ones it has been seen only together with the other half of Lite PPO.",
            "Lite PPO is ahead of DAPO by 1.5 to 2.8 points (tables 1 and 2 of the ICLR version); not taken apart, and "
            "so no evidence on this knob alone.",
            "weak",
        ),
    ),
    "Aggregation": (
        Choice(
            {"algorithm.aggregation": "token_mean"},
            "Every token weighs the same, so that long answers teach as much as their length; most on hard data.",
            "Takeaway 7: several points better on base models (figures 12 and 17, whose captions and panels disagree).",
            "moderate",
            _of(7, expected="helps"),
            model_kinds=("base",),
        ),
        Choice(
            {"algorithm.aggregation": "sequence_mean"},
            "Every answer weighs the same, which keeps an aligned model's structure.",
            "Takeaway 7: about a point better on aligned models (figures 12 and 17); but the ICLR version's tables "
            "have Lite PPO, which is token-level, ahead on aligned 8B.",
            "weak",
            _of(7, expected="hurts"),
        ),
    ),
    "Upper bound of the ratio": (
        Choice(
            {_CLIP: 0.2},
            "A base model's ratio seldom reaches the bound, and it gains nothing from a wider one.",
            "Takeaway 4: no gain, slightly worse, on base models (figure 8, two panels of curves).",
            "moderate",
            _of(4, expected="no_gain"),
            model_kinds=("base",),
        ),
        Choice(
            {_CLIP: 0.32},
            "A wider bound lets unlikely tokens grow, and entropy falls more slowly; small aligned models gain up "
            "to 0.32.",
            "Takeaways 4 and 6: best at 0.32 on aligned 4B (figure 11: four bounds, one seed).",
            "weak",
            _of(6, arm="clip_32"),
            largest=6.0,
        ),
        Choice(
            {_CLIP: 0.28},
            "A wider bound lets unlikely tokens grow, and entropy falls more slowly. Small models gain more: with "
            "--model-size up to 6 it is 0.32.",
            "Takeaways 4 and 6: half a point to two points on aligned models, 8B best at 0.28 (figures 8 and 11).",
            "moderate",
            _of(4, expected="helps"),
        ),
    ),
    "Truncated answers": (
        Choice(
            {"algorithm.overlong_filter": True},
            "At a short limit many cut answers were on a good way; to punish them as wrong teaches the wrong thing.",
            "Takeaway 8: a clear gain at 8k tokens (figure 13); but its Lite PPO runs at 8k, ahead of DAPO with the "
            "overlong penalty, are without.",
            "weak",
            _of(8, expected="helps"),
            longest=SHORT,
        ),
        Choice(
            {"algorithm.overlong_filter": False},
            "At a long limit what is cut is mostly a loop, and should count as wrong.",
            "Takeaway 8: nearly no gain at 20k tokens, where more of the cut answers are loops (figures 13 and 14).",
            "moderate",
            _of(8, expected="no_difference"),
        ),
    ),
    "Dynamic sampling, overlong penalty, KL": (
        Choice(
            {"algorithm.group_filter": "none", "algorithm.overlong_buffer": 0, "algorithm.kl_placement": "none"},
            "In the paper the recipes that have them, DAPO and GRPO, do not do better than one without; each costs "
            "rollouts, a knob or a reference model. Dynamic sampling draws up to resample_rounds rollouts for a step: "
            "equal steps are not equal costs.",
            "Section 5: Lite PPO above both on base models (figure 15), and in the ICLR version on aligned ones; the "
            "parts are not taken apart.",
            "moderate",
            LITE_PPO.checks,
        ),
    ),
    "Scale of the reward": (
        Choice(
            {"reward.correct": 1.0, "reward.wrong": 0.0},
            "Rewards of 0 and 1 and of -1 and 1 have the same updates once they are centred and divided by a std.",
            "Figure 18 shows a difference under batch normalization, which the formula cannot make.",
            "strong",
            (Check("e02_reward_scale", "*", "minus_one_one", "zero_one", "no_difference"),),
        ),
    ),
    "Optimizer steps a rollout": (
        Choice(
            {"training.mini_batches": 4},
            "With one optimizer step a rollout the ratio is 1 and no bound of it ever acts. More than one is what "
            "counts; 4 is our choice.",
            "The number is not given; bounds that act, at 0.3 % of tokens, need more than one.",
            "strong",
        ),
    ),
}
