"""Parts of a study's page that judge: verdict tables, what is claimed beside what was found, accuracies, warnings."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxrl_llm.report.html import element, wrap
from jaxrl_llm.study.figures import Look, numbered
from jaxrl_llm.study.words import (
    VERDICTS,
    interval,
    percent,
    percent_with_interval,
    points,
    points_with_interval,
    probability,
)

Summary = Mapping[str, Any]

_SENTENCES = 12  # that a reader goes through
_CORRECTED = ("interval, corrected", "p, corrected")
_REASON = 300  # characters shown of why a run failed


def grid(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Sequence[str] = ()) -> str:
    """A table in a box of its own that scrolls.

    Args:
      head: of each column; all but the first and those in ``texts`` are of numbers.
      rows: cells of HTML.
    """
    kinds = ("" if title in (head[0], *texts) else "number" for title in head)
    titles = (element("th", title, scope="col", class_=kind) for title, kind in zip(head, kinds, strict=True))
    top = f"<thead><tr>{''.join(titles)}</tr></thead>"
    body = "".join(wrap("tr", *cells) for cells in rows)
    return f'<div class="scroll"><table class="grid">{top}<tbody>{body}</tbody></table></div>'


def number(text: str, **attributes: str) -> str:
    """A cell of a number."""
    return element("td", text, class_="number", **attributes)


def named(arm: str, look: Mapping[str, Look]) -> str:
    """The heading of an arm's row: its number and its name."""
    return element("th", numbered(arm, look), scope="row")


def badge(verdict: str, text: str | None = None) -> str:
    """A verdict in symbol, colour and words; ``text`` in place of the words."""
    shown = VERDICTS[verdict]
    return element("span", f"{shown.symbol} {shown.words if text is None else text}", class_=f"verdict {verdict}")


def verdicts(summary: Summary, look: Mapping[str, Look]) -> str:
    """All verdicts at a glance where there are several cells, then a table for each cell."""
    cells = {name: cell["comparisons"] for name, cell in summary["cells"].items() if cell["comparisons"]}
    if not cells:
        return ""
    parts = [_overview(cells, look)] if len(cells) > 1 else []
    for name, comparisons in cells.items():
        references = {row["reference"] for row in comparisons}
        against = f", against {references.pop()}" if len(references) == 1 else ""
        parts += [element("h3", f"{name}{against}"), _table(comparisons, look, with_reference=not against)]
    note = (
        f"Differences in points of accuracy with their {100 * summary['confidence']:g} % interval, paired by seed. "
        f"Corrected for all comparisons of the study by the method of {summary['correction'].capitalize()}. Helps, "
        "hurts: the corrected interval lies on one side of 0. "
        f"No difference: the interval lies within ±{100 * summary['smallest_effect']:g} points. Undecided: more seeds "
        "are needed. Detectable: the smallest difference that this number of seeds would most likely have shown."
    )
    return "".join(parts) + element("p", note, class_="note")


def _overview(cells: Mapping[str, Sequence[Mapping[str, Any]]], look: Mapping[str, Look]) -> str:
    """Arms down, cells across: the verdict's symbol and the difference."""
    found = {(row["arm"], row["reference"]): {} for comparisons in cells.values() for row in comparisons}
    for name, comparisons in cells.items():
        for row in comparisons:
            found[row["arm"], row["reference"]][name] = badge(row["verdict"], points(row["difference"]))
    several = len({reference for _, reference in found}) > 1
    rows = []
    for (arm, reference), by_cell in found.items():
        title = numbered(arm, look) + (f" against {reference}" if several else "")
        cells_of_row = (wrap("td", by_cell.get(name, "–")) for name in cells)
        rows.append((element("th", title, scope="row"), *cells_of_row))
    return grid(("all cells", *cells), rows, texts=tuple(cells))


