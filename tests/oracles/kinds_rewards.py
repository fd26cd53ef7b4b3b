"""Oracles of the reward kinds, the KL estimates and the numbers of a distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles.kinds_basics import (
    Inputs,
    Outputs,
    cells,
    clip,
    divided,
    group_of,
    kl_value,
    mean,
    row_mean,
    variance,
)


def reward_kl(
    x: Inputs,
    *,
    coef: float,
    controller: dict[str, float],
    estimator: str,
    log_ratio_clamp: float | None,
    out_clamp: float | None,
) -> Outputs:
    mask, k = x["mask"], np.zeros(x["mask"].shape)
    clamps = {"log_ratio_clamp": log_ratio_clamp, "out_clamp": out_clamp}
    for at in cells(mask):
        k[at] = kl_value(float(x["old_log_prob"][at] - x["ref_log_prob"][at]), estimator=estimator, **clamps)
    mean_kl = mean([row_mean(k, mask, i) for i in range(len(mask))])
    once = {"kl": np.array([mean_kl]), "samples": np.array([len(mask)])}
    next_coef = kl_controller(once, init=coef, **({"error_clip": 0.2} | controller))["coef"][0]
    return {"token_rewards": x["token_scores"] - coef * k, "mean_kl": mean_kl, "next_coef": next_coef}


def kl_controller(x: Inputs, *, init: float, target: float, horizon: float, error_clip: float) -> Outputs:
    coef, result = init, []
    for kl, samples in zip(x["kl"], x["samples"], strict=True):
        coef *= 1 + clip(kl / target - 1, -error_clip, error_clip) * samples / horizon
        result.append(coef)
    return {"coef": np.array(result)}


def group_filter(x: Inputs, *, bounds: str, low: float, high: float) -> Outputs:
    assert bounds == "exclusive"
    scores = x["scores"]
    means = [mean([float(scores[j]) for j in group_of(x["group"], i)]) for i in range(len(scores))]
    return {"keep": np.array([int(low < m < high) for m in means])}


def overlong(x: Inputs, *, max_length: int, buffer: int, factor: float, floor: float | None) -> Outputs:
    result = [min(-(length - (max_length - buffer)) / buffer * factor, 0.0) for length in x["lengths"]]
    return {"penalty": np.array(result if floor is None else [max(v, floor) for v in result])}


def reward_running_norm(x: Inputs, *, center: str, initial_count: float, eps: float) -> Outputs:
    middle, var, count, std, normalised = 0.0, 1.0, initial_count, math.nan, []
    for rewards in x["rewards"]:
        r = [float(v) for v in rewards]
        delta, total = mean(r) - middle, count + len(r)
        squares = variance(r, 0) * len(r) + var * count + delta**2 * count * len(r) / total
        middle += delta * len(r) / total
        var, count, std = squares / total, total, math.sqrt(squares / (total - 1))
        row = []
        for i, reward in enumerate(r):
            own = mean([r[j] for j in group_of(x["group"], i)])
            row.append(divided(reward - {"running_mean": middle, "group_mean": own}[center], std + eps))
        normalised.append(row)
    return {"normalised": np.array(normalised), "mean": middle, "std": std, "count": count}


def kl_estimate(x: Inputs, **params: Any) -> Outputs:
    gap = x["log_prob"] - x["ref_log_prob"]
    k = np.array([[kl_value(float(v), **params) for v in row] for row in gap])
    return {"kl": k, "sum": math.fsum(k.ravel())}


def kl_full(x: Inputs) -> Outputs:
    k = np.sum(np.exp(x["log_probs"]) * (x["log_probs"] - x["ref_log_probs"]), axis=-1)
    return {"kl": k, "sum": math.fsum(k.ravel())}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - max(logits) - math.log(math.fsum(np.exp(logits - max(logits))))


def logprob_entropy(x: Inputs, *, temperature: float) -> Outputs:
    labels = x["labels"]
    log_prob, entropy = np.zeros(labels.shape), np.zeros(labels.shape)
    for at in np.ndindex(labels.shape):
        log_p = _log_softmax(x["logits"][at] / temperature)
        log_prob[at], entropy[at] = log_p[labels[at]], -math.fsum(np.exp(log_p) * log_p)
    objective = np.sum(x["weight_log_prob"] * log_prob + x["weight_entropy"] * entropy)
    return {"log_prob": log_prob, "entropy": entropy, "objective": objective}


def sum_pi_squared(x: Inputs) -> Outputs:
    result = np.zeros(x["logits"].shape[:2])
    for at in np.ndindex(result.shape):
        result[at] = math.fsum(np.exp(_log_softmax(x["logits"][at])) ** 2)
    return {"sum_pi_squared": result}
