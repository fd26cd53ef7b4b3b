"""The page of a study: one HTML file that fetches nothing and runs no script, from the summary alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl_llm.report import curves
from jaxrl_llm.report.html import document, element, table, wrap
from jaxrl_llm.study import figures, page_benchmarks, page_texts, page_verdicts
from jaxrl_llm.study.page_style import STYLE
from jaxrl_llm.study.summary import SCHEMA
from jaxrl_llm.study.words import METRICS, VERDICTS, duration

# Quantities of a run, one panel each with a line for every arm: paper figures 7 (entropy), 13 (length), 14 (loops)
_PANELS = (
    curves.Panel("reward", "Reward of the rollouts", (("reward", ""),), note="As the verifier gave it."),
    curves.Panel(
        "entropy",
        "Entropy, nats a token",
        (("sampled_entropy", ""), ("entropy", "")),
        note="Mean of -log p of the sampled tokens.",
    ),
    curves.Panel("length", "Response length, tokens", (("length", ""),)),
    curves.Panel("truncated", "Truncated at the limit", (("truncated", ""),), share=True),
    curves.Panel(
        "loops",
        "Truncated completions that end in a loop",
        (("repeat_ratio", ""),),
        share=True,
        note="Repeat ratio, as in figure 14 of arXiv 2508.08221, by the rule of log.loop.",
    ),
    curves.Panel("clip_high", "Tokens where the upper bound binds", (("effect/clip_high", ""),), share=True),
    curves.Panel("clip_low", "Tokens where the lower bound binds", (("effect/clip_low", ""),), share=True),
    curves.Panel("gradient", "Gradient norm, before clipping", (("gradient_norm", ""),)),
    curves.Panel(
        "reward_std",
        "Standard deviation of rewards in a group",
        (("reward_std_group", ""), ("reward_std_batch", "")),
        note="Mean over groups. Where it falls to 0, a group carries no gradient.",
    ),
)


class Section(NamedTuple):
    """A part of the page: its id, its heading, and its HTML, which is empty where nothing was recorded."""

    name: str
    heading: str
    html: str


def write(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Writes the page of a study and returns its path.

    Args:
      summary: as :func:`jaxrl_llm.study.summary.summarize` makes it, or as read from summary.json. A part of it that
        is missing or empty has no section.

    Raises:
      ValueError: the summary is of another version of the library.
    """
    if summary.get("schema") != SCHEMA:
        raise ValueError(f"summary: schema = {summary.get('schema')!r}, expected {SCHEMA}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_page(summary), encoding="utf-8")
    return target


def _page(summary: Mapping[str, Any]) -> str:
    arms = list(dict.fromkeys(arm for cell in summary["cells"].values() for arm in cell["arms"]))
    compared = Counter(row["reference"] for cell in summary["cells"].values() for row in cell["comparisons"])
    reference = compared.most_common(1)[0][0] if compared else arms[0]
    look = figures.looks(arms, reference)
    sections = [
        Section("verdicts", "Verdicts", page_verdicts.verdicts(summary, look)),
        Section("effects", "Effects", _forests(summary, look)),
        Section("claims", "What is claimed, and what was found", page_verdicts.claims(summary)),
        Section("setting", "Setting", _setting(summary, look)),
        Section("learning", "Learning curves", _learning(summary, look, reference)),
        Section("behaviour", "What changed beside accuracy", _panels(summary, look)),
        Section("probability", "Probability of the sampled tokens", page_texts.probabilities(summary, look)),
        Section("census", "Tokens at which the clip bound", page_texts.census(summary, look)),
        Section("loops", "Endless completions", page_texts.repeat_ratios(summary, look)),
        Section("texts", "Texts before and after", page_texts.samples(summary, look)),
        Section("arms", "Accuracy of each arm", page_verdicts.accuracies(summary, look)),
        Section("benchmarks", "Accuracy by benchmark", page_benchmarks.benchmarks(summary, look)),
        Section("provenance", "Provenance", _provenance(summary)),
    ]
    sections = [section for section in sections if section.html]
    links = "".join(element("a", section.heading, href=f"#{section.name}") for section in sections)
    return document(
        f"{summary['name']}: jaxrl_llm study",
        wrap("header", element("h1", summary["name"]), element("p", summary["question"], class_="question")),
        f"<main>{_tiles(summary)}<nav>{links}</nav>{page_verdicts.warnings(summary)}",
        *(wrap("section", element("h2", heading), html, id=name) for name, heading, html in sections),
        "</main>",
        style=STYLE,
    )


def _tiles(summary: Mapping[str, Any]) -> str:
    """The size of the study and its verdicts, counted."""
    cells = summary["cells"].values()
    arms = max((len(cell["arms"]) for cell in cells), default=0)
    counted = Counter(row["verdict"] for cell in cells for row in cell["comparisons"])
    tiles = [
        (f"{verdict.symbol} {verdict.words}", str(counted[name]), f"of {sum(counted.values())} comparisons")
        for name, verdict in VERDICTS.items()
        if counted[name]
    ]
    runs = sum(len(arm["per_seed"]["final"]) + len(arm.get("failed", ())) for c in cells for arm in c["arms"].values())
    remark = f"{_count(len(cells), 'cell')} × {_count(arms, 'arm')} × {_count(len(summary['seeds']), 'seed')}"
    tiles.append(("Runs", f"{runs:,}", remark))
    tiles.append(("Time", duration(summary["seconds"]), summary["devices"]))
    return wrap(
        "section",
        *(
            wrap("div", element("h3", name), element("p", value, class_="value"), element("p", remark), class_="tile")
            for name, value, remark in tiles
        ),
        class_="tiles",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _forests(summary: Mapping[str, Any], look: Mapping[str, figures.Look]) -> str:
    """A forest plot for each cell, all with one axis."""
    smallest = summary["smallest_effect"]
    every = [row for cell in summary["cells"].values() for row in cell["comparisons"]]
    if not every:
        return ""
    limits = figures.forest_limits(every, smallest)
    drawn = []
    for place, (name, cell) in enumerate(summary["cells"].items()):
        if cell["comparisons"]:
            label = f"Differences of all arms in {name}"
            svg = figures.forest(
                f"forest{place}", label, cell["comparisons"], smallest_effect=smallest, limits=limits, look=look
            )
            drawn.append(wrap("figure", element("h3", name), svg))
    references = sorted({row["reference"] for row in every})
    several = " A row names the number of the arm that it is compared with." if len(references) > 1 else ""
    note = (
        f"Difference of each arm to {' or '.join(references)}, paired by seed, with its "
        f"{100 * summary['confidence']:g} % interval; thin: corrected for all comparisons. Grey band: smaller than the "
        f"smallest effect that counts, {100 * smallest:g} points. Right of the line: better than the reference."
        f"{several}"
    )
    return element("p", note) + wrap("div", *drawn, class_="curves")


def _learning(summary: Mapping[str, Any], look: Mapping[str, figures.Look], reference: str) -> str:
    """Held-out accuracy over the steps, all arms of each cell, at most five in a picture."""
    rows = []  # of pictures: one row holds what stands side by side
    for place, (name, cell) in enumerate(summary["cells"].items()):
        drawn = {arm: entry["evaluations"] for arm, entry in cell["arms"].items() if entry.get("evaluations")}
        pictures = []
        for number, group in enumerate(figures.groups(list(drawn), reference)):
            chosen = {arm: drawn[arm] for arm in group}
            label = f"Held-out accuracy in {name}: {', '.join(group)}"
            svg = figures.curves_of(f"learning{place}-{number}", label, chosen, look, share=True, within=drawn)
            if svg:
                pictures.append(wrap("figure", element("h3", name), figures.key(group, look), svg))
        rows.append(pictures)
    if all(len(pictures) == 1 for pictures in rows):
        rows = [[picture for pictures in rows for picture in pictures]]
    note = (
        f"Accuracy on held-out problems, mean over seeds. Band: {100 * summary['confidence']:g} % interval of the mean."
    )
    shown = "".join(wrap("div", *pictures, class_="curves") for pictures in rows if pictures)
    return element("p", note) + shown if shown else ""


def _panels(summary: Mapping[str, Any], look: Mapping[str, figures.Look]) -> str:
    """The other quantities of the runs, a panel each with all arms of a cell."""
    parts = []
    for place, (name, cell) in enumerate(summary["cells"].items()):
        pictures = []
        for panel in _PANELS:
            metric = _recorded(panel, cell["arms"].values())
            drawn = {arm: found for arm, row in cell["arms"].items() if (found := row.get("curves", {}).get(metric))}
            label = f"{panel.title}, {name}"
            if svg := figures.curves_of(f"{panel.name}{place}", label, drawn, look, share=panel.share, smooth=True):
                note = element("figcaption", panel.note) if panel.note else ""
                pictures.append(wrap("figure", element("h4", panel.title), svg, note))
        if pictures:
            parts.append(element("h3", name) + figures.key(list(cell["arms"]), look))
            parts.append(wrap("div", *pictures, class_="curves"))
    note = "Means over seeds; curves of many points are moving means of a tenth of the points."
    return element("p", note) + "".join(parts) if parts else ""


def _recorded(panel: curves.Panel, arms: Iterable[Mapping[str, Any]]) -> str:
    """The first metric of the panel that an arm has; the panel's first where none has any."""
    recorded = {metric for arm in arms for metric in arm.get("curves", {})}
    return next((metric for metric, _ in panel.lines if metric in recorded), panel.lines[0][0])


def _setting(summary: Mapping[str, Any], look: Mapping[str, figures.Look]) -> str:
    run = summary["run"]
    rows = [
        ("engine", summary["engine"] + (f", scale {summary['scale']}" if summary["scale"] else "")),
        ("model", run.get("model.source", "–")),
        ("data", run.get("data.source", "–")),
        ("seeds", f"{len(summary['seeds'])} an arm; arms share prompts, order and sampling keys of a seed"),
        ("held-out problems", str(summary["problems"])),
        ("steps", str(summary["steps"])),
        ("command", summary["command"]),
    ]
    if any(cell["comparisons"] for cell in summary["cells"].values()):
        corrected = f"corrected by the method of {summary['correction'].capitalize()}"
        rows += [
            ("compared", METRICS[summary["metric"]]),
            ("smallest effect", f"{100 * summary['smallest_effect']:g} points"),
            ("intervals", f"{100 * summary['confidence']:g} %; {corrected} over all comparisons"),
        ]
    parts = ["<dl>", *(element("dt", name) + element("dd", value) for name, value in rows), "</dl>"]
    cells = [(name, _changes(cell["changes"])) for name, cell in summary["cells"].items()]
    parts += [element("h3", "Cells"), table(cells)]
    arms = {arm: row["tricks"] for cell in summary["cells"].values() for arm, row in cell["arms"].items()}
    parts += [element("h3", "Arms"), table((figures.numbered(arm, look), _tricks(used)) for arm, used in arms.items())]
    return "".join(parts)


def _changes(changes: Mapping[str, Any]) -> str:
    return (
        ", ".join(
            f"{path} = {value:g}" if isinstance(value, float) else f"{path} = {value}"
            for path, value in changes.items()
        )
        or "as the base"
    )


def _tricks(tricks: Sequence[Mapping[str, Any]]) -> str:
    """What an arm changes, in words and keys."""
    said = []
    for trick in tricks:
        code = "; changes the batch by code of its own" if trick.get("code") else ""
        said.append(f"{trick['title'] or trick['name']}: {_changes(trick['changes'])}{code}")
    return "; ".join(said) or "the base config"


def _provenance(summary: Mapping[str, Any]) -> str:
    rows = [
        ("command", summary["command"]),
        ("time", summary["time"]),
        ("took", duration(summary["seconds"])),
        ("devices", summary["devices"]),
        ("seeds", ", ".join(map(str, summary["seeds"]))),
        ("versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
    ]
    config = table((path, str(value)) for path, value in summary["run"].items())
    return f"{table(rows)}<details><summary>All config keys of the base</summary>{config}</details>"