def _table(comparisons: Sequence[Mapping[str, Any]], look: Mapping[str, Look], *, with_reference: bool) -> str:
    """One row a comparison, with the sentence that says it."""
    head = ("arm", "verdict", "difference", *_CORRECTED, "seeds", "detectable", "mean over steps", "best")
    rows = []
    for row in comparisons:
        arm = numbered(row["arm"], look) + (f" against {row['reference']}" if with_reference else "")
        rows.append(
            (
                element("th", arm, scope="row"),
                wrap("td", badge(row["verdict"])),
                number(points_with_interval(row["difference"], row["low"], row["high"])),
                number(interval(row["low_adjusted"], row["high_adjusted"])),
                number(probability(row["p_adjusted"])),
                number(str(row["seeds"])),
                number(_detectable(row["minimum_detectable"])),
                *(number(points_with_interval(**row[metric])) for metric in ("area", "best")),
            )
        )
    listed = wrap("ul", *(element("li", row["text"]) for row in comparisons))
    return f"{grid(head, rows, texts=('verdict',))}<details><summary>In words</summary>{listed}</details>"


def _detectable(value: float | None) -> str:
    """In points; accuracies differ by 100 at most."""
    if value is None:
        return "–"
    return "none" if value >= 1 else f"{100 * value:.1f}"


def claims(summary: Summary) -> str:
    """The paper's claim beside what was found, and the same for each trick that has a claim of its own."""
    said = summary.get("claim")
    parts = []
    if said:
        sentences = "".join(element("li", line) for line in _sentences(summary["cells"]))
        source = element("p", summary["source"], class_="note") if summary.get("source") else ""
        parts.append(
            f'<div class="claim"><div><h3>The claim</h3>{element("p", said)}{source}</div>'
            f"<div><h3>Found here</h3><ul>{sentences}</ul></div></div>"
        )
    rows = []
    cells = summary["cells"]
    arms = {arm: row["tricks"] for cell in cells.values() for arm, row in cell["arms"].items()}
    for arm, tricks in arms.items():
        for trick in tricks:
            if trick.get("claim"):
                found = (_found(arm, cell["comparisons"]) for cell in cells.values())
                source = element("p", trick["source"], class_="note") if trick.get("source") else ""
                claim = wrap("td", element("span", trick["claim"]), source, class_="words")
                rows.append((element("th", arm, scope="row"), *found, claim))
    if rows:
        parts += [
            element("h3", "Claims of each trick's source"),
            grid(("arm", *cells, "claim"), rows, texts=(*cells, "claim")),
        ]
    return "".join(parts)


def _sentences(cells: Mapping[str, Any]) -> list[str]:
    """Each comparison in a sentence; where these are many, the arms of each verdict in a sentence a cell.

    Where nothing is compared, the accuracies.
    """
    every = [(name, row) for name, cell in cells.items() for row in cell["comparisons"]]
    if not every:
        reached = [(name, arm, row) for name, cell in cells.items() for arm, row in cell["arms"].items()]
        return [
            f"{name}, {arm}: {percent(_start(row))} before training, {_interval(row['mean']['final'])} at the end"
            for name, arm, row in reached
        ]
    if len(every) <= _SENTENCES:
        return [f"{name}: {row['text']}" for name, row in every]
    lines = []
    for name, cell in cells.items():
        arms = {
            verdict: [row["arm"] for row in cell["comparisons"] if row["verdict"] == verdict] for verdict in VERDICTS
        }
        said = "; ".join(f"{VERDICTS[verdict].words}: {', '.join(some)}" for verdict, some in arms.items() if some)
        lines.append(f"{name}. {said}")
    return lines


