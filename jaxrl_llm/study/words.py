"""How a study's page says things: verdicts with their symbol and colour, and numbers in points."""

from __future__ import annotations

from typing import NamedTuple

METRICS = {
    "final": "final accuracy (mean of the last quarter of the evaluations)",
    "area": "mean accuracy over all evaluations after step 0",
    "best": "best accuracy of any evaluation",
}


class Verdict(NamedTuple):
    """How one kind of verdict is shown.

    Attributes:
      words: what it says.
      symbol: so that it can be told without colour.
      colour: of Okabe and Ito, 2008, dark enough to be read on white.
      marker: of the forest plot, in matplotlib's letters.
      filled: whether the marker is.
    """

    words: str
    symbol: str
    colour: str
    marker: str
    filled: bool


VERDICTS = {
    "helps": Verdict("helps", "▲", "#0072B2", "^", True),
    "hurts": Verdict("hurts", "▼", "#b04a00", "v", True),
    "no_difference": Verdict("no difference", "=", "#444444", "s", True),
    "undecided": Verdict("undecided", "?", "#767676", "o", False),
}


def points(value: float | None) -> str:
    """A difference in accuracy as points with its sign, such as "+1.8"."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def points_with_interval(difference: float | None, low: float | None, high: float | None) -> str:
    """Such as "+1.8 [+0.3, +3.2]"; without the interval where there is none."""
    return points(difference) if low is None or high is None else f"{points(difference)} {interval(low, high)}"


def interval(low: float | None, high: float | None) -> str:
    """Such as "[+0.3, +3.2]", in points."""
    return "–" if low is None or high is None else f"[{points(low)}, {points(high)}]"


def percent(value: float | None) -> str:
    """A share as percent, such as "41.2 %"."""
    return "–" if value is None else f"{100 * value:.1f} %"


def percent_with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Such as "41.2 % [39.0, 43.4]"."""
    if low is None or high is None:
        return percent(value)
    return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"


def probability(value: float | None) -> str:
    """A p-value with as many digits as anyone reads."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Such as "12 min 34 s" or "3 h 5 min"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
