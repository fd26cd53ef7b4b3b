"""The losses of a policy and of a critic as slow loops over rows and tokens, in numpy and float64.

Written from the formulas in the docstrings and the comments of ``configs/base.py``, with none of the library's code.
What carries no gradient is computed from ``frozen``, so that differences of the loss are those of the gradient.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles.objective import tokens_of

Batch = dict[str, Any]  # the fields of a TrainBatch as float64 arrays; the choice's by their own names


def _log_ratios(logprobs: np.ndarray, batch: Batch, i: int) -> dict[int, float]:
    difference = logprobs[i] - batch["old_logprobs"][i]
    return {t: float(np.clip(difference[t], -20, 20)) for t in tokens_of(batch["mask"], i)}


def ratio_of(a: Any, d: dict[int, float], now: float, frozen_d: dict[int, float], frozen_now: float, t: int) -> float:
    mean, frozen_mean = sum(d.values()) / len(d), sum(frozen_d.values()) / len(d)
    return math.exp(
        {
            "token": d[t],
            "sequence": mean,
            "sequence_token": now - frozen_now + frozen_mean,
            "sequence_product": min(sum(d.values()), 20.0),
        }[a.ratio]
    )


def _ppo(a: Any, ratio: float, advantage: float) -> float:
    unclipped = ratio if a.ratio_cap is None else min(ratio, a.ratio_cap)
    clipped = min(max(ratio, 1 - a.clip_low), 1 + a.clip_high)
    loss = max(-unclipped * advantage, -clipped * advantage)
    if a.dual_clip is not None and advantage < 0:
        loss = min(loss, -a.dual_clip * advantage)
    return loss


def _surrogate(a: Any, logprobs: np.ndarray, frozen: np.ndarray, batch: Batch, i: int, t: int) -> float:
    advantage, now = batch["advantages"][i, t], logprobs[i, t]
    d, frozen_d = _log_ratios(logprobs, batch, i), _log_ratios(frozen, batch, i)
    ratio = ratio_of(a, d, now, frozen_d, frozen[i, t], t)
    still = ratio_of(a, frozen_d, frozen[i, t], frozen_d, frozen[i, t], t)
    if a.surrogate == "ppo_clip":
        return _ppo(a, ratio, advantage)
    if a.surrogate == "reinforce":
        return -advantage * now
    if a.surrogate == "cispo":
        low, high = 1 - a.clip_low, 1 + a.clip_high
        dropped = (advantage > 0 and still > high) or (advantage < 0 and still < low)
        return 0.0 if a.drop_clipped and dropped else -min(max(still, low), high) * advantage * now
    if a.surrogate == "sapo":
        rate = a.sapo_temperature_positive if advantage > 0 else a.sapo_temperature_negative
        return -advantage * 4 / rate / (1 + math.exp(-rate * (ratio - 1)))
    if a.surrogate == "gmpo":
        return _gmpo(a, d, [batch["advantages"][i, s] for s in d])
    if a.surrogate == "topr":
        if batch["rewards"][i] > 0:
            return -a.topr_weight_positive * advantage * now
        return -a.topr_weight_negative * min(still, 1.0) * advantage * now
    if a.surrogate == "kimi":
        return -advantage * now + a.square_coefficient * d[t] ** 2
    if a.surrogate == "vespo":
        log_weight = float(np.clip(sum(frozen_d.values()), math.log(1e-8), 20))
        k = a.vespo_k_positive if advantage >= 0 else a.vespo_k_negative
        rate = a.vespo_lambda_positive if advantage >= 0 else a.vespo_lambda_negative
        return -math.exp(k * log_weight + rate * (1 - math.exp(log_weight))) * advantage * now
    if a.surrogate == "dppo":
        change = math.exp(frozen[i, t]) - math.exp(batch["old_logprobs"][i, t])
        if a.dppo_by_sign:
            dropped = change > a.clip_high if advantage > 0 else change < -a.clip_low
        else:
            dropped = abs(change) > a.clip_high
        return (0.0 if dropped else -advantage * math.exp(d[t])) + a.square_coefficient * d[t] ** 2
    if a.surrogate == "clip_cov":
        return 0.0 if batch["covariance"][i, t] else _ppo(a, ratio, advantage)
    assert a.surrogate == "kl_cov"
    return -advantage * math.exp(d[t]) + (a.kl_cov_coefficient * abs(d[t]) if batch["covariance"][i, t] else 0.0)


def _gmpo(a: Any, d: dict[int, float], of_row: list[float]) -> float:
    exponents = []
    for log_ratio, advantage in zip(d.values(), of_row, strict=True):
        sign = float(np.sign(advantage))
        clipped = min(max(log_ratio, -a.clip_low), a.clip_high)
        exponents.append(sign * min(sign * log_ratio, sign * clipped))
    return -float(np.mean(of_row)) * math.exp(float(np.mean(exponents)))


def _kl(a: Any, logprobs: np.ndarray, frozen: np.ndarray, batch: Batch, i: int, t: int) -> float:
    if a.kl_estimator == "exact":
        return batch["exact_kl"][i, t]
    x = float(np.clip(logprobs[i, t] - batch["ref_logprobs"][i, t], -20, 20))
    estimate = {"k1": x, "k2": x * x / 2, "k3": math.exp(-x) + x - 1, "absolute": abs(x)}[a.kl_estimator]
    estimate = float(np.clip(estimate, -10, 10))
    if a.kl_importance:
        d, frozen_d = _log_ratios(logprobs, batch, i), _log_ratios(frozen, batch, i)
        estimate *= ratio_of(a, d, logprobs[i, t], frozen_d, frozen[i, t], t)
    return estimate


def _is_far(a: Any, frozen: np.ndarray, batch: Batch, i: int) -> bool:
    tokens = tokens_of(batch["mask"], i)
    gap = np.mean([batch["sampler_logprobs"][i, t] - frozen[i, t] for t in tokens])
    return bool(np.mean([batch["advantages"][i, t] for t in tokens]) < 0 and gap > a.bad_row_threshold)


def policy_loss(
    a: Any,
    logprobs: np.ndarray,
    entropy: np.ndarray,
    batch: Batch,
    *,
    kl_coefficient: float,
    entropy_coefficient: float,
    frozen: np.ndarray | None = None,
    only: int | None = None,
) -> float:
    """The loss of all rows, or of row ``only``."""
    frozen = logprobs if frozen is None else frozen
    total = 0.0
    for i in range(len(logprobs)) if only is None else (only,):
        for t in tokens_of(batch["mask"], i):
            loss = _surrogate(a, logprobs, frozen, batch, i, t)
            if a.correction != "none":
                loss *= batch["correction"][i, t]
            if a.top_entropy_share is not None and not batch["high_entropy"][i, t]:
                loss = 0.0
            if a.bad_row_threshold is not None and _is_far(a, frozen, batch, i):
                loss = 0.0
            if a.kl_placement == "loss":
                loss += kl_coefficient * _kl(a, logprobs, frozen, batch, i, t)
            loss -= entropy_coefficient * entropy[i, t]
            if batch["rewards"][i] > 0:
                loss -= a.positive_nll_coefficient * logprobs[i, t]
            total += batch["weights"][i, t] * loss
    return total


def value_loss(a: Any, values: np.ndarray, batch: Batch) -> float:
    total = 0.0
    for i in range(len(values)):
        for t in tokens_of(batch["mask"], i):
            old, target = batch["values"][i, t], batch["returns"][i, t]
            loss = (values[i, t] - target) ** 2
            if a.value_clip is not None:
                held = min(max(values[i, t], old - a.value_clip), old + a.value_clip)
                loss = max(loss, (held - target) ** 2)
            total += batch["weights"][i, t] * loss
    return total


def covariance_choice(
    a: Any, logprobs: np.ndarray, batch: Batch, mask: np.ndarray
) -> tuple[set[tuple[int, int]], int, list[tuple[int, int]]]:
    """(candidates of clip_cov, how many tokens are chosen, all tokens by falling covariance)."""
    tokens = [(i, t) for i in range(len(mask)) for t in tokens_of(mask, i)]
    mean_a = np.mean([batch["advantages"][at] for at in tokens])
    mean_p = np.mean([logprobs[at] for at in tokens])
    of = {at: (batch["advantages"][at] - mean_a) * (logprobs[at] - mean_p) for at in tokens}
    candidates: set[tuple[int, int]] = set()
    if a.surrogate == "clip_cov":
        for i, t in tokens:
            d, now = _log_ratios(logprobs, batch, i), logprobs[i, t]
            ratio, advantage = ratio_of(a, d, now, d, now, t), batch["advantages"][i, t]
            binds = (advantage < 0 and ratio < 1 - a.clip_low) or (advantage > 0 and ratio > 1 + a.clip_high)
            if a.cov_low < of[i, t] < a.cov_high and not binds:
                candidates.add((i, t))
    return candidates, max(1, math.floor(a.cov_share * len(tokens))), sorted(tokens, key=lambda at: -of[at])


def high_entropy(a: Any, entropy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return mask
    return mask & (entropy >= np.quantile(entropy[mask], 1 - a.top_entropy_share) - 1e-12)
