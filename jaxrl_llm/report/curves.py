"""Curves of a run as inline SVG: one panel a quantity, in a palette that colour-blind readers can tell apart."""

from __future__ import annotations

import dataclasses
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = list[tuple[int, float]]  # (step, value), by step

# Okabe and Ito, 2008; the first lines of a panel also differ in dash, so that a grey print can be read
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
_PATH = re.compile(r' d="([^"]*)"')
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
SMOOTHED_FROM = 30  # points from which a noisy curve is drawn as a moving mean over a faint line


@dataclasses.dataclass(frozen=True)
class Panel:
    """What one picture shows.

    Attributes:
      name: of the picture, for ids.
      title: heading, with the unit.
      lines: (key of metrics.jsonl or speed.jsonl, label in the legend).
      band: keys of the lower and upper end of an interval about the first line.
      share: values from 0 to 1, drawn as percent.
      note: what to read off it, or how it is defined.
    """

    name: str
    title: str
    lines: tuple[tuple[str, str], ...]
    band: tuple[str, str] | None = None
    share: bool = False
    note: str = ""


def panels(samples: int) -> tuple[Panel, ...]:
    """The panels of a run's page; ``samples`` is the k of avg@k."""
    return (
        Panel(
            "accuracy",
            "Held-out accuracy",
            (("eval/avg", f"avg@{samples}"), ("eval/pass", f"pass@{samples}"), ("eval/majority", f"maj@{samples}")),
            band=("eval/avg_low", "eval/avg_high"),
            share=True,
            note="Problems that training never sees. Band: 95 % interval of avg@k over problems.",
        ),
        Panel("reward", "Reward of the rollouts", (("reward", "mean"),), note="As the verifier gave it."),
        Panel(
            "outcomes",
            "Outcomes of the rollouts",
            tuple((f"outcome/{name}", name) for name in ("correct", "wrong", "unparseable", "timeout")),
            share=True,
        ),
        Panel("length", "Response length, tokens", (("length", "rollouts"), ("eval/length", "held out"))),
        Panel(
            "truncated",
            "Truncated at the limit",
            (("truncated", "rollouts"), ("eval/truncated", "held out")),
            share=True,
        ),
        Panel(
            "loops",
            "Truncated completions that end in a loop",
            (("repeat_ratio", "share of the truncated"),),
            share=True,
            note="By the rule of log.loop.",
        ),
        Panel(
            "entropy",
            "Entropy, nats a token",
            (("sampled_entropy", "all rows"), ("entropy", "rows of the update")),
            note="Of all rows: the mean of -log p of the sampled tokens, an estimate without bias.",
        ),
        Panel(
            "clip",
            "Tokens where the clip binds",
            (("effect/clip_high", "upper bound"), ("effect/clip_low", "lower bound")),
            share=True,
            note="Upper bound: A > 0; lower bound: A < 0.",
        ),
        Panel(
            "kl",
            "KL, nats a token",
            (("kl_sampler", "to the sampler"), ("kl_ref", "to the starting policy")),
            note="To the sampler: 0 where trainer and sampler agree and the policy has not moved since the rollout.",
        ),
        Panel(
            "gradient",
            "Gradient norm, before clipping",
            (("gradient_norm", "policy"), ("critic_gradient_norm", "critic")),
        ),
        Panel(
            "critic",
            "Variance of the returns that the critic explains",
            (("explained_variance", "share"),),
            note="Before the step's updates. 1: it knows the returns; 0: no better than their mean.",
        ),
        Panel(
            "coefficients",
            "Adaptive coefficients",
            (("kl_coefficient", "of the KL"), ("entropy_coefficient", "of the entropy")),
        ),
        Panel(
            "groups",
            "Groups whose rewards are all equal",
            (("zero_variance_groups", "share"),),
            share=True,
            note="They carry no gradient under a group baseline.",
        ),
        Panel(
            "seconds",
            "Seconds a step",
            (("rollout_seconds", "rollout"), ("update_seconds", "update"), ("reward_seconds", "reward")),
        ),
    )


def series(rows: Sequence[Mapping[str, float | None]], name: str) -> Series:
    """The recorded values of one key; steps without it, or with null, are left out."""
    return [(int(row["step"] or 0), float(value)) for row in rows if (value := row.get(name)) is not None]


def moving_mean(points: Series, window: int) -> Series:
    """The mean of the last ``window`` values at each step, of fewer at the start."""
    values = [value for _, value in points]
    tails = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [(step, sum(tail) / len(tail)) for (step, _), tail in zip(points, tails, strict=True)]


def plot_style(name: str) -> dict[Any, Any]:
    """Settings of matplotlib for a picture of that name: quiet axes, text that stays text, the same bytes each time."""
    return {
        "svg.fonttype": "none",  # text stays text: sharp, selectable and small
        "svg.hashsalt": name,
        "font.size": 9,
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#666666",
        "xtick.color": "#444444",
        "ytick.color": "#444444",
    }


def draw(panel: Panel, rows: Sequence[Mapping[str, float | None]]) -> str | None:
    """The panel as an <svg> element that scales with its box; None if nothing of it was recorded.

    Curves of many noisy points are drawn faintly, with their moving mean over a tenth of the points.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    drawn = [(label, points) for key, label in panel.lines if (points := series(rows, key))]
    if not drawn:
        return None
    with matplotlib.rc_context(plot_style(panel.name)):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for (label, points), colour, dash in zip(drawn, COLOURS, DASHES, strict=False):
            steps, values = zip(*points, strict=True)
            if len(points) >= SMOOTHED_FROM:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                steps, values = zip(*moving_mean(points, max(2, len(points) // 10)), strict=True)
            marker = "o" if len(points) < SMOOTHED_FROM else None
            axes.plot(
                steps, values, color=colour, linestyle=dash, linewidth=1.6, marker=marker, markersize=3, label=label
            )
        if panel.band:
            low, high = (dict(series(rows, key)) for key in panel.band)
            steps = sorted(low.keys() & high.keys())
            axes.fill_between(
                steps, [low[s] for s in steps], [high[s] for s in steps], color=COLOURS[0], alpha=0.18, linewidth=0
            )
        quiet(axes)
        if panel.share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_ylim(bottom=0)
        if len(drawn) > 1:
            axes.legend(frameon=False, fontsize=8, loc="best")
        return to_svg(figure, panel.name, panel.title)


def quiet(axes: Axes) -> None:
    """Faint horizontal lines behind the curves, and whole numbers on an axis of steps."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def to_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as one <svg> element for a page.

    Args:
      figure: drawn under :func:`plot_style`.
      name: unique in the page; all ids of the picture begin with it.
      label: what a screen reader says.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = _PATH.sub(lambda path: f' d="{_short(path[1])}"', svg)
    for reference in ('id="', "url(#", 'href="#'):  # ids are unique in the page, not only in the picture
        svg = svg.replace(reference, f"{reference}{name}-")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def _short(path: str) -> str:
    """A path in tenths of a point and on one line: a third of the bytes, and no eye sees the difference."""
    return " ".join(_NUMBER.sub(lambda number: f"{float(number[0]):.1f}", path).split())
