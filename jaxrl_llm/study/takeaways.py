"""What arXiv 2508.08221 found, as records, and the page that sets our verdicts beside it.

``python -m jaxrl_llm.study.takeaways docs/paper`` writes docs/paper/README.md from the summaries that lie there.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxrl_llm.study import summary as summaries_of_studies
from jaxrl_llm.study import words

Expected = Literal["helps", "hurts", "no_difference", "no_gain"]
EXPECTATIONS: dict[Expected, str] = {
    "helps": "higher",
    "hurts": "lower",
    "no_difference": "about equal",
    "no_gain": "no gain, or lower",
}
AGREEMENTS = ("agrees", "disagrees", "no difference", "undecided", "not run")
SCALES = ("lab", "small", "paper")


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


_SMALLER = "aligned_medium aligned_135m_medium aligned_4b_medium"

TAKEAWAYS: tuple[Takeaway, ...] = (
    Takeaway(
        "takeaway 1",
        "Normalization over the group is steadier and ends higher than over the batch, or none; with rewards of -1 and 1 "
        "the batch does well too.",
        "base models on easy and hard data; aligned models on medium data",
        "Figures 4 and 18: curves, one seed. The section is missing in version 3, which still lists the finding.",
        "Group, batch and mixed normalization are invariant to affine maps of the reward: rewards of 0 and 1 and of -1 and "
        "1 have the same updates, and the second half cannot come from the formula "
        "(tests/test_laws_advantages.py holds the algebra).",
        (
            Check("e01_normalization", "*", "group", "none", "helps"),
            Check("e01_normalization", "*", "group", "batch", "helps"),
            Check("e02_reward_scale", "*", "minus_one_one", "zero_one", "helps"),
        ),
    ),
    Takeaway(
        "takeaway 2",
        "Without the division by the std, training is steadier and better where rewards are alike; elsewhere it is equal.",
        "easy data; hard data for the equality",
        "Figure 5: curves of 100 steps, one seed.",
        "The text takes the std from the batch's normalization, equation 7 from the group's: both readings stand below. The "
        "paper does not name the model.",
        tuple(
            Check("e03_without_std", f"*_{tier}", f"{kind}_mean", f"{kind}_std", expected)
            for tier, expected in (("easy", "helps"), ("hard", "no_difference"))
            for kind in ("group", "batch")
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
        "A higher upper bound of the ratio (1.28) helps aligned models and slows the fall of their entropy; base models gain "
        "nothing.",
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
        "The paper does not name the training data, and its Lite PPO runs at 8k are without the filter. The lengths of lab "
        "and small are short limits in about the same proportions.",
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
    "GRPO's KL coefficient and DAPO's bound, buffer and limit of resampling are not given; those of configs/ stand in.",
    tuple(
        Check(experiment, "*", "lite_ppo", other, "helps")
        for experiment in ("e12_lite_ppo", "e13_lite_ppo_aligned")
        for other in ("grpo", "dapo")
    ),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a comparison of one of our studies says about a check.

    Attributes:
      comparison: as in a summary.
    """

    check: Check
    scale: str
    cell: str
    comparison: Mapping[str, Any]

    @property
    def agreement(self) -> str:
        """One of :data:`AGREEMENTS`."""
        return agreement(self.check.expected, self.comparison["verdict"])


def agreement(expected: Expected, verdict: str) -> str:
    """How a verdict of ours stands to what the paper says: one of :data:`AGREEMENTS`.

    "no difference": the paper sees one, and we can exclude one of the smallest size that counts.
    """
    if verdict == "undecided":
        return "undecided"
    if verdict == expected or (expected == "no_gain" and verdict != "helps"):
        return "agrees"
    return "no difference" if verdict == "no_difference" else "disagrees"


