"""Policy losses in which something else than a clip holds the policy back."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxrl_llm.core import covariance, diagnostics, losses, masks, ratios
from tests.reference_kinds.policy import Policy
from tests.reference_kinds.rewards import ESTIMATORS

Inputs = dict[str, Any]
Outputs = dict[str, Any]


def pg_gmpo(inputs: Inputs, *, log_eps_low: float, log_eps_high: float, rows: str) -> Outputs:
    assert rows == "all"
    p = Policy(inputs)
    bounds = {"log_clip_low": log_eps_low, "log_clip_high": log_eps_high}
    row_loss = losses.geometric_mean_loss(p.log_ratio, p.advantages, p.mask, **bounds)
    if "is_weights" in inputs:
        log_weights = jnp.log(jnp.where(p.mask, inputs["is_weights"], 1))
        row_loss = row_loss * ratios.sequence_ratio(log_weights, p.mask)[:, 0]
    outside = (p.log_ratio < -log_eps_low) | (p.log_ratio > log_eps_high)
    good, bad = p.share(outside & (p.advantages > 0)), p.share(outside & (p.advantages < 0))
    return p.metrics(clip_frac=good, clip_frac_lower=bad) | {"loss": jnp.mean(row_loss)}


def pg_clip_cov(
    inputs: Inputs,
    *,
    agg: dict[str, Any],
    eps_low: float,
    eps_high: float,
    cov_lower: float,
    cov_upper: float,
    budget: float,
    choice: str,
) -> Outputs:
    assert choice == "all candidates"
    p = Policy(inputs)
    binds = diagnostics.clip_binds_low(p.ratio, p.advantages, eps_low)
    binds = binds | diagnostics.clip_binds_high(p.ratio, p.advantages, eps_high)
    cov = covariance.token_covariance(p.log_prob, p.advantages, p.mask)
    bounds = {"lowest": cov_lower, "highest": cov_upper, "budget": budget}
    chosen = covariance.clip_cov_tokens(cov, p.mask, binds, jnp.zeros(cov.shape), **bounds)
    loss = losses.ppo_clip(p.ratio, p.advantages, clip_low=eps_low, clip_high=eps_high)
    return p.outputs(p.weighted(masks.keep(loss, ~chosen)), agg, clip_frac=p.share(chosen))


def pg_kl_cov(inputs: Inputs, *, agg: dict[str, Any], fraction: float, kl_coef: float) -> Outputs:
    p = Policy(inputs)
    cov = covariance.token_covariance(p.log_prob, p.advantages, p.mask)
    chosen = covariance.kl_cov_tokens(cov, p.mask, share=fraction)
    loss = covariance.kl_cov_loss(p.log_ratio, p.advantages, chosen, kl_coefficient=kl_coef)
    absolute = masks.masked_mean(ESTIMATORS["abs"](p.log_prob, masks.keep(inputs["old_log_prob"], p.mask)), p.mask)
    return p.outputs(p.weighted(loss), agg, approx_kl=absolute)


def pg_topr(
    inputs: Inputs,
    *,
    agg: dict[str, Any],
    positive_weight: float,
    negative_weight: float,
    log_ratio_clamp: float | None = None,
) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
    weights = {"positive_weight": positive_weight, "negative_weight": negative_weight}
    loss = losses.topr(p.log_prob, p.ratio, p.advantages, inputs["scores"][:, None] > 0, **weights)
    return p.outputs(p.weighted(loss), agg)


def pg_kimi15(inputs: Inputs, *, agg: dict[str, Any], tau: float, log_ratio_clamp: float | None = None) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
    return p.outputs(p.weighted(losses.squared_log_ratio(p.log_prob, p.log_ratio, p.advantages, tau=tau)), agg)


def pg_vespo(
    inputs: Inputs,
    *,
    agg: dict[str, Any],
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
    log_ratio_clamp: float | None = None,
) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
    kernel = {
        "k_positive": k_pos,
        "lambda_positive": lambda_pos,
        "k_negative": k_neg,
        "lambda_negative": lambda_neg,
    }
    return p.outputs(p.weighted(losses.vespo(p.log_prob, p.log_ratio, p.advantages, p.mask, **kernel)), agg)


def pg_probability_mask(
    inputs: Inputs,
    *,
    agg: dict[str, Any],
    by_sign: bool,
    mask_high: float,
    mask_low: float = 0.0,
    adv_scale: float = 1.0,
    kl_coef: float = 0.0,
    log_ratio_clamp: float | None = None,
) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
    old_log_prob = masks.keep(inputs["old_log_prob"], p.mask)
    bounds = {"low": mask_low, "high": mask_high, "by_sign": by_sign}
    kept = losses.probability_mask(p.log_prob, old_log_prob, p.advantages, **bounds)
    loss = p.weighted(masks.keep(-adv_scale * p.advantages * p.ratio, kept))
    return p.outputs(loss + kl_coef * jnp.square(p.log_ratio), agg)
