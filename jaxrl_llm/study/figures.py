"""Pictures of a study as inline SVG: a forest plot of effects, and curves of all arms with their bands.

An arm has one look on the whole page: a number, a colour and a dash, so that a grey print can be read.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxrl_llm.report import curves
from jaxrl_llm.study.words import VERDICTS, points_with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Mapping[str, Sequence[float | None]]  # "steps", "mean", "low", "high"

# Okabe and Ito, 2008, without the yellow, which white paper swallows
_COLOURS = (*curves.COLOURS, "#E69F00", "#56B4E9")
_REFERENCE = "#000000"
_WIDTH = 4.6  # inches
_TOGETHER = 4  # arms beside the reference in one picture of learning curves
_BANDS_UP_TO = 5  # curves in a panel: the bands of more would hide each other
_LABEL = 30  # characters of an arm's name that fit beside the numbers of its row of the forest plot
_ENDS = ("low", "difference", "high", "low_adjusted", "high_adjusted")
_DIGIT = 0.068  # height of a digit at the end of a curve, of the axis


class Look(NamedTuple):
    """How an arm is drawn."""

    number: int
    colour: str
    dash: Any


def looks(arms: Sequence[str], reference: str) -> dict[str, Look]:
    """The look of each arm: ``reference`` in black, twelve others until one comes again."""
    found: dict[str, Look] = {}
    others = 0
    for number, arm in enumerate(arms, start=1):
        if arm == reference:
            found[arm] = Look(number, _REFERENCE, curves.DASHES[0])
        else:
            dash = curves.DASHES[others % len(curves.DASHES)]
            found[arm] = Look(number, _COLOURS[others % len(_COLOURS)], dash)
            others += 1
    return found


def numbered(arm: str, look: Mapping[str, Look]) -> str:
    """The arm's number and name, as tables and pictures have it."""
    return f"{look[arm].number} · {arm}"


def key(arms: Sequence[str], look: Mapping[str, Look]) -> str:
    """The legend of a cell's pictures as an HTML list: number, line and name of each arm."""
    items = []
    for arm in arms:
        number, colour, dash = look[arm]
        dashes = "" if dash == "-" else f' stroke-dasharray="{" ".join(f"{2 * part:g}" for part in dash[1])}"'
        line = f'<line x1="0" y1="6" x2="32" y2="6" stroke="{colour}" stroke-width="2.4"{dashes}/>'
        swatch = f'<svg width="32" height="12" viewBox="0 0 32 12" aria-hidden="true">{line}</svg>'
        items.append(f'<li><b style="color:{colour}">{number}</b>{swatch}{html.escape(arm)}</li>')
    return f'<ul class="key">{"".join(items)}</ul>'


def forest_limits(comparisons: Sequence[Mapping[str, Any]], smallest_effect: float) -> tuple[float, float]:
    """Ends of an axis of differences, in points, that holds every interval, zero, and the band of small effects."""
    ends = [0.0, -1.5 * smallest_effect, 1.5 * smallest_effect]
    ends += [value for row in comparisons for name in _ENDS if (value := row[name]) is not None]
    margin = 0.04 * (max(ends) - min(ends))
    return 100 * (min(ends) - margin), 100 * (max(ends) + margin)


