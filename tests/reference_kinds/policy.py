"""Policy losses and the value loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.core import covariance, diagnostics, losses, masks, mismatch, ratios
from tests.reference_kinds.aggregation import aggregate
from tests.reference_kinds.rewards import ESTIMATORS, estimate_kl

Inputs = dict[str, Any]
Outputs = dict[str, Any]


class _Policy:
    """What every policy loss starts from: masked log-probabilities, advantages at tokens, clamped log-ratios."""

    def __init__(self, inputs: Inputs, log_ratio_clamp: float | None = None):
        self.inputs, self.mask = inputs, inputs["mask"]
        given = inputs["advantages"]
        self.advantages = masks.over_tokens(given, self.mask) if given.ndim == 1 else masks.keep(given, self.mask)
        self.log_prob = masks.keep(inputs["log_prob"], self.mask)
        pair = (inputs["log_prob"], inputs["old_log_prob"], self.mask)
        self.raw_log_ratio = ratios.log_ratio(*pair)
        self.log_ratio = ratios.log_ratio(*pair, clamp=log_ratio_clamp)
        self.ratio = ratios.token_ratio(self.log_ratio, self.mask)

    def share(self, where: jax.Array) -> jax.Array:
        return masks.masked_mean(where, self.mask)

    def weighted(self, token_loss: jax.Array) -> jax.Array:
        return token_loss * self.inputs["is_weights"] if "is_weights" in self.inputs else token_loss

    def metrics(self, **others: jax.Array) -> Outputs:
        approx_kl = masks.masked_mean(-self.log_ratio, self.mask)
        return {"approx_kl": approx_kl, "clip_frac_lower": jnp.zeros(())} | others

    def outputs(self, token_loss: jax.Array, agg: dict[str, Any], **others: jax.Array) -> Outputs:
        return self.metrics(**others) | {"loss": aggregate(token_loss, self.inputs, agg)}

    def clip_frac(self, ratio: jax.Array, eps_low: float, eps_high: float) -> jax.Array:
        low = diagnostics.clip_binds_low(ratio, self.advantages, eps_low)
        return self.share(low | diagnostics.clip_binds_high(ratio, self.advantages, eps_high))


def pg_ppo_clip(
    inputs: Inputs,
    *,
    agg: dict[str, Any],
    eps_low: float,
    eps_high: float,
    dual_clip: float | None,
    log_ratio_clamp: float | None,
    approx_kl: str = "clamped",
    delta: float | None = None,
    kl: dict[str, Any] | None = None,
    top_entropy: float | None = None,
    off_policy_mask: dict[str, float] | None = None,
) -> Outputs:
    p = _Policy(inputs, log_ratio_clamp)
    loss = losses.ppo_clip(p.ratio, p.advantages, clip_low=eps_low, clip_high=eps_high, cap=delta)
    lower = jnp.zeros(())
    if dual_clip is not None:
        lower = p.share(diagnostics.dual_clip_binds(loss, p.advantages, dual_clip))
        loss = losses.dual_clip(loss, p.advantages, bound=dual_clip)
    loss = p.weighted(loss)
    if top_entropy is not None:
        loss = masks.keep(loss, mismatch.keep_high_entropy(inputs["entropy"], p.mask, share=top_entropy))
    if off_policy_mask is not None:
        gap = ratios.log_ratio(jax.lax.stop_gradient(inputs["log_prob"]), inputs["rollout_log_prob"], p.mask)
        rows = (inputs["advantages"] if inputs["advantages"].ndim == 1 else p.advantages[:, 0], gap, p.mask)
        loss = masks.keep(loss, mismatch.keep_bad_rows_near_policy(*rows, **off_policy_mask)[:, None])
    if kl is not None:
        beta, times_ratio = kl["beta"], kl["times_ratio"]
        estimate = {k: v for k, v in kl.items() if k not in ("beta", "times_ratio")}
        k = estimate_kl(p.log_prob, masks.keep(inputs["ref_log_prob"], p.mask), **estimate)
        loss = loss + beta * (k * p.ratio if times_ratio else k)
    shown = {"clamped": p.log_ratio, "raw": p.raw_log_ratio}[approx_kl]
    return p.outputs(
        loss,
        agg,
        clip_frac=p.clip_frac(p.ratio, eps_low, eps_high),
        clip_frac_lower=lower,
        approx_kl=masks.masked_mean(-shown, p.mask),
    )


def pg_ppo_correction(inputs: Inputs, *, correction: dict[str, Any], **params: Any) -> Outputs:
    weights = _correction(inputs, **correction)
    return pg_ppo_clip(inputs | {"is_weights": jax.lax.stop_gradient(weights)}, **params)


def _correction(
    inputs: Inputs,
    *,
    type: str,
    low: float | None = None,
    high: float | None = None,
    lower: float | None = None,
    upper: float | None = None,
    level: str = "token",
    action: str = "mask",
    metric: str = "ratio",
    agg: str = "mean",
) -> jax.Array:
    assert (metric, agg) == ("ratio", "mean")
    mask = inputs["mask"]
    x = ratios.log_ratio(inputs["old_log_prob"], inputs["rollout_log_prob"], mask)
    token = mismatch.importance_weights(x)
    row = jnp.broadcast_to(mismatch.importance_weights(mismatch.sequence_means(x, mask)), x.shape)
    if type == "tis":
        return mismatch.truncate_weights(token, low=low, high=high)
    if type == "icepop":
        return mismatch.drop_weights(token, low=low, high=high)
    if type == "seq_mask_tis":
        return masks.keep(token, mismatch.within(row, low=low, high=high))
    weights = {"token": token, "sequence": row}[level]
    if action == "clamp":
        return mismatch.truncate_weights(weights, low=lower or 0.0, high=upper)
    return mismatch.drop_weights(weights, low=lower, high=upper)


def pg_gspo(
    inputs: Inputs,
    *,
    agg: dict[str, Any],
    eps_low: float,
    eps_high: float,
    log_ratio_max: float | None,
    ratio_gradient: str,
) -> Outputs:
    p = _Policy(inputs)
    if ratio_gradient == "sequence":
        ratio = ratios.sequence_ratio(p.log_ratio, p.mask, highest=log_ratio_max)
    else:
        ratio = ratios.sequence_ratio_of_token(inputs["log_prob"], p.log_ratio, p.mask, highest=log_ratio_max)
    loss = p.weighted(losses.ppo_clip(ratio, p.advantages, clip_low=eps_low, clip_high=eps_high))
    return p.outputs(loss, agg, clip_frac=p.clip_frac(ratio, eps_low, eps_high))


def pg_cispo(
    inputs: Inputs,
    *,
    agg: dict[str, Any],
    ratio_min: float | None,
    ratio_max: float | None,
    log_ratio_clamp: float | None = None,
    drop_clipped: bool = False,
) -> Outputs:
    p = _Policy(inputs, log_ratio_clamp)
    bounds = {"ratio_min": ratio_min, "ratio_max": ratio_max}
    loss = losses.weighted_reinforce(p.log_prob, p.ratio, p.advantages, **bounds)
    if drop_clipped:
        loss = masks.keep(loss, ~losses.ratio_left(p.ratio, p.advantages, **bounds))
    outside = ~mismatch.within(p.ratio, low=ratio_min, high=ratio_max)
    return p.outputs(p.weighted(loss), agg, clip_frac=p.share(outside))


def pg_truncated_is(inputs: Inputs, *, agg: dict[str, Any], ratio_min: float, ratio_max: float) -> Outputs:
    return pg_cispo(inputs, agg=agg, ratio_min=ratio_min, ratio_max=ratio_max)


def pg_sapo(
    inputs: Inputs, *, agg: dict[str, Any], tau_pos: float, tau_neg: float, log_ratio_clamp: float | None
) -> Outputs:
    p = _Policy(inputs, log_ratio_clamp)
    loss = losses.soft_gate(p.ratio, p.advantages, temperature_positive=tau_pos, temperature_negative=tau_neg)
    return p.outputs(p.weighted(loss), agg, clip_frac=jnp.zeros(()))


def pg_gmpo(inputs: Inputs, *, log_eps_low: float, log_eps_high: float, rows: str) -> Outputs:
    assert rows == "all"
    p = _Policy(inputs)
    bounds = {"log_clip_low": log_eps_low, "log_clip_high": log_eps_high}
    row_loss = losses.geometric_mean_loss(p.log_ratio, p.advantages, p.mask, **bounds)
    if "is_weights" in inputs:
        log_weights = jnp.log(jnp.where(p.mask, inputs["is_weights"], 1))
        row_loss = row_loss * ratios.sequence_ratio(log_weights, p.mask)[:, 0]
    outside = (p.log_ratio < -log_eps_low) | (p.log_ratio > log_eps_high)
    good, bad = p.share(outside & (p.advantages > 0)), p.share(outside & (p.advantages < 0))
    return p.metrics(clip_frac=good, clip_frac_lower=bad) | {"loss": jnp.mean(row_loss)}


def pg_reinforce(inputs: Inputs, *, agg: dict[str, Any]) -> Outputs:
    p = _Policy(inputs)
    return p.outputs(p.weighted(losses.reinforce(p.log_prob, p.advantages)), agg)


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
    p = _Policy(inputs)
    binds = diagnostics.clip_binds_low(p.ratio, p.advantages, eps_low)
    binds = binds | diagnostics.clip_binds_high(p.ratio, p.advantages, eps_high)
    cov = covariance.token_covariance(p.log_prob, p.advantages, p.mask)
    bounds = {"lowest": cov_lower, "highest": cov_upper, "budget": budget}
    chosen = covariance.clip_cov_tokens(cov, p.mask, binds, jnp.zeros(cov.shape), **bounds)
    loss = losses.ppo_clip(p.ratio, p.advantages, clip_low=eps_low, clip_high=eps_high)
    return p.outputs(p.weighted(masks.keep(loss, ~chosen)), agg, clip_frac=p.share(chosen))


def pg_kl_cov(inputs: Inputs, *, agg: dict[str, Any], fraction: float, kl_coef: float) -> Outputs:
    p = _Policy(inputs)
    cov = covariance.token_covariance(p.log_prob, p.advantages, p.mask)
    chosen = covariance.kl_cov_tokens(cov, p.mask, share=fraction)
    loss = covariance.kl_cov_loss(p.log_ratio, p.advantages, chosen, kl_coefficient=kl_coef)
    absolute = masks.masked_mean(ESTIMATORS["abs"](p.log_prob, masks.keep(inputs["old_log_prob"], p.mask)), p.mask)
    return p.outputs(p.weighted(loss), agg, approx_kl=absolute)


def value_loss(inputs: Inputs, *, agg: dict[str, Any], clip: float | None, factor: float) -> Outputs:
    mask = inputs["mask"]
    values, old_values, targets = (masks.keep(inputs[name], mask) for name in ("values", "old_values", "returns"))
    loss = losses.value_loss(values, old_values, targets, clip=clip)
    clipped = loss > losses.value_loss(values, old_values, targets, clip=None)
    return {"loss": factor * aggregate(loss, inputs, agg), "clip_frac": masks.masked_mean(clipped, mask)}
