"""The page that sets the verdicts of our studies beside what arXiv 2508.08221 found.

``python -m jaxrl_llm.study.takeaways docs/paper`` writes docs/paper/README.md from the summaries that lie there.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl_llm.study import words
from jaxrl_llm.study.paper import LITE_PPO, TAKEAWAYS, Check, Expected, Takeaway

EXPECTATIONS: dict[Expected, str] = {
    "helps": "higher",
    "hurts": "lower",
    "no_difference": "about equal",
    "no_gain": "no gain, or lower",
}
AGREEMENTS = ("agrees", "disagrees", "no difference", "undecided", "not run")
SCALES = ("lab", "small", "paper")


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
    seeds = f"{comparison['seeds']} seed{'s' * (comparison['seeds'] != 1)}"
    verdict = words.VERDICTS[comparison["verdict"]].words
    if comparison["identical"]:
        return f"{verdict}: the same answers, {seeds}"
    difference = words.points_with_interval(*(comparison[key] for key in ("difference", "low", "high")))
    return f"{difference}, {verdict}, {seeds}"


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
            yield f"{check.number}, `{check.cells}`", compared, expected, "", "not run"


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
    from jaxrl_llm.study.summary import load_summary  # slow: statistics come with it

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: expected one with summaries of studies, such as docs/paper")
    found = [load_summary(path) for path in sorted(folder.glob("e[0-9][0-9]_*.json"))]
    for summary in found:
        if summary["scale"] not in SCALES:
            raise ValueError(f"{folder}: {summary['name']} has scale {summary['scale']!r}, expected one of {SCALES}")
    return sorted(found, key=lambda summary: (summary["name"], SCALES.index(summary["scale"])))


_INTRODUCTION = """\
# The paper's experiments, run again

Generated by `python -m jaxrl_llm.study.takeaways docs/paper` from the summaries in this folder, which
`jaxrl-llm study run --config configs/paper/eNN_NAME.py:SCALE` writes.

The paper is arXiv 2508.08221, "Tricks or Traps?": Qwen3 4B and 8B, base and aligned, one seed an arm, results as
curves. Ours are of other scales: `lab` trains the two embedded models of `configs/studies/lab.py` on chains of digits,
`small` a real model of 135 M parameters on additions. So a verdict here says what a trick does there; that it agrees or
disagrees with the paper is one more observation, and no proof for or against a run of another size.

Differences are in points of accuracy on held-out problems, with 95 % intervals; verdicts are after Holm's correction
for all comparisons of a study, so that an interval may leave out 0 where its verdict is *undecided*
([how](../statistics.md)). *agrees*: our verdict is the paper's. *disagrees*: it is the opposite, or there is an
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
        f"| {summary['name']} {summary['scale']} | {cell} | {row['arm']} against {row['reference']} "
        f"| {in_points(row)} |"
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
