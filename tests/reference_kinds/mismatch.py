"""Importance weights and masks for the gap between sampler and trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.core import diagnostics, masks, mismatch, ratios
from tests.reference_kinds.rewards import ESTIMATORS

Inputs = dict[str, Any]
Outputs = dict[str, Any]


def _gap(inputs: Inputs, clamp: float | None = None) -> jax.Array:
    return ratios.log_ratio(inputs["train_log_prob"], inputs["rollout_log_prob"], inputs["mask"], clamp=clamp)


LEVELS: dict[str, Callable[..., jax.Array]] = {
    "token": lambda x, mask: x,
    "sequence": mismatch.sequence_sums,
    "geometric": mismatch.sequence_means,
    "segment": mismatch.segment_means,
    "seq_sum": mismatch.sequence_sums,
    "seq_mean": mismatch.sequence_means,
    "seq_max": mismatch.sequence_largest,
}


def is_weights(
    inputs: Inputs,
    *,
    level: str,
    mode: str,
    low: float | None = None,
    high: float | None = None,
    log_ratio_clamp: float | None = None,
    batch_normalise: str | None = None,
    keep: list[dict[str, Any]] | None = None,
) -> Outputs:
    mask = inputs["mask"]
    weights = mismatch.importance_weights(LEVELS[level](_gap(inputs), mask), log_ratio_clamp=log_ratio_clamp)
    outputs = {}
    if keep is not None:
        rules = [_rule_holds(inputs, log_ratio_clamp, **rule) for rule in keep]
        outputs["keep"] = jnp.stack([mask, *(jnp.broadcast_to(holds, mask.shape) for holds in rules)]).all(axis=0)
    if high is not None:
        outputs["effective_sample_size"] = mismatch.effective_sample_share(weights, mask, highest=high)
    bound = {"truncate": mismatch.truncate_weights, "mask": mismatch.drop_weights}[mode]
    weights = bound(weights, low=low, high=high)
    if batch_normalise is not None:
        normalise = {"tokens": mismatch.mean_one_over_tokens, "rows": mismatch.mean_one_over_rows}[batch_normalise]
        weights = normalise(weights, mask)
    return outputs | {"weights": weights}


def _rule_holds(
    inputs: Inputs,
    log_ratio_clamp: float | None,
    *,
    of: str,
    level: str,
    low: float | None = None,
    high: float | None = None,
) -> jax.Array:
    mask = inputs["mask"]
    if of == "ratio":
        values = mismatch.importance_weights(LEVELS[level](_gap(inputs), mask), log_ratio_clamp=log_ratio_clamp)
    else:
        assert of == "probability_difference"
        pair = (inputs["train_log_prob"], inputs["rollout_log_prob"])
        values = LEVELS[level](mismatch.probability_differences(*pair, mask), mask)
    return mismatch.within(values, low=low, high=high)


def is_weights_areal(
    inputs: Inputs,
    *,
    metric: str,
    action: str,
    upper: float | None = None,
    lower: float | None = None,
    log_ratio_clamp: float | None = None,
) -> Outputs:
    mask, x = inputs["mask"], _gap(inputs, log_ratio_clamp)
    if metric == "ratio":
        measure = weights = mismatch.importance_weights(mismatch.sequence_means(x, mask))
    else:
        assert metric == "kl_k3"
        measure = mismatch.sequence_means(ESTIMATORS["k3"](x, jnp.zeros_like(x)), mask)
        weights = mismatch.importance_weights(x)
    inside = mismatch.within(measure, low=lower, high=upper)
    if action == "mask":
        keep = mask & inside
    else:
        assert action == "clamp"
        keep = mask
        weights = jnp.where(inside, weights, mismatch.truncate_weights(weights, low=lower, high=upper))
    return {"keep": keep, "weights": masks.keep(jnp.broadcast_to(weights, mask.shape), keep)}


def _log(bound: float | None) -> float | None:
    if bound is None:
        return None
    return math.log(bound) if bound > 0 else -math.inf


def rejection_mask(inputs: Inputs, *, rules: list[dict[str, Any]], log_ratio_clamp: float | None = None) -> Outputs:
    mask = inputs["mask"]
    x = _gap(inputs, log_ratio_clamp)
    keep = mask
    for rule in rules:
        estimate = ESTIMATORS[rule["estimator"]](jnp.zeros_like(x), x)  # of KL(sampler ‖ trainer): its x is -ours
        statistic = LEVELS[rule["level"]](estimate, mask)
        low, high = rule.get("low"), rule.get("high")
        if rule["bounds"] == "log":
            low, high = _log(low), _log(high)
        keep = keep & mismatch.within(statistic, low=low, high=high)
    return {"keep": keep}


def offpolicy_metrics(inputs: Inputs, *, log_ratio_clamp: float) -> Outputs:
    arrays = (inputs["train_log_prob"], inputs["rollout_log_prob"], inputs["mask"])
    return dict(diagnostics.policy_gap(*arrays, log_ratio_clamp=log_ratio_clamp))


def high_entropy_mask(inputs: Inputs, *, share: float) -> Outputs:
    return {"keep": mismatch.keep_high_entropy(inputs["entropy"], inputs["mask"], share=share)}


def off_policy_sequence_mask(inputs: Inputs, *, threshold: float) -> Outputs:
    rows = (inputs["advantages"], _gap(inputs), inputs["mask"])
    return {"keep": mismatch.keep_bad_rows_near_policy(*rows, threshold=threshold)}