def _found(arm: str, comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The verdicts on an arm in one cell."""
    shown = [badge(row["verdict"], points(row["difference"])) for row in comparisons if row["arm"] == arm]
    return wrap("td", " ".join(shown) or "–")


def accuracies(summary: Summary, look: Mapping[str, Look]) -> str:
    """A table for each cell: what each arm reached, and under it the number of each seed."""
    head = (
        "arm",
        "at step 0",
        "final",
        "mean over steps",
        "best",
        "steps to target",
        "reached by",
        "collapsed",
        "seeds",
    )
    parts = []
    for name, cell in summary["cells"].items():
        rows, seeds = [], []
        for arm, row in cell["arms"].items():
            per_seed = row["per_seed"]
            if not per_seed["final"]:
                continue
            reached = row["reached"]
            rows.append(
                (
                    named(arm, look),
                    number(percent(_start(row))),
                    *(number(_interval(row["mean"][metric])) for metric in ("final", "area", "best")),
                    number("–" if reached["median"] is None else f"{reached['median']:g}"),
                    number(f"{reached['reached']} of {reached['of']}"),
                    number(str(sum(map(bool, per_seed["collapsed"])))),
                    number(str(len(per_seed["final"]))),
                )
            )
            of_seed = dict(zip(per_seed["seeds"], per_seed["final"], strict=True))
            seeds.append((named(arm, look), *(number(percent(of_seed.get(seed))) for seed in summary["seeds"])))
        if rows:
            every = grid(("arm", *(f"seed {seed}" for seed in summary["seeds"])), seeds)
            target = f", target {percent(cell['target'])}" if cell["target"] is not None else ""
            parts += [element("h3", name + target), grid(head, rows)]
            parts.append(f"<details><summary>Final accuracy of every seed</summary>{every}</details>")
    note = element(
        "p",
        "Means over seeds with their interval. The target is nine tenths of what the reference gains; steps to it: the "
        "median over seeds, where those that never reach it count as the slowest.",
    )
    return note + "".join(parts) if parts else ""


def _start(row: Mapping[str, Any]) -> float | None:
    """An arm's accuracy before any update, mean over seeds."""
    values = [value for value in row["per_seed"]["start"] if value is not None]
    return statistics.fmean(values) if values else None


def _interval(mean: Mapping[str, float | None]) -> str:
    return percent_with_interval(mean["value"], mean["low"], mean["high"])


def warnings(summary: Summary) -> str:
    """What a reader must know before the verdicts: runs that failed or collapsed, knobs that changed nothing."""
    cells_of: dict[str, list[str]] = {}  # what is said of an arm -> the cells in which it holds
    for name, cell in summary["cells"].items():
        for arm, row in cell["arms"].items():
            for line in _warnings(row):
                cells_of.setdefault(f"{arm}: {line}", []).append(name)
    if not cells_of:
        return ""
    listed = "".join(
        element("li", f"{line} (in {', '.join(cells)})" if len(summary["cells"]) > 1 else line)
        for line, cells in cells_of.items()
    )
    return f'<section class="notice"><h2>Before you read on</h2><ul>{listed}</ul></section>'


def _warnings(row: Mapping[str, Any]) -> Iterable[str]:
    """Sentences on one arm in one cell."""
    seeds_of: dict[str, list[int]] = {}
    for run in row.get("failed", ()):
        seeds_of.setdefault(run["reason"], []).append(run["seed"])
    for reason, seeds in seeds_of.items():
        yield f"{_seeds(seeds)} failed: {reason[:_REASON]}"
    collapsed = row["per_seed"]["collapsed"]
    if any(collapsed):
        yield f"{sum(map(bool, collapsed))} of {len(collapsed)} runs collapsed"
    if row.get("missing"):
        yield f"no record of {_seeds(row['missing'])} yet"
    if lost := sum(map(bool, row["per_seed"].get("entropy_collapsed", ()))):
        yield f"{lost} of {len(collapsed)} runs lost their entropy"
    for metric in row.get("inert", ()):
        yield f"{metric} was 0 in every run, so what it counts changed nothing"


def _seeds(seeds: Sequence[int]) -> str:
    """Such as "seed 3" or "seeds 3, 6–15"; ``seeds`` rise."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    named = (str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(named)}"
