"""What arXiv 2508.08221 found, as records: its eight takeaways, and Lite PPO."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Literal

Expected = Literal["helps", "hurts", "no_difference", "no_gain"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison in which a finding of the paper can be seen.

    Attributes:
      experiment: name of a file in configs/paper.
      cells: patterns of the names of its cells, as in fnmatch, with spaces between.
      arm: of the experiment.
      reference: the arm that it is compared with.
      expected: what the paper says of the arm's accuracy against the reference's; no_gain: it does not help.
    """

    experiment: str
    cells: str
    arm: str
    reference: str
    expected: Expected

    @property
    def number(self) -> str:
        """E4, of e04_batch_std."""
        return f"E{int(self.experiment[1:3])}"

    def is_about(self, cell: str) -> bool:
        return any(fnmatch.fnmatch(cell, pattern) for pattern in self.cells.split())


@dataclasses.dataclass(frozen=True)
class Takeaway:
    """A finding of the paper.

    Attributes:
      name: "takeaway 3", in the numbering of arXiv version 3, or another name.
      claim: in our words.
      conditions: models, data and lengths that it is about.
      evidence: what the paper shows for it.
      caveat: what speaks against it, or what cannot be seen here.
      checks: where it can be seen; empty where no comparison of accuracies can show it.
    """

    name: str
    claim: str
    conditions: str
    evidence: str
    caveat: str
    checks: tuple[Check, ...]


# Of the aligned models, those that stand for the smaller one.
_SMALLER = "aligned_medium aligned_135m_medium aligned_4b_medium"

TAKEAWAYS: tuple[Takeaway, ...] = (
    Takeaway(
        "takeaway 1",
        "Normalization over the group is steadier and ends higher than over the batch, or none; with rewards of -1 and "
        "1 the batch does well too.",
        "base models on easy and hard data; aligned models on medium data",
        "Figures 4 and 18: curves, one seed. The section is missing in version 3, which still lists the finding.",
        "Group, batch and mixed normalization are invariant to affine maps of the reward: rewards of 0 and 1 and of -1 "
        "and 1 have the same updates, and the second half cannot come from the formula "
        "(tests/test_laws_advantages.py holds the algebra).",
        (
            Check("e01_normalization", "*", "group", "none", "helps"),
            Check("e01_normalization", "*", "group", "batch", "helps"),
            Check("e02_reward_scale", "*", "minus_one_one", "zero_one", "helps"),
        ),
    ),
    Takeaway(
        "takeaway 2",
        "Without the division by the std, training is steadier and better where rewards are alike; elsewhere equal.",
        "easy data; hard data for the equality",
        "Figure 5: curves of 100 steps, one seed.",
        "The text takes the std from the batch's normalization, equation 7 from the group's: both readings stand "
        "below. The paper does not name the model.",
        (
            Check("e03_without_std", "*_easy", "group_mean", "group_std", "helps"),
            Check("e03_without_std", "*_easy", "batch_mean", "batch_std", "helps"),
            Check("e03_without_std", "*_hard", "group_mean", "group_std", "no_difference"),
            Check("e03_without_std", "*_hard", "batch_mean", "batch_std", "no_difference"),
        ),
    ),
    Takeaway(
        "takeaway 3",
        "The group's mean with the batch's std is more robust than with the group's std.",
        "base models, easy and hard data",
        "Figure 6: curves of 1000 to 2000 steps on two models and two tiers, one seed each.",
        "The paper writes no formula for the batch's std; here it is that of the raw rewards, as in ROLL.",
        (Check("e04_batch_std", "base*", "batch_std", "group_std", "helps"),),
    ),
    Takeaway(
        "takeaway 4",
        "A higher upper bound of the ratio (1.28) helps aligned models and slows the fall of their entropy; base "
        "models gain nothing.",
        "medium data; easy data too for aligned models",
        "Figures 7 and 8: curves on four models, one seed each; gains of about half a point to two points.",
        "Differences of that size are within what seeds alone can do.",
        (
            Check("e05_clip_higher", "aligned*", "clip_28", "clip_20", "helps"),
            Check("e05_clip_higher", "base*", "clip_28", "clip_20", "no_gain"),
        ),
    ),
    Takeaway(
        "takeaway 5",
        "At 1.20 the clip stops tokens that begin a turn of thought (therefore, if, but); at 1.28 it stops few, mostly "
        "common words.",
        "one prompt, and the 20 tokens that were stopped most",
        "Figures 10 and 19: counts without numbers; model and steps are not given.",
        "A statement about words: the models of the scales lab and small write none. E7 counts what is stopped.",
        (),
    ),
    Takeaway(
        "takeaway 6",
        "The smaller aligned model gets better with the upper bound, up to 1.32; the larger one is best at 1.28.",
        "aligned models, medium data",
        "Figure 11: four bounds, one seed, one family; called a scaling law.",
        "Only the first half is set against the scales lab and small, whose models are small.",
        (
            Check("e08_clip_sweep", _SMALLER, "clip_24", "clip_20", "helps"),
            Check("e08_clip_sweep", _SMALLER, "clip_28", "clip_20", "helps"),
            Check("e08_clip_sweep", _SMALLER, "clip_32", "clip_20", "helps"),
            Check("e08_clip_sweep", "aligned_8b_medium", "clip_28", "clip_20", "helps"),
        ),
    ),
    Takeaway(
        "takeaway 7",
        "The mean over all tokens is better than the mean over sequences on base models, most on hard data; on aligned "
        "models it is worse, by a little.",
        "medium and hard data",
        "Figures 12 and 17: curves, one seed; several points on base models, about one on aligned ones.",
        "Captions and panels disagree on the data.",
        (
            Check("e09_aggregation", "base*", "token", "sequence", "helps"),
            Check("e09_aggregation", "aligned*", "token", "sequence", "hurts"),
        ),
    ),
    Takeaway(
        "takeaway 8",
        "Leaving truncated answers out of the loss is a clear gain at a maximum of 8k tokens and nearly none at 20k.",
        "the larger base model; aligned at 8k only",
        "Figures 13 and 14: curves, one seed.",
        "The paper does not name the training data, and its Lite PPO runs at 8k are without the filter. The lengths of "
        "lab and small are short limits in about the same proportions.",
        (
            Check("e10_overlong_filter", "*_short", "filter", "without", "helps"),
            Check("e10_overlong_filter", "*_long", "filter", "without", "no_difference"),
        ),
    ),
)
LITE_PPO = Takeaway(
    "Lite PPO",
    "Group mean, batch std and the mean over all tokens on a plain PPO clip beat GRPO and DAPO.",
    "base models on easy and hard data (section 5); aligned models in the ICLR version",
    "Figure 15: curves, one seed; tables 1 to 4 of the ICLR version: 1.5 to 2.8 points in the mean.",
    "GRPO's KL coefficient and DAPO's bound, buffer and limit of resampling are not given; those of configs/ stand in. "
    "DAPO draws up to ten rollouts for a step, so that equal steps are not equal costs.",
    tuple(
        Check(experiment, "*", "lite_ppo", other, "helps")
        for experiment in ("e12_lite_ppo", "e13_lite_ppo_aligned")
        for other in ("grpo", "dapo")
    ),
)