def forest(
    name: str,
    label: str,
    comparisons: Sequence[Mapping[str, Any]],
    *,
    smallest_effect: float,
    limits: tuple[float, float],
    look: Mapping[str, Look],
) -> str:
    """Each arm's difference to its reference, one row an arm, beside zero and the smallest effect.

    Thick: the interval; thin: the one corrected for all comparisons of the study, which the verdict goes by.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(name)):
        figure = Figure(figsize=(_WIDTH, 0.62 + 0.46 * len(comparisons)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvspan(-100 * smallest_effect, 100 * smallest_effect, color="#000000", alpha=0.07, linewidth=0)
        axes.axvline(0, color="#444444", linewidth=1)
        several = len({row["reference"] for row in comparisons}) > 1
        for place, row in enumerate(comparisons):
            _effect(axes, place, row, look, f" against {look[row['reference']].number}" if several else "")
        axes.set_xlim(*limits)
        axes.set_ylim(len(comparisons) - 0.45, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("difference in accuracy, points")
        return curves.to_svg(figure, name, label)


def _effect(axes: Axes, place: int, row: Mapping[str, Any], look: Mapping[str, Look], against: str) -> None:
    """One row of a forest plot: name and numbers, and under them the intervals."""
    verdict = VERDICTS[row["verdict"]]
    arm = numbered(row["arm"], look)
    room = _LABEL - len(against)
    arm = (arm if len(arm) <= room else f"{arm[: room - 1]}…") + against
    whole = axes.get_yaxis_transform()  # x from 0 to 1 over the axes, y in rows
    axes.text(0, place - 0.32, arm, transform=whole, va="center", fontweight="bold", color="#222222")
    if row["difference"] is None:
        axes.text(1, place - 0.32, "not compared", transform=whole, va="center", ha="right", color="#555555")
        return
    numbers = points_with_interval(row["difference"], row["low"], row["high"])
    axes.text(1, place - 0.32, numbers, transform=whole, va="center", ha="right", color="#444444")
    for low, high, width in (("low", "high", 3.0), ("low_adjusted", "high_adjusted", 1.0)):
        if row[low] is not None and row[high] is not None:
            ends = (100 * row[low], 100 * row[high])
            axes.plot(ends, (place, place), color=verdict.colour, linewidth=width, solid_capstyle="butt")
            axes.plot(ends, (place, place), linestyle="", marker="|", markersize=7, color=verdict.colour)
    axes.plot(
        100 * row["difference"],
        place,
        marker=verdict.marker,
        markersize=7,
        color=verdict.colour,
        markerfacecolor=verdict.colour if verdict.filled else "#ffffff",
    )


def groups(arms: Sequence[str], reference: str) -> list[list[str]]:
    """Arms that share a picture of learning curves: the reference, then at most four others, evenly dealt."""
    first = [arm for arm in arms if arm == reference]
    others = [arm for arm in arms if arm != reference]
    count = max(1, math.ceil(len(others) / _TOGETHER))
    size = max(1, math.ceil(len(others) / count))
    return [first + others[start : start + size] for start in range(0, max(1, len(others)), size)]


def curves_of(
    name: str,
    label: str,
    drawn: Mapping[str, Curve],
    look: Mapping[str, Look],
    *,
    share: bool,
    smooth: bool = False,
    within: Mapping[str, Curve] | None = None,
) -> str | None:
    """One quantity over the steps: the mean over seeds of each arm, its band, and its number where the curve ends.

    Args:
      drawn: arm -> curve; values that are None leave a gap.
      share: values from 0 to 1, drawn as percent.
      smooth: whether curves of many points are drawn as the mean of the last tenth of the points.
      within: arm -> curve of every picture that shares the vertical axis of this one; None: only this one does.

    Returns:
      An <svg> element; None where no arm has a value.
    """
    import matplotlib
    from matplotlib.figure import Figure

    finite = {arm: _numbers(curve) for arm, curve in drawn.items()}
    finite = {arm: curve for arm, curve in finite.items() if any(map(math.isfinite, curve["mean"]))}
    if not finite:
        return None
    if smooth:
        finite = {arm: _smoothed(curve) for arm, curve in finite.items()}
    low, high = _range([_numbers(curve) for curve in (within or {}).values()] or list(finite.values()))
    with matplotlib.rc_context(_style(name)):
        figure = Figure(figsize=(_WIDTH, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for arm, curve in finite.items():
            if len(finite) <= _BANDS_UP_TO:
                band = (curve["steps"], curve["low"], curve["high"])
                axes.fill_between(*band, color=look[arm].colour, alpha=0.14, linewidth=0)
            axes.plot(
                curve["steps"],
                curve["mean"],
                color=look[arm].colour,
                linestyle=look[arm].dash,
                linewidth=1.6,
                marker="o" if len(curve["steps"]) == 1 else None,
                label=arm,
            )
        curves.quiet(axes)
        axes.set_ylim(low, high)
        if share:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
        _number_the_ends(axes, finite, look)
        return curves.to_svg(figure, name, label)


def _numbers(curve: Curve) -> dict[str, list[float]]:
    """The curve with nan for None."""
    return {name: [math.nan if value is None else float(value) for value in values] for name, values in curve.items()}


def _smoothed(curve: dict[str, list[float]]) -> dict[str, list[float]]:
    """The curve with moving means, where it has so many points that noise would hide it."""
    window = len(curve["steps"]) // 10 if len(curve["steps"]) >= curves.SMOOTHED_FROM else 1
    smoothed = {"steps": curve["steps"]}
    for name in ("mean", "low", "high"):
        known = [(place, value) for place, value in enumerate(curve[name]) if math.isfinite(value)]
        means = dict(curves.moving_mean(known, window))
        smoothed[name] = [means.get(place, math.nan) for place in range(len(curve["steps"]))]
    return smoothed


def _range(drawn: Sequence[Mapping[str, Sequence[float]]]) -> tuple[float, float]:
    """A vertical axis that holds all means, and of the bands what does not make the means flat.

    The interval of a mean over two seeds may be many times as wide as all that the curves do.
    """
    means = [value for curve in drawn for value in curve["mean"] if math.isfinite(value)]
    ends = [value for curve in drawn for name in ("low", "high") for value in curve[name] if math.isfinite(value)]
    least, most = min(means), max(means)
    span = (most - least) or abs(most) or 1.0
    low, high = max(min([*ends, least]), least - span), min(max([*ends, most]), most + span)
    margin = 0.04 * ((high - low) or span)
    return (0.0 if least >= 0 and low <= 2 * margin else low - margin), high + margin


def _number_the_ends(axes: Axes, drawn: Mapping[str, Mapping[str, Sequence[float]]], look: Mapping[str, Look]) -> None:
    """The number of each arm at the right end of its curve, pushed apart where curves end together."""
    low, high = axes.get_ylim()
    gap = _DIGIT * (high - low)
    ends = []
    for arm, curve in drawn.items():
        last = max(i for i, value in enumerate(curve["mean"]) if math.isfinite(value))
        ends.append((curve["mean"][last], arm))
    ends.sort()
    heights = apart([value for value, _ in ends], gap, high)
    for (_, arm), height in zip(ends, heights, strict=True):
        axes.annotate(
            str(look[arm].number),
            (1, height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=look[arm].colour,
            fontweight="bold",
            fontsize=9,
        )


def apart(values: Sequence[float], gap: float, top: float) -> list[float]:
    """Heights next to rising ``values``, at least ``gap`` apart and none over ``top``.

    The least squares solution: h_i = i · gap + the isotonic regression of v_i − i · gap, by pooling neighbours.
    """
    blocks: list[tuple[float, int]] = []  # (sum, count)
    for place, value in enumerate(values):
        block = (value - place * gap, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            total, count = blocks.pop()
            block = (block[0] + total, block[1] + count)
        blocks.append(block)
    pooled = [total / count for total, count in blocks for _ in range(count)]
    last = len(values) - 1
    return [min(value, top - last * gap) + place * gap for place, value in enumerate(pooled)]


def _style(name: str) -> dict[Any, Any]:
    return curves.plot_style(name) | {"font.size": 10, "text.parse_math": False}  # a dollar in a name is a dollar
