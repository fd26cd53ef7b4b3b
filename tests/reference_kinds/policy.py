"""Policy losses on the ratio of a token or of its sequence, and the value loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.core import diagnostics, losses, masks, mismatch, ratios
from tests.reference_kinds.aggregation import aggregate
from tests.reference_kinds.rewards import estimate_kl

Inputs = dict[str, Any]
Outputs = dict[str, Any]


class Policy:
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

    def row_advantages(self) -> jax.Array:
        given = self.inputs["advantages"]
        return given if given.ndim == 1 else masks.masked_mean(given, self.mask, axis=1)

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
    dual_clip: float | None = None,
    log_ratio_clamp: float | None = None,
    approx_kl: str = "clamped",
    delta: float | None = None,
    kl: dict[str, Any] | None = None,
    top_entropy: float | None = None,
    off_policy_mask: dict[str, float] | None = None,
) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
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
        kept = mismatch.keep_bad_rows_near_policy(p.row_advantages(), gap, p.mask, **off_policy_mask)
        loss = masks.keep(loss, kept[:, None])
    if kl is not None:
        beta, times_ratio = kl["beta"], kl.get("times_ratio", False)
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
    log_ratio_max: float | None = None,
    ratio_gradient: str = "sequence",
    log_ratio_clamp: float | None = None,
) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
    if ratio_gradient == "sequence":
        ratio = ratios.sequence_ratio(p.log_ratio, p.mask, highest=log_ratio_max)
    else:
        ratio = ratios.sequence_ratio_of_token(inputs["log_prob"], p.log_ratio, p.mask, highest=log_ratio_max)
    loss = p.weighted(losses.ppo_clip(ratio, p.advantages, clip_low=eps_low, clip_high=eps_high))
    return p.outputs(loss, agg, clip_frac=p.clip_frac(ratio, eps_low, eps_high))


def pg_luspo(inputs: Inputs, **params: Any) -> Outputs:
    return pg_gspo(inputs, agg={"mode": "seq_mean_token_sum", "rows": "all"}, **params)


def pg_sequence_ratio(inputs: Inputs, *, eps_low: float, eps_high: float) -> Outputs:
    given, mask = inputs["advantages"], inputs["mask"]
    advantages = given[:, None] if given.ndim == 1 else masks.masked_mean(given, mask, axis=1, keepdims=True)
    # the old sum stands in a column of its own, so that a row without tokens has its ratio too
    log_ratios = jnp.concatenate([inputs["log_prob"], -inputs["old_log_prob_sum"][:, None]], axis=1)
    tokens = jnp.concatenate([mask, jnp.ones_like(mask[:, :1])], axis=1)
    ratio = ratios.sequence_product_ratio(log_ratios, tokens)[:, :1]
    return {"loss": jnp.mean(losses.ppo_clip(ratio, advantages, clip_low=eps_low, clip_high=eps_high))}


def pg_cispo(
    inputs: Inputs,
    *,
    agg: dict[str, Any],
    ratio_min: float | None = None,
    ratio_max: float | None = None,
    log_ratio_clamp: float | None = None,
    drop_clipped: bool = False,
) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
    bounds = {"ratio_min": ratio_min, "ratio_max": ratio_max}
    loss = losses.weighted_reinforce(p.log_prob, p.ratio, p.advantages, **bounds)
    if drop_clipped:
        loss = masks.keep(loss, ~losses.ratio_left(p.ratio, p.advantages, **bounds))
    outside = ~mismatch.within(p.ratio, low=ratio_min, high=ratio_max)
    return p.outputs(p.weighted(loss), agg, clip_frac=p.share(outside))


def pg_truncated_is(inputs: Inputs, *, agg: dict[str, Any], ratio_min: float, ratio_max: float) -> Outputs:
    return pg_cispo(inputs, agg=agg, ratio_min=ratio_min, ratio_max=ratio_max)


def pg_sapo(
    inputs: Inputs, *, agg: dict[str, Any], tau_pos: float, tau_neg: float, log_ratio_clamp: float | None = None
) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
    loss = losses.soft_gate(p.ratio, p.advantages, temperature_positive=tau_pos, temperature_negative=tau_neg)
    return p.outputs(p.weighted(loss), agg, clip_frac=jnp.zeros(()))


def pg_reinforce(inputs: Inputs, *, agg: dict[str, Any], log_ratio_clamp: float | None = None) -> Outputs:
    p = Policy(inputs, log_ratio_clamp)
    return p.outputs(p.weighted(losses.reinforce(p.log_prob, p.advantages)), agg)


def value_loss(inputs: Inputs, *, agg: dict[str, Any], clip: float | None = None, factor: float = 1.0) -> Outputs:
    mask = inputs["mask"]
    values, old_values, targets = (masks.keep(inputs[name], mask) for name in ("values", "old_values", "returns"))
    loss = losses.value_loss(values, old_values, targets, clip=clip)
    clipped = loss > losses.value_loss(values, old_values, targets, clip=None)
    return {"loss": factor * aggregate(loss, inputs, agg), "clip_frac": masks.masked_mean(clipped, mask)}
