"""A comparison as one picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from jaxrl_llm.microscope.compare import Comparison
from jaxrl_llm.microscope.statistics import Bins
from jaxrl_llm.report.curves import COLOURS, DASHES, plot_style


def draw(comparison: Comparison, path: str | Path) -> Path:
    """Writes the picture and returns its path; the format follows the suffix, such as .svg or .png.

    Four panels: cosine with the first recipe, gradient norm and noise, affected tokens by position and by length.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    names, rows = list(comparison.rows), list(comparison.rows.values())
    place = np.arange(len(names))
    colours = [COLOURS[i % len(COLOURS)] for i in place]
    with matplotlib.rc_context(plot_style("microscope")):
        figure = Figure(figsize=(9.2, 2.4 + 0.32 * len(names) + 2.6), layout="constrained")
        grid = figure.subplots(2, 2)
        cosine, norm, position, length = grid.ravel()
        for i, row in enumerate(rows):
            interval = [[row.cosine.value - row.cosine.low], [row.cosine.high - row.cosine.value]]
            cosine.errorbar(row.cosine.value, i, xerr=np.maximum(interval, 0), fmt="o", color=colours[i], capsize=3)
            spread = None if math.isnan(row.noise) else row.norm * row.noise
            norm.errorbar(row.norm, i, xerr=spread, fmt="o", color=colours[i], capsize=3)
        for axes, title in (
            (cosine, f"Cosine with the gradient of {names[0]}, 95 % interval"),
            (norm, "Gradient norm" + ("" if math.isnan(rows[0].noise) else ", and its noise over prompts")),
        ):
            axes.set_yticks(place, names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_title(title, fontsize=9)
            axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        norm.set_xlim(left=0)
        for axes, field, title in (
            (position, "by_position", "token of the completion"),
            (length, "by_length", "tokens of its completion"),
        ):
            for i, row in list(enumerate(rows))[1:]:
                bins: Bins = getattr(row, field)
                axes.plot(
                    (bins.edges[:-1] + bins.edges[1:]) / 2,
                    bins.values,
                    color=colours[i],
                    linestyle=DASHES[i % len(DASHES)],
                    marker="o",
                    markersize=3,
                    label=names[i],
                )
            axes.set_title(f"Tokens treated otherwise than by {names[0]}", fontsize=9)
            axes.set_xlabel(title)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
            if len(names) > 1:
                axes.legend(frameon=False, fontsize=8)
        figure.suptitle(
            f"{comparison.prompts} prompts, {comparison.tokens} tokens; gradients by the {comparison.space}", fontsize=9
        )
        figure.savefig(path, metadata={"Date": None} if Path(path).suffix == ".svg" else None, dpi=150)
    return Path(path)