def findings(check: Check, summaries: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Every comparison in our studies that a check is about."""
    return [
        Finding(check, summary["scale"], cell, comparison)
        for summary in summaries
        if summary["name"] == check.experiment
        for cell, content in summary["cells"].items()
        if check.is_about(cell)
        for comparison in content["comparisons"]
        if (comparison["arm"], comparison["reference"]) == (check.arm, check.reference)
    ]


def in_points(comparison: Mapping[str, Any]) -> str:
    """Difference and interval of a comparison in points of accuracy, its verdict and seeds."""
    difference = words.points_with_interval(*(comparison[key] for key in ("difference", "low", "high")))
    verdict = words.VERDICTS[comparison["verdict"]].words
    return f"{difference}, {verdict}, {comparison['seeds']} seed{'s' * (comparison['seeds'] != 1)}"


def _rows(takeaway: Takeaway, summaries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """(where, comparison, the paper, ours, agreement) of each finding, or of a check that has none."""
    for check in takeaway.checks:
        compared = f"{check.arm} against {check.reference}"
        expected = EXPECTATIONS[check.expected]
        found = findings(check, summaries)
        for finding in found:
            where = f"{check.number} {finding.scale}, {finding.cell}"
            yield where, compared, expected, in_points(finding.comparison), finding.agreement
        if not found:
            yield f"{check.number}, {check.cells}", compared, expected, "", "not run"


def _counted(agreements: Sequence[str]) -> str:
    counts = Counter(agreements)
    return ", ".join(f"{counts[name]} {name}" for name in AGREEMENTS if counts[name])


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The takeaways beside our verdicts, in Markdown: an overview, then each with every comparison that shows it.

    Args:
      summaries: as :func:`load` returns them.
    """
    overview = ["| | what the paper says | our comparisons |", "|---|---|---|"]
    parts = []
    for takeaway in (*TAKEAWAYS, LITE_PPO):
        rows = list(_rows(takeaway, summaries))
        counted = _counted([row[-1] for row in rows]) or "not run: no comparison of accuracies can show it here"
        overview.append(f"| {takeaway.name} | {takeaway.claim} | {counted} |")
        lines = [f"### {takeaway.name[0].upper()}{takeaway.name[1:]}", "", takeaway.claim, ""]
        lines += [f"- Where: {takeaway.conditions}.", f"- Shown by: {takeaway.evidence}", f"- But: {takeaway.caveat}"]
        if rows:
            lines += ["", "| where | comparison | the paper | ours | |", "|---|---|---|---|---|"]
            lines += ["| " + " | ".join(row) + " |" for row in rows]
        parts.append("\n".join(lines))
    return "\n".join(overview) + "\n\n" + "\n\n".join(parts)


def load(folder: str | Path) -> list[dict[str, Any]]:
    """The summaries eNN_*.json of a folder, by experiment and scale.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: a file is no summary of a study.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: expected one with summaries of studies, such as docs/paper")
    found = [summaries_of_studies.load_summary(path) for path in sorted(folder.glob("e[0-9][0-9]_*.json"))]
    for summary in found:
        if summary["scale"] not in SCALES:
            raise ValueError(f"{folder}: {summary['name']} has scale {summary['scale']!r}, expected one of {SCALES}")
    return sorted(found, key=lambda summary: (summary["name"], SCALES.index(summary["scale"])))


_INTRODUCTION = """\
# The paper's experiments, run again

Generated by `python -m jaxrl_llm.study.takeaways docs/paper` from the summaries in this folder, which
`jaxrl-llm study run --config configs/paper/eNN_NAME.py:SCALE` writes.

The paper is arXiv 2508.08221, "Tricks or Traps?": Qwen3 4B and 8B, base and aligned, one seed an arm, results as curves.
Ours are of other scales: `lab` trains decoders of some ten thousand parameters on sums of digits, `small` a real model of
135 M parameters on additions. So a verdict here says what a trick does there; that it agrees or disagrees with the paper
is one more observation, and no proof for or against a run of another size.

Differences are in points of accuracy on held-out problems, with 95 % intervals after correction for the comparisons of
a study ([how](../statistics.md)). *agrees*: our verdict is the paper's. *disagrees*: it is the opposite, or there is an
effect where the paper sees none. *no difference*: the paper sees one, and ours is smaller than what counts.
*undecided*: too few seeds to say. *not run*: there is no such run in this folder.
"""


def _experiments(folder: Path, summaries: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| experiment | question | seeds | steps | time | command |", "|---|---|---|---|---|---|"]
    for summary in summaries:
        name = f"{summary['name']} {summary['scale']}"
        page = next((f"{stem}.html" for stem in _stems(summary) if (folder / f"{stem}.html").is_file()), None)
        shown = f"[{name}]({page})" if page else name
        lines.append(
            f"| {shown} | {summary['question']} | {len(summary['seeds'])} | {summary['steps']} "
            f"| {words.duration(summary['seconds'])} | `{summary['command']}` |"
        )
    return "\n".join(lines)


def _stems(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a report beside its summary."""
    return f"{summary['name']}_{summary['scale']}", summary["name"]


def _comparisons(summaries: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| experiment | cell | comparison | final accuracy, points |", "|---|---|---|---|"]
    lines += [
        f"| {summary['name']} {summary['scale']} | {cell} | {row['arm']} against {row['reference']} | {in_points(row)} |"
        for summary in summaries
        for cell, content in summary["cells"].items()
        for row in content["comparisons"]
    ]
    return "\n".join(lines)


def page(folder: Path) -> str:
    """The text of README.md of a folder with summaries."""
    summaries = load(folder)
    parts = [_INTRODUCTION, "## The takeaways beside our verdicts\n", table(summaries)]
    if summaries:
        parts += ["\n## What was run\n", _experiments(folder, summaries)]
        parts += ["\n## Every comparison\n", _comparisons(summaries)]
    return "\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxrl_llm.study.takeaways", description=__doc__)
    parser.add_argument("folder", type=Path, help="with the summaries, such as docs/paper; README.md is written there")
    folder = parser.parse_args(arguments).folder
    text = page(folder)
    (folder / "README.md").write_text(text)
    print(folder / "README.md")


if __name__ == "__main__":
    main()
