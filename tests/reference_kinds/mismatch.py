"""Importance weights and masks for the gap between sampler and trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.core import diagnostics, mismatch, ratios
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
    low: float | None,
    high: float | None,
    log_ratio_clamp: float | None,
    batch_normalise: str | None,
) -> Outputs:
    mask = inputs["mask"]
    weights = mismatch.importance_weights(LEVELS[level](_gap(inputs), mask), log_ratio_clamp=log_ratio_clamp)
    outputs = {}
    if high is not None:
        outputs["effective_sample_size"] = mismatch.effective_sample_share(weights, mask, highest=high)
    bound = {"truncate": mismatch.truncate_weights, "mask": mismatch.drop_weights}[mode]
    weights = bound(weights, low=low, high=high)
    if batch_normalise is not None:
        normalise = {"tokens": mismatch.mean_one_over_tokens, "rows": mismatch.mean_one_over_rows}[batch_normalise]
        weights = normalise(weights, mask)
    return outputs | {"weights": weights}


def rejection_mask(inputs: Inputs, *, log_ratio_clamp: float | None, rules: list[dict[str, Any]]) -> Outputs:
    mask = inputs["mask"]
    x = _gap(inputs, log_ratio_clamp)
    keep = mask
    for rule in rules:
        estimate = ESTIMATORS[rule["estimator"]](jnp.zeros_like(x), x)  # of KL(sampler ‖ trainer): its x is -ours
        statistic = LEVELS[rule["level"]](estimate, mask)
        low, high = rule["low"], rule["high"]
        if rule["bounds"] == "log":
            low, high = math.log(low), math.log(high)
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
