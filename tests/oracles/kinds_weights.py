"""Oracles of the importance weights and masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles.kinds_basics import (
    Inputs,
    Outputs,
    Undefined,
    cells,
    clamp,
    clip,
    divided,
    mean,
    row_cells,
    row_mean,
    token_mean,
)


def _gap(x: Inputs) -> np.ndarray:
    return x["train_log_prob"] - x["rollout_log_prob"]


def _at_level(values: np.ndarray, mask: np.ndarray, level: str) -> np.ndarray:
    """[N, T] at each token of the mask; a row's value stands at each of its columns."""
    result = np.zeros(mask.shape)
    rows, width = mask.shape
    for i in range(rows):
        own = row_cells(mask, i)
        total = math.fsum(values[at] for at in own)
        for t in range(width):
            if level == "token":
                result[i, t] = values[i, t]
            elif level in ("sequence", "geometric"):
                result[i, t] = 0.0 if not own else total / (1 if level == "sequence" else len(own))
            elif mask[i, t]:
                assert level == "segment"
                first, last = t, t
                while first > 0 and mask[i, first - 1]:
                    first -= 1
                while last + 1 < width and mask[i, last + 1]:
                    last += 1
                result[i, t] = mean([float(v) for v in values[i, first : last + 1]])
    return result


def _inside(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or low <= value) and (high is None or value <= high)


def is_weights(
    x: Inputs,
    *,
    level: str,
    mode: str,
    low: float | None,
    high: float | None,
    log_ratio_clamp: float | None,
    batch_normalise: str | None,
    keep: list[dict[str, Any]] | None = None,
) -> Outputs:
    mask = x["mask"]
    rows, width = mask.shape
    y = _at_level(_gap(x), mask, level)
    w = np.array([[math.exp(clamp(y[i, t], log_ratio_clamp)) for t in range(width)] for i in range(rows)])
    outputs: Outputs = {}
    if high is not None:
        z = {at: clip(w[at], 1 / high, high) for at in cells(mask)}
        middle = mean(list(z.values()))
        outputs["effective_sample_size"] = 1 / mean([(v / middle) ** 2 for v in z.values()])
    bounded = np.array(
        [[clip(v, low, high) if mode == "truncate" else v * _inside(v, low, high) for v in r] for r in w]
    )
    if batch_normalise == "tokens":
        bounded = bounded * divided(1, token_mean(bounded, mask))
    elif batch_normalise == "rows":
        full = [i for i in range(rows) if row_cells(mask, i)]
        bounded = bounded * divided(1, mean([row_mean(bounded, mask, i) for i in full]))
    outputs["weights"] = bounded[:, :1] if level in ("sequence", "geometric") else bounded
    if keep is not None:
        kept = mask.copy()
        for rule in keep:
            if rule["of"] == "ratio":
                exponents = _at_level(_gap(x), mask, rule["level"])
                values = np.vectorize(lambda v: math.exp(clamp(v, log_ratio_clamp)))(exponents)
            else:
                differences = np.exp(x["train_log_prob"]) - np.exp(x["rollout_log_prob"])
                values = _at_level(differences, mask, rule["level"])
            for at in cells(mask):
                kept[at] = kept[at] and _inside(values[at], rule["low"], rule["high"])
        outputs["keep"] = kept
    return outputs


def is_weights_areal(x: Inputs, *, metric: str, action: str, upper: float, lower: float | None = None) -> Outputs:
    mask, gap = x["mask"], _gap(x)
    keep, weights = mask.copy(), np.zeros(mask.shape)
    for i, t in cells(mask):
        if metric == "ratio":
            measure = weight = math.exp(row_mean(gap, mask, i))
        else:
            measure = mean([math.exp(-gap[at]) - 1 + gap[at] for at in row_cells(mask, i)])
            weight = math.exp(gap[i, t])
        if not _inside(measure, lower, upper):
            if action == "mask":
                keep[i, t], weight = 0, 0.0
            else:
                weight = clip(weight, lower, upper)
        weights[i, t] = weight
    return {"keep": keep, "weights": weights}


def rejection_mask(x: Inputs, *, log_ratio_clamp: float | None, rules: list[dict[str, Any]]) -> Outputs:
    mask, keep = x["mask"], x["mask"].copy()
    gap = np.vectorize(lambda v: clamp(v, log_ratio_clamp))(_gap(x))
    for rule in rules:
        statistic = {"k1": -gap, "k2": gap**2 / 2, "k3": np.exp(gap) - 1 - gap}[rule["estimator"]]
        for i, t in cells(mask):
            row = [float(statistic[at]) for at in row_cells(mask, i)]
            value = {
                "token": float(statistic[i, t]),
                "seq_sum": math.fsum(row),
                "seq_mean": mean(row),
                "seq_max": max(row),
            }[rule["level"]]
            if rule["bounds"] == "plain":
                holds = value <= rule["high"]
            else:
                holds = math.log(rule["low"]) <= value <= math.log(rule["high"])
            keep[i, t] = keep[i, t] and holds
    return {"keep": keep}


def offpolicy_metrics(x: Inputs, *, log_ratio_clamp: float | None) -> Outputs:
    mask, gap = x["mask"], _gap(x)
    rows = range(len(mask))
    if not all(row_cells(mask, i) for i in rows):
        raise Undefined
    p = [row_mean(x["train_log_prob"], mask, i) for i in rows]
    q = [row_mean(x["rollout_log_prob"], mask, i) for i in rows]
    h = [b - a for a, b in zip(p, q, strict=True)]
    token_gaps = [float(gap[at]) for at in cells(mask)]
    sums = [math.fsum(gap[at] for at in row_cells(mask, i)) for i in rows]
    return {
        "training_ppl": mean([math.exp(-v) for v in p]),
        "training_log_ppl": mean([-v for v in p]),
        "rollout_ppl": mean([math.exp(-v) for v in q]),
        "rollout_log_ppl": mean([-v for v in q]),
        "log_ppl_diff": mean(h),
        "log_ppl_abs_diff": mean([abs(v) for v in h]),
        "log_ppl_diff_max": max(h),
        "log_ppl_diff_min": min(h),
        "ppl_ratio": mean([math.exp(v) for v in h]),
        "kl": mean([-v for v in token_gaps]),
        "k3_kl": mean([math.exp(v) - v - 1 for v in token_gaps]),
        "chi2_token": mean([math.exp(2 * clamp(v, log_ratio_clamp)) for v in token_gaps]) - 1,
        "chi2_seq": mean([math.exp(2 * clamp(v, log_ratio_clamp)) for v in sums]) - 1,
    }


def high_entropy_mask(x: Inputs, *, share: float) -> Outputs:
    mask = x["mask"]
    quantile = np.quantile([float(x["entropy"][at]) for at in cells(mask)], 1 - share, method="linear")
    keep = mask.copy()
    for at in cells(mask):
        keep[at] = x["entropy"][at] >= quantile
    return {"keep": keep}


def off_policy_sequence_mask(x: Inputs, *, threshold: float) -> Outputs:
    gap = -_gap(x)
    means = [row_mean(gap, x["mask"], i) for i in range(len(x["mask"]))]
    return {"keep": np.array([int(a >= 0 or m <= threshold) for a, m in zip(x["advantages"], means, strict=True)])}
