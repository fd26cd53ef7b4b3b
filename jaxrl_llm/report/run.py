"""report.html of a run: one page without network, from the files of the run's folder."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl_llm import config as configs
from jaxrl_llm import explain
from jaxrl_llm.evaluation.metrics import BENCHMARKS_AVERAGE
from jaxrl_llm.report import curves, effects
from jaxrl_llm.report.html import document, element, flat, table
from jaxrl_llm.training.log import read

_TEXTS = 6  # problems shown before and after
_CURVES = "Faint: every step. Strong: the mean of the last tenth of the steps up to that one."
_BENCHMARK = re.compile("eval/.+/avg")  # of one benchmark

Row = Mapping[str, Any]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _arrow(first: str, last: str) -> str:
    return f"{first} → {last}"


def _tiles(metrics: Sequence[Row], speed: Sequence[Row], samples: int) -> list[tuple[str, str, str]]:
    """(name, value, remark) of the headline numbers; what was not recorded is left out."""

    def ends(name: str) -> tuple[float, float] | None:
        points = curves.series(metrics, name)
        return (points[0][1], points[-1][1]) if points else None

    def tenths(name: str) -> tuple[float, float] | None:
        """Means of the first and the last tenth of the steps: single steps are noisy."""
        values = [value for _, value in curves.series(metrics, name)]
        count = max(1, len(values) // 10)
        return (statistics.fmean(values[:count]), statistics.fmean(values[-count:])) if values else None

    tiles = []
    if average := ends("eval/avg"):
        low, high = ends("eval/avg_low"), ends("eval/avg_high")
        interval = ""
        if low and high:
            first, last = (f"{100 * low[i]:.1f}–{100 * high[i]:.1f}" for i in (0, 1))
            interval = f"; 95 % intervals {first} and {last}"
        remark = f"{100 * (average[1] - average[0]):+.1f} points{interval}"
        tiles.append((f"Held-out avg@{samples}", _arrow(*map(_percent, average)), remark))
    for name, label in (("eval/pass", f"Held-out pass@{samples}"), ("eval/majority", f"Held-out maj@{samples}")):
        if pair := ends(name):
            tiles.append((label, _arrow(*map(_percent, pair)), f"{100 * (pair[1] - pair[0]):+.1f} points"))
    if pair := tenths("reward"):
        remark = "mean of the first and last tenth of the steps"
        tiles.append(("Reward", _arrow(*(f"{value:.3f}" for value in pair)), remark))
    if pair := tenths("length"):
        tiles.append(("Response length", _arrow(*(f"{value:.1f}" for value in pair)), "tokens"))
    seconds = [value for _, value in curves.series(speed, "seconds")]
    if seconds:
        minutes, rest = divmod(round(sum(seconds)), 60)
        remark = f"{len(seconds)} steps, {statistics.median(seconds):.2f} s each (median)"
        tiles.append(("Time", f"{minutes} min {rest} s", remark))
    rates = [value for _, value in curves.series(speed, "tokens_per_second")]
    if rates:
        tiles.append(("Speed", f"{statistics.median(rates):,.0f}", "tokens a second, median"))
    return tiles


def _sample(row: Row | None) -> str:
    if row is None:
        return '<div class="sample"><p class="badges">no text was recorded</p></div>'
    outcome = str(row["outcome"]).lower()
    badges = [
        element("span", outcome, class_=f"badge {'good' if outcome == 'correct' else 'bad'}"),
        element("span", f"reward {row['reward']:g}" if row["reward"] is not None else "no reward", class_="badge"),
        element("span", f"{row['length']} tokens{', truncated' if row['truncated'] else ''}", class_="badge"),
        element("span", f"read as {row['extracted']!r}", class_="badge"),
    ]
    return f'<div class="sample"><p class="badges">{" ".join(badges)}</p>{element("pre", row["completion"])}</div>'


def _texts(samples: Sequence[Row]) -> str:
    """The first and the last evaluation's texts of the same problems, next to each other."""
    if not samples:
        return element("p", "No texts were recorded.")
    first, last = samples[0]["step"], samples[-1]["step"]

    def by_problem(step: int) -> dict[Any, Row]:
        rows: dict[Any, Row] = {}
        for row in samples:
            if row["step"] == step:
                rows.setdefault(row["problem"], row)  # the first of a problem's samples
        return rows

    before, after = by_problem(first), by_problem(last)
    parts = [element("p", f"The same held-out problems at step {first} and at step {last}, first sample of each.")]
    for problem in list(before)[:_TEXTS]:
        row = before[problem]
        heading = element("h3", f"Problem {problem}, answer {row['answer']}") + element("pre", row["prompt"])
        old = element("h4", f"Before (step {first})") + _sample(row)
        new = element("h4", f"After (step {last})") + _sample(after.get(problem))
        parts.append(f'<article>{heading}<div class="pair"><div>{old}</div><div>{new}</div></div></article>')
    return "".join(parts)


