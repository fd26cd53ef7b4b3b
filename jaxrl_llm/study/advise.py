"""The recipe that the evidence supports for a model, its data and its length: `jaxrl-llm advise`.

The evidence is the paper's takeaways and the verdicts of our own studies, the summaries of docs/paper, which a wheel
carries as `jaxrl_llm/assets/evidence`.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl_llm.study import takeaways
from jaxrl_llm.study.rules import RULES, SHORT, TIERS, Choice, Situation

EVIDENCE = Path(__file__).resolve().parents[1] / "assets" / "evidence"


@dataclasses.dataclass(frozen=True)
class Advice:
    """One rule, for one situation.

    Attributes:
      rule: its title.
      ours: what our studies found, the nearest to the situation.
      strength: strong, moderate, weak or contradictory.
    """

    rule: str
    choice: Choice
    ours: tuple[takeaways.Finding, ...]
    strength: str


def _applies(finding: takeaways.Finding, situation: Situation) -> bool:
    """Whether a cell has the kind of model and, where it names one, the length of the situation."""
    model, *words = finding.cell.split("_")
    limits = {"short", "middle", "long"} & set(words)
    return model == situation.model_kind and (not limits or ("short" in limits) == (situation.max_length <= SHORT))


def nearest(choice: Choice, situation: Situation, summaries: Sequence[Mapping[str, Any]]) -> tuple:
    """Findings about a choice on models of that kind: those of the situation's tier, or else those of the others."""
    found = [finding for check in choice.checks for finding in takeaways.findings(check, summaries)]
    found = [finding for finding in found if _applies(finding, situation)]
    same = [finding for finding in found if _tier(finding.cell) == situation.data]
    return tuple(same or found)


def _tier(cell: str) -> str | None:
    return next((tier for tier in TIERS if tier in cell.split("_")), None)


def strength(choice: Choice, findings: Sequence[takeaways.Finding]) -> str:
    """How well a choice is supported.

    Contradictory: a verdict of ours is the opposite of what it rests on. Else, where ours agree: strong if all that are
    decided do, moderate if some see no difference. Where none of ours is decided, what the rest of the evidence has;
    where ours see no difference alone, weak. What follows from a formula stays strong unless it is contradicted.
    """
    agreements = {finding.agreement for finding in findings}
    if "disagrees" in agreements:
        return "contradictory"
    if choice.strength == "strong":
        return "strong"
    if "agrees" in agreements:
        return "moderate" if "no difference" in agreements else "strong"
    return "weak" if "no difference" in agreements else choice.strength


def advise(situation: Situation, summaries: Sequence[Mapping[str, Any]]) -> list[Advice]:
    """The advice of every rule."""
    advices = []
    for title, choices in RULES.items():
        choice = next(choice for choice in choices if choice.fits(situation))
        ours = nearest(choice, situation, summaries)
        advices.append(Advice(title, choice, ours, strength(choice, ours)))
    return advices


def changes(situation: Situation, advices: Sequence[Advice]) -> dict[str, Any]:
    """Dotted path of a run's config -> value, of all advice and the length that was asked for."""
    values = {path: value for advice in advices for path, value in advice.choice.values.items()}
    return {"sampling.max_tokens": situation.max_length} | values


_TO_THE_PAPER = {
    "agrees": " (agrees)",
    "disagrees": " (disagrees)",
    "no difference": " (the paper sees one)",
    "undecided": "",  # the verdict says so
}


def _shown(finding: takeaways.Finding) -> str:
    check = finding.check
    compared = f"{check.arm} against {check.reference}"
    return (
        f"{check.number} {finding.scale}, {finding.cell}: {compared} {takeaways.in_points(finding.comparison)}"
        f"{_TO_THE_PAPER[finding.agreement]}"
    )


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _wrapped(label: str, content: str) -> str:
    return textwrap.fill(content, 100, initial_indent=f"  {label:<9}", subsequent_indent=" " * 11)


def text(situation: Situation, advices: Sequence[Advice]) -> str:
    """The advice as a person reads it, with the lines of a config at its end."""
    size = "" if situation.model_size is None else f" of {situation.model_size:g} B parameters"
    article = "an" if situation.model_kind == "aligned" else "a"
    parts = [
        f"For {article} {situation.model_kind} model{size} on {situation.data} data, answers of up to "
        f"{situation.max_length:,} tokens."
    ]
    for advice in advices:
        values = ", ".join(f"{path} = {_literal(value)}" for path, value in advice.choice.values.items())
        lines = [f"{advice.rule}  [{advice.strength}]", _wrapped("set", values)]
        lines += [_wrapped("why", advice.choice.why), _wrapped("paper", advice.choice.paper)]
        lines += [_wrapped("ours", _shown(finding)) for finding in advice.ours] or [_wrapped("ours", "nothing yet")]
        parts.append("\n".join(lines))
    config = [f"    c.{path} = {_literal(value)}" for path, value in changes(situation, advices).items()]
    parts.append("\n".join(["Lines of a config, on top of configs/base.py:", *config]))
    parts.append(_READING)
    return "\n\n".join(parts)


_READING = """\
The paper: arXiv 2508.08221, Qwen3 4B and 8B, one seed an arm. Ours: differences in points of accuracy, 95 % intervals,
on models far smaller than those. Other sizes than the paper's, and other limits than its 8k and 20k tokens, are
extrapolated. Where ours contradict the paper, the value stays the paper's, whose models are larger than ours;
"contradictory" then means: try both (docs/studies.md)."""
