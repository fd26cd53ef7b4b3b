"""What the oracles of the reference kinds share: counts, groups, means and standard deviations, whitening, aggregation.

Written from ``reference_vectors/README.md`` and ``MORE-KINDS.md`` alone, as loops over rows and tokens in float64, with
none of the library's code. Inputs are dicts of numpy arrays; ``mask`` and group numbers are integers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Inputs = dict[str, Any]
Outputs = dict[str, Any]
Cell = tuple[int, int]


class Undefined(Exception):
    """The pages do not say what the numbers are here: too few values for a variance, or a division by 0."""


def clip(x: float, low: float | None, high: float | None) -> float:
    if low is not None and x < low:
        x = low
    return high if high is not None and x > high else x


def clamp(x: float, bound: float | None) -> float:
    return x if bound is None else clip(x, -bound, bound)


def divided(x: float, by: float) -> float:
    if by == 0:
        raise Undefined
    return x / by


def cells(mask: np.ndarray) -> list[Cell]:
    return [(i, t) for i in range(mask.shape[0]) for t in range(mask.shape[1]) if mask[i, t]]


def row_cells(mask: np.ndarray, i: int) -> list[Cell]:
    return [(i, t) for t in range(mask.shape[1]) if mask[i, t]]


def mean(values: list[float]) -> float:
    if not values:
        raise Undefined
    return math.fsum(values) / len(values)


def variance(values: list[float], ddof: int, about: float | None = None) -> float:
    if len(values) <= ddof:
        raise Undefined
    center = mean(values) if about is None else about
    return math.fsum((v - center) ** 2 for v in values) / (len(values) - ddof)


def std(values: list[float], ddof: int, about: float | None = None) -> float:
    return math.sqrt(variance(values, ddof, about))


def row_mean(values: np.ndarray, mask: np.ndarray, i: int) -> float:
    """The mean over the tokens of row i; 0 in a row without tokens."""
    found = [float(values[at]) for at in row_cells(mask, i)]
    return mean(found) if found else 0.0


def token_mean(values: np.ndarray, mask: np.ndarray) -> float:
    return mean([float(values[at]) for at in cells(mask)])


def group_of(group: np.ndarray, i: int) -> list[int]:
    return [j for j in range(len(group)) if group[j] == group[i]]


def spread(values: list[float], x: Inputs) -> Outputs:
    """One number a row as [N], or where there is a mask as [N, T]."""
    rows = np.array(values)
    return {"advantages": rows[:, None] * x["mask"] if "mask" in x else rows}


def whitened(
    values: np.ndarray,
    mask: np.ndarray,
    *,
    ddof: int,
    eps: float,
    eps_at: str,
    over: str = "batch",
    shift_mean: bool = True,
    center: bool = True,
    scale: bool = True,
) -> np.ndarray:
    assert center
    result = np.zeros(mask.shape)
    parts = [cells(mask)] if over == "batch" else [row_cells(mask, i) for i in range(mask.shape[0])]
    for part in parts:
        if not part:
            continue
        seen = [float(values[at]) for at in part]
        middle, divisor = mean(seen), 1.0
        if scale:
            v = variance(seen, ddof)
            divisor = {
                "variance": math.sqrt(v + eps),
                "variance_floor": math.sqrt(max(v, eps)),
                "std": math.sqrt(v) + eps,
            }[eps_at]
        for at in part:
            result[at] = divided(float(values[at]) - middle, divisor) + (0.0 if shift_mean else middle)
    return result


def aggregate(loss: np.ndarray, x: Inputs, agg: Inputs) -> float:
    """From a loss at each token to a scalar; ``loss`` may hold anything off the mask."""
    mask = x["mask"]
    full = [i for i in range(mask.shape[0]) if row_cells(mask, i)]
    if not full:
        return 0.0
    rows = agg.get("rows", "nonempty")
    q = {"nonempty": len(full), "all": mask.shape[0], "none": 1}[rows] if isinstance(rows, str) else rows
    sums = {i: math.fsum(loss[at] for at in row_cells(mask, i)) for i in full}
    total = math.fsum(sums.values())
    if agg["mode"] == "token_mean":
        value = total / (len(cells(mask)) if agg["denominator"] == "mask" else agg["denominator"])
    elif agg["mode"] == "seq_mean_token_sum":
        value = total / q
    elif agg["mode"] == "seq_mean_token_mean":
        weight = x["row_weights"] if agg.get("row_weights") else np.ones(mask.shape[0])
        value = math.fsum(weight[i] * sums[i] / len(row_cells(mask, i)) for i in full) / q
    else:
        assert agg["mode"] == "token_sum_norm"
        value = total / agg["norm"] / q
    return value * agg.get("scale", 1.0)


def agg(x: Inputs, *, agg: Inputs) -> Outputs:
    return {"loss": aggregate(x["loss_mat"], x, agg)}


def kl_value(
    x: float, *, estimator: str, log_ratio_clamp: float | None = None, out_clamp: float | None = None
) -> float:
    x = clamp(x, log_ratio_clamp)
    if estimator == "k3":
        value = math.exp(-x) + x - 1 if x > -700 else math.inf
    else:
        value = {"k1": x, "abs": abs(x), "k2": x * x / 2}[estimator]
    return clamp(value, out_clamp)