def _benchmarks(metrics: Sequence[Row]) -> str:
    """The average of each benchmark at the first evaluation and at the last; empty where the data names none."""
    rows = [row for row in metrics if BENCHMARKS_AVERAGE in row]
    if not rows:
        return ""
    names = [name for name in rows[0] if _BENCHMARK.fullmatch(name)]
    lines = []
    for name, label in [
        *((name, name.split("/", 1)[1].removesuffix("/avg")) for name in names),
        (BENCHMARKS_AVERAGE, "plain mean of these"),
    ]:
        first, last = float(rows[0][name]), float(rows[-1][name])
        lines.append((label, f"{_arrow(_percent(first), _percent(last))} ({100 * (last - first):+.1f} points)"))
    return f"<section><h2>Benchmarks</h2>{table(lines)}</section>"


def _provenance(config: Mapping[str, Any], starts: Sequence[Row]) -> str:
    rows = [("seed", str(config.get("seed")))]
    for number, start in enumerate(starts, start=1):
        label = "start" if len(starts) == 1 else f"start {number}"
        rows.append((label, start["time"]))
        rows.append(("command", start["command"]))
        rows.append(("devices", start["devices"]))
        rows.append(("platform", start["platform"]))
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in start["versions"].items())))
    return table(rows)


def _objective(config: Mapping[str, Any]) -> str:
    try:
        rows = explain.rows(configs.parse(config))
    except ValueError as error:  # a run of another version of the library is still worth a page
        return element("p", f"This version of jaxrl_llm cannot read the config of the run: {error}")
    return "<dl>" + "".join(element("dt", name) + element("dd", text) for name, text in rows) + "</dl>"


def write(run_dir: str | Path) -> Path:
    """Writes report.html into the run's folder and returns its path.

    Reads config.json, starts.jsonl, metrics.jsonl, speed.jsonl and samples.jsonl; a run that is not finished has a
    page too.

    Raises:
      FileNotFoundError: the folder holds no config.json or no metrics.jsonl.
      ValueError: a file is not JSON.
    """
    folder = Path(run_dir)
    target = folder / "config.json"
    if not target.is_file():
        raise FileNotFoundError(f"{target} does not exist: expected the folder of a run")
    try:
        config = json.loads(target.read_text())
    except ValueError as error:
        raise ValueError(f"{target} is not JSON: {error}") from error
    metrics = read(folder / "metrics.jsonl")
    speed = read(folder / "speed.jsonl", required=False)
    samples = read(folder / "samples.jsonl", required=False)
    starts = read(folder / "starts.jsonl", required=False)
    k = config.get("evaluation", {}).get("samples", 1)
    drawn = [(panel, curves.draw(panel, [*metrics, *speed])) for panel in curves.panels(k)]
    figures = "".join(
        f"<figure>{element('h3', panel.title)}{svg}{element('figcaption', panel.note) if panel.note else ''}</figure>"
        for panel, svg in drawn
        if svg
    )
    tiles = "".join(
        f'<div class="tile">{element("h3", name)}{element("p", value, class_="value")}{element("p", remark)}</div>'
        for name, value, remark in _tiles(metrics, speed, k)
    )
    inert = "".join(element("li", line) for line in effects.inert(config, metrics))
    model, data = config.get("model", {}).get("source"), config.get("data", {}).get("source")
    page = document(
        f"{folder.resolve().name}: jaxrl_llm run",
        "<header>",
        element("h1", folder.resolve().name),
        element("p", f"{model} on {data}, {len(curves.series(metrics, 'reward'))} of {config.get('steps')} steps"),
        f'</header><main><section class="tiles">{tiles}</section>',
        f'<section class="notice"><h2>Inert knobs</h2><ul>{inert}</ul></section>' if inert else "",
        f'<section><h2>Curves</h2>{element("p", _CURVES)}<div class="curves">{figures}</div></section>',
        _benchmarks(metrics),
        f"<section><h2>Texts before and after</h2>{_texts(samples)}</section>",
        f"<section><h2>Objective</h2>{_objective(config)}</section>",
        f"<section><h2>Provenance</h2>{_provenance(config, starts)}</section>",
        f"<section><details><summary>All config keys</summary>{table(flat(config))}</details></section></main>",
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
