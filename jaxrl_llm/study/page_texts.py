"""Parts of a study's page about tokens and texts: probabilities, clipped tokens, loops, samples before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from jaxrl_llm.report.html import element, wrap
from jaxrl_llm.study.figures import Look, numbered
from jaxrl_llm.study.page_verdicts import grid, named, number
from jaxrl_llm.study.words import percent

Summary = Mapping[str, Any]

_BINS = (0, 0.3, 0.6, 0.85, 0.95, 0.99, 1)
_TOKENS = 20
_PROBLEMS = 2  # shown of each arm
_CHARACTERS = 1500  # shown of a text
_VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "↵"})


def probabilities(summary: Summary, look: Mapping[str, Look]) -> str:
    """Shares of tokens by the probability with which they were sampled, as in figure 9 of the paper."""
    head = ("arm", *(f"{low:g} to {high:g}" for low, high in pairwise(_BINS)))
    parts = []
    for name, cell in summary["cells"].items():
        rows = []
        for arm, row in cell["arms"].items():
            counts = row.get("counts", {}).get("probability") or ()
            if total := sum(counts):
                bars = (_bar(percent(count / total), count / total) for count in counts)
                rows.append((named(arm, look), *bars))
        if rows:
            parts += [element("h3", name), grid(head, rows)]
    note = "Share of all sampled tokens by the probability they had, in the bins of figure 9 of arXiv 2508.08221."
    return element("p", note) + "".join(parts) if parts else ""


def _bar(text: str, share: float) -> str:
    """A cell of a number over a bar of that share of its width."""
    return element("td", text, class_="number bar", style=f"background-size:{100 * share:.1f}% 70%")


def census(summary: Summary, look: Mapping[str, Look]) -> str:
    """The tokens that the clip bound most often, of each arm, as in figure 10 of the paper."""
    parts = []
    for name, cell in summary["cells"].items():
        tables = []
        for arm, row in cell["arms"].items():
            counts = row.get("counts", {})
            clipped = counts.get("clipped") or {}
            most = sorted(clipped.items(), key=lambda item: (-item[1], item[0]))[:_TOKENS]
            if any(count for _, count in most):
                rows = _tokens([item for item in most if item[1]], counts.get("tokens") or {})
                title = element("h4", f"{numbered(arm, look)}: {sum(clipped.values()):,} clipped")
                tables.append(wrap("div", title, grid(("token", "clipped", "rate"), rows)))
        if tables:
            inside = wrap("div", *tables, class_="tokens")
            parts.append(f"<details open>{element('summary', name)}{inside}</details>")
    note = (
        f"The {_TOKENS} tokens with the most clipped occurrences, over all steps and seeds, and the rate: clipped "
        "of all occurrences of that token. Figure 10 of arXiv 2508.08221. ␣ is a space, ↵ a line break."
    )
    return element("p", note) + "".join(parts) if parts else ""


def _tokens(most: Sequence[tuple[str, int]], tokens: Mapping[str, int]) -> list[tuple[str, ...]]:
    top = most[0][1]
    rows = []
    for token, count in most:
        seen = tokens.get(token)
        rate = percent(count / seen) if seen else "–"
        shown = wrap("th", element("code", token.translate(_VISIBLE) or "(empty)"), scope="row")
        rows.append((shown, _bar(f"{count:,}", count / top), number(rate)))
    return rows


def repeat_ratios(summary: Summary, look: Mapping[str, Look]) -> str:
    """Of the truncated completions, the share that ends in a loop: arms down, cells across."""
    cells = summary["cells"]
    found: dict[str, dict[str, float]] = {}
    for name, cell in cells.items():
        for arm, row in cell["arms"].items():
            if (value := (row.get("repeat_ratio") or {}).get("value")) is not None:
                found.setdefault(arm, {})[name] = value
    if not found:
        return ""
    shown = [name for name in cells if any(name in by_cell for by_cell in found.values())]
    rows = [
        (
            named(arm, look),
            *(_bar(percent(value), value) if (value := of.get(name)) is not None else number("–") for name in shown),
        )
        for arm, of in found.items()
    ]
    note = "Share of the truncated completions that end in a loop (repeat ratio, figure 14 of arXiv 2508.08221)."
    return element("p", note) + grid(("arm", *shown), rows)


def samples(summary: Summary, look: Mapping[str, Look]) -> str:
    """Texts of the same problems at the first and the last step that have any, of each arm."""
    parts = []
    for name, cell in summary["cells"].items():
        for arm, row in cell["arms"].items():
            if row.get("samples"):
                title = element("summary", f"{name}, {numbered(arm, look)}")
                opened = "" if parts else " open"
                parts.append(f"<details{opened}>{title}{_pairs(row['samples'])}</details>")
    return "".join(parts)


def _pairs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Before beside after, for the first few problems."""
    first, last = min(row["step"] for row in rows), max(row["step"] for row in rows)
    by_problem: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["question"], {}).setdefault(row["step"], row)
    both = sorted(by_problem.values(), key=lambda steps: -len(steps.keys() & {first, last}))
    articles = []
    for steps in both[:_PROBLEMS]:
        row = next(iter(steps.values()))
        head = element("h4", f"Answer {row['answer']}") + element("pre", _cut(row["question"]))
        texts = [wrap("div", element("h4", f"Step {step}"), _text(steps.get(step))) for step in sorted({first, last})]
        articles.append(wrap("article", head, wrap("div", *texts, class_="pair")))
    return "".join(articles)


def _text(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return element("p", "No text was recorded.")
    right = row["correct"]
    mark = element("span", "correct" if right else "wrong", class_=f"badge {'good' if right else 'bad'}")
    return f'<p class="badges">{mark}</p>{element("pre", _cut(row["completion"]))}'


def _cut(text: str) -> str:
    more = len(text) - _CHARACTERS
    return text if more <= 0 else f"{text[:_CHARACTERS]}… ({more:,} more characters)"
