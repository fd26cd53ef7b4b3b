"""One adapter from the kinds and params of ``reference_vectors/README.md`` onto the functions of this library.

A kind is a function whose keyword arguments are the kind's params, so that a param nobody reads is an error. No formula
stands here: what is computed is computed by ``jaxrl_llm``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core import advantages as adv
from jaxrl_llm.core import aggregation, covariance, diagnostics, kl, losses, masks, mismatch, ratios, returns, shaping
from jaxrl_llm.core.logprobs import log_prob_and_entropy

Inputs = dict[str, Any]
Outputs = dict[str, Any]

FOLDER = Path(os.environ.get("REFERENCE_VECTORS", Path(__file__).parent / "reference_vectors"))

# Kinds of README.md and MORE-KINDS.md that the library does not offer yet.
NOT_YET = (
    "adv_optimal_token_baseline",
    "is_weights_areal",
    "kl_full",
    "pg_kimi15",
    "pg_luspo",
    "pg_probability_mask",
    "pg_sequence_ratio",
    "pg_topr",
    "pg_vespo",
    "reward_running_norm",
    "sum_pi_squared",
)


def cases() -> Iterator[dict[str, Any]]:
    """The cases of the manifest."""
    yield from json.loads((FOLDER / "manifest.json").read_text())["cases"]


def evaluate(kind: str, params: dict[str, Any], inputs: dict[str, np.ndarray]) -> tuple[Outputs, Outputs]:
    """Outputs and gradients of a case, by name; computed in float64 if an input is float64, else in float32.

    Raises:
      NotImplementedError: the kind is in ``NOT_YET``, or unknown.
      TypeError: the kind does not know a param.
    """
    if kind not in KINDS:
        raise NotImplementedError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    with jax.enable_x64(any(array.dtype == np.float64 for array in inputs.values())):
        arrays = {name: jnp.asarray(array) for name, array in inputs.items()}
        if "mask" in arrays:
            arrays["mask"] = arrays["mask"].astype(bool)
        gradients = {}
        if kind in GRADIENTS:
            of, with_respect_to = GRADIENTS[kind]

            def scalar(x: jax.Array) -> tuple[jax.Array, Outputs]:
                outputs = KINDS[kind](arrays | {with_respect_to: x}, **params)
                return outputs[of], outputs

            (_, outputs), gradient = jax.value_and_grad(scalar, has_aux=True)(arrays[with_respect_to])
            gradients[with_respect_to] = np.asarray(gradient)
        else:
            outputs = KINDS[kind](arrays, **params)
        return {name: np.asarray(value) for name, value in outputs.items()}, gradients


# --- aggregation ------------------------------------------------------------------------------------------------------


def _rows(rows: str | float, mask: jax.Array) -> Any:
    named = {"nonempty": aggregation.rows_with_tokens(mask), "all": mask.shape[0], "none": 1}
    return named[rows] if isinstance(rows, str) else rows


def _weights(
    mask: jax.Array,
    *,
    mode: str,
    denominator: str | float = "mask",
    rows: str | float = "nonempty",
    norm: float = 1.0,
    when_empty: str = "zero",
) -> jax.Array:
    assert when_empty == "zero"
    if mode == "token_mean":
        return aggregation.token_mean(mask, tokens=None if isinstance(denominator, str) else denominator)
    if mode == "token_sum_norm":
        return aggregation.constant(mask, tokens_per_row=norm, rows=_rows(rows, mask))
    per_row = {"seq_mean_token_sum": aggregation.sequence_sum, "seq_mean_token_mean": aggregation.sequence_mean}[mode]
    return per_row(mask, rows=_rows(rows, mask))


def _aggregate(
    token_loss: jax.Array,
    inputs: Inputs,
    agg: dict[str, Any],
) -> jax.Array:
    agg = dict(agg)
    scale = agg.pop("scale", 1.0)
    weights = _weights(inputs["mask"], **{k: v for k, v in agg.items() if k != "row_weights"})
    if agg.get("row_weights"):
        weights = weights * inputs["row_weights"][:, None]
    return scale * jnp.sum(weights * masks.keep(token_loss, inputs["mask"]))


def agg(inputs: Inputs, *, agg: dict[str, Any]) -> Outputs:
    return {"loss": _aggregate(inputs["loss_mat"], inputs, agg)}


# --- advantages from one reward a row ---------------------------------------------------------------------------------


def _everyone(inputs: Inputs) -> jax.Array:
    return jnp.ones(inputs["rewards"].shape[0], bool)


def _spread(values: jax.Array, inputs: Inputs) -> Outputs:
    return {"advantages": masks.over_tokens(values, inputs["mask"]) if "mask" in inputs else values}


def adv_group(
    inputs: Inputs,
    *,
    center: str,
    scale: str,
    ddof: int,
    eps: float,
    singleton: str | None,
    var_floor: float = 0.0,
    batch_std_about: str = "batch_mean",
) -> Outputs:
    rewards, rows = inputs["rewards"], (inputs["group"], _everyone(inputs))
    raw = singleton == "raw"
    if center == "group_mean":
        centred = adv.minus_group_mean(rewards, *rows, keep_single=raw)
    else:
        centred = {"batch_mean": adv.minus_batch_mean, "none": adv.minus_nothing}[center](rewards, *rows)
    if scale == "none":
        return _spread(centred, inputs)
    if scale == "group_std":
        std = adv.group_std(rewards, *rows, ddof=ddof, single=1.0 if raw else 0.0)
    else:
        about = {"batch_mean": adv.batch_std, "group_mean": adv.centred_batch_std}[batch_std_about]
        std = about(rewards, *rows, ddof=ddof)
    return _spread(adv.scaled(centred, std, epsilon=eps, variance_floor=var_floor), inputs)


def adv_rloo(inputs: Inputs, *, singleton: str | None = None, normalise: dict[str, Any] | None = None) -> Outputs:
    rows = (inputs["group"], _everyone(inputs))
    values = adv.minus_mean_of_others(inputs["rewards"], *rows, keep_single=singleton == "raw")
    if normalise:
        std = adv.batch_std(values, *rows, ddof=normalise["ddof"])
        values = adv.scaled(adv.minus_batch_mean(values, *rows), std, epsilon=normalise["eps"])
    return _spread(values, inputs)


def adv_opo(inputs: Inputs, *, singleton: str) -> Outputs:
    length = masks.count(inputs["mask"], axis=1)
    rows = (length, inputs["group"], _everyone(inputs))
    return _spread(adv.minus_length_weighted_mean(inputs["rewards"], *rows, keep_single=singleton == "raw"), inputs)


def adv_gpg(inputs: Inputs, *, alpha: str, f_norm: float, singleton: str) -> Outputs:
    assert alpha == "rows / rows with a nonzero reward"
    where = _everyone(inputs)
    centred = adv.minus_group_mean(inputs["rewards"], inputs["group"], where, keep_single=singleton == "raw")
    return _spread(adv.nonzero_share_scaled(centred, inputs["rewards"], where) / f_norm, inputs)


def adv_pass_at_k(inputs: Inputs, *, scale: str, ddof: int, eps: float) -> Outputs:
    rows = (inputs["rewards"], inputs["group"], _everyone(inputs))
    lead = adv.lead_of_best(*rows)
    return _spread(lead if scale == "none" else adv.scaled(lead, adv.group_std(*rows, ddof=ddof), epsilon=eps), inputs)


def adv_reinforce_pp_baseline(inputs: Inputs, *, singleton: str, whiten: dict[str, Any]) -> Outputs:
    rows = (inputs["rewards"], inputs["group"], _everyone(inputs))
    centred = adv.minus_group_mean(*rows, keep_single=singleton == "raw")
    return {"advantages": _whiten(masks.over_tokens(centred, inputs["mask"]), inputs["mask"], **whiten)}


def adv_multi_reward(inputs: Inputs, *, order: str, scale: str, ddof: int, eps: float) -> Outputs:
    rewards, weights, group = inputs["rewards"], inputs["weights"], inputs["group"]
    where = _everyone(inputs) if "unscored" not in inputs else inputs["unscored"] == 0
    if order == "sum_then_normalize":
        rewards = rewards @ weights
        centred = adv.minus_group_mean(rewards, group, where)
        if scale == "none":
            return {"advantages": centred}
        stds = {"group_std": adv.group_std, "batch_std": adv.batch_std}
        return {"advantages": adv.scaled(centred, stds[scale](rewards, group, where, ddof=ddof), epsilon=eps)}
    combined = adv.sum_of_normalized(rewards, weights, group, where, ddof=ddof, epsilon=eps)
    std = adv.batch_std(combined, group, where, ddof=ddof)
    return {"advantages": adv.scaled(adv.minus_batch_mean(combined, group, where), std, epsilon=eps)}


# --- advantages from rewards at tokens --------------------------------------------------------------------------------


def _whiten(
    values: jax.Array,
    mask: jax.Array,
    *,
    ddof: int,
    eps: float,
    eps_at: str,
    over: str = "batch",
    shift_mean: bool = True,
    center: bool = True,
    scale: bool = True,
) -> jax.Array:
    where = {"variance": "variance_epsilon", "variance_floor": "variance_floor", "std": "std_epsilon"}[eps_at]
    axis = {"batch": None, "row": 1}[over]
    centered = shift_mean and center
    return adv.whiten(values, mask, ddof=ddof, center=centered, scale=scale, axis=axis, **{where: eps})


def whiten(inputs: Inputs, **params: Any) -> Outputs:
    return {"whitened": _whiten(inputs["values"], inputs["mask"], **params)}


def _gae(token_rewards: jax.Array, inputs: Inputs, *, gamma: float, lam: float, gap: str) -> Outputs:
    mask = jnp.ones_like(inputs["mask"]) if gap == "none" else inputs["mask"]
    function = {"skip": returns.gae, "zero": returns.gae_through_gaps, "none": returns.gae}[gap]
    values = function(token_rewards, inputs["values"], mask, gamma=gamma, lam=lam)
    return {"advantages": values, "returns": values + masks.keep(inputs["values"], mask)}


def adv_gae(inputs: Inputs, *, gamma: float, lam: float, gap: str, whiten: dict[str, Any] | None) -> Outputs:
    outputs = _gae(inputs["token_rewards"], inputs, gamma=gamma, lam=lam, gap=gap)
    if whiten:
        outputs["whitened"] = _whiten(outputs["advantages"], inputs["mask"], **whiten)
    return outputs


def returns_discounted(inputs: Inputs, *, gamma: float, gap: str) -> Outputs:
    assert gap == "zero"
    return {"returns": returns.returns_to_go(inputs["token_rewards"], inputs["mask"], gamma=gamma)}


def adv_reinforce_pp(inputs: Inputs, *, gamma: float, gap: str, whiten: dict[str, Any]) -> Outputs:
    assert gap == "restart"
    to_go = returns.returns_of_run(inputs["token_rewards"], inputs["mask"], gamma=gamma)
    return {"returns": to_go, "advantages": _whiten(to_go, inputs["mask"], **whiten)}


def adv_remax(inputs: Inputs) -> Outputs:
    to_go = returns.returns_to_go(inputs["token_rewards"], inputs["mask"])
    return {"returns": to_go, "advantages": to_go - inputs["baseline"][:, None]}


def adv_pipeline(
    inputs: Inputs,
    *,
    baseline: str,
    gamma: float,
    lam: float,
    kl_coef: float,
    group_std: dict[str, Any] | None,
    reward_clip: list[float] | None,
    returns: str,
    normalise: dict[str, Any] | None,
) -> Outputs:
    rows = (inputs["group"], _everyone(inputs))
    centers = {"none": adv.minus_nothing, "leave_one_out": adv.minus_mean_of_others}
    result = centers.get(baseline, adv.minus_group_mean)(inputs["rewards"], *rows)
    if baseline == "group_mean_std":
        assert group_std is not None
        std = adv.group_std(inputs["rewards"], *rows, ddof=group_std["ddof"])
        result = adv.scaled(result, std, epsilon=group_std["eps"])
    if reward_clip:
        result = jnp.clip(result, *reward_clip)
    token_rewards = _at_last_token(result, inputs["mask"]) - kl_coef * masks.keep(inputs["kl"], inputs["mask"])
    if returns == "discounted":
        to_go = _returns_to_go(token_rewards, inputs["mask"], gamma=gamma)
        outputs = {"advantages": to_go, "returns": to_go}
    else:
        outputs = _gae(token_rewards, inputs, gamma=gamma, lam=lam, gap="zero")
    if normalise:
        outputs["advantages"] = _whiten(outputs["advantages"], inputs["mask"], **normalise)
    return outputs


_returns_to_go, _at_last_token = returns.returns_to_go, returns.at_last_token  # adv_pipeline's param hides the module


# --- rewards ----------------------------------------------------------------------------------------------------------

ESTIMATORS = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3, "abs": kl.absolute}


def _kl(
    log_prob: jax.Array,
    ref_log_prob: jax.Array,
    *,
    estimator: str,
    log_ratio_clamp: float | None,
    out_clamp: float | None,
) -> jax.Array:
    return ESTIMATORS[estimator](log_prob, ref_log_prob, log_ratio_clamp=log_ratio_clamp, clamp=out_clamp)


def kl_estimate(inputs: Inputs, **params: Any) -> Outputs:
    estimate = _kl(inputs["log_prob"], inputs["ref_log_prob"], **params)
    return {"kl": estimate, "sum": jnp.sum(estimate)}


def reward_kl(inputs: Inputs, *, coef: float, controller: dict[str, Any], **estimate: Any) -> Outputs:
    mask = inputs["mask"]
    k = masks.keep(_kl(inputs["old_log_prob"], inputs["ref_log_prob"], **estimate), mask)
    mean_kl = jnp.mean(masks.masked_mean(k, mask, axis=1))
    known = {"error_clip": 0.2} | controller
    next_coef = kl.adapted_coefficient(jnp.asarray(coef), mean_kl, rows=mask.shape[0], **known)
    return {"token_rewards": inputs["token_scores"] - coef * k, "mean_kl": mean_kl, "next_coef": next_coef}


def kl_controller(inputs: Inputs, *, init: float, **controller: Any) -> Outputs:
    coefficient, coefficients = jnp.asarray(init), []
    for measured, rows in zip(inputs["kl"], inputs["samples"], strict=True):
        coefficient = kl.adapted_coefficient(coefficient, measured, rows=rows, **controller)
        coefficients.append(coefficient)
    return {"coef": jnp.stack(coefficients)}


def group_filter(inputs: Inputs, *, bounds: str, low: float, high: float) -> Outputs:
    assert bounds == "exclusive"
    scores = inputs["scores"]
    where = jnp.ones(scores.shape, bool)
    return {"keep": shaping.mean_between(scores, inputs["group"], where, low=low, high=high)}


def overlong(inputs: Inputs, *, max_length: int, buffer: int, factor: float, floor: float | None) -> Outputs:
    lengths = inputs["lengths"]
    sizes = {"max_tokens": max_length, "buffer": buffer}
    return {"penalty": shaping.overlong_penalty(lengths, **sizes, penalty=factor, floor=floor)}


# --- policy losses ----------------------------------------------------------------------------------------------------


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
        return self.metrics(**others) | {"loss": _aggregate(token_loss, self.inputs, agg)}

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
        k = _kl(p.log_prob, masks.keep(inputs["ref_log_prob"], p.mask), **estimate)
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
    chosen = covariance.clip_cov_tokens(cov, p.mask, binds, jax.random.key(0), **bounds)
    loss = losses.ppo_clip(p.ratio, p.advantages, clip_low=eps_low, clip_high=eps_high)
    return p.outputs(p.weighted(masks.keep(loss, ~chosen)), agg, clip_frac=p.share(chosen))


def pg_kl_cov(inputs: Inputs, *, agg: dict[str, Any], fraction: float, kl_coef: float) -> Outputs:
    p = _Policy(inputs)
    cov = covariance.token_covariance(p.log_prob, p.advantages, p.mask)
    sizes = {"share": fraction, "kl_coefficient": kl_coef}
    loss = covariance.kl_cov_loss(p.log_ratio, p.advantages, cov, p.mask, **sizes)
    absolute = masks.masked_mean(kl.absolute(p.log_prob, masks.keep(inputs["old_log_prob"], p.mask)), p.mask)
    return p.outputs(p.weighted(loss), agg, approx_kl=absolute)


def value_loss(inputs: Inputs, *, agg: dict[str, Any], clip: float | None, factor: float) -> Outputs:
    mask = inputs["mask"]
    values, old_values, targets = (masks.keep(inputs[name], mask) for name in ("values", "old_values", "returns"))
    loss = losses.value_loss(values, old_values, targets, clip=clip)
    clipped = loss > losses.value_loss(values, old_values, targets, clip=None)
    return {"loss": factor * _aggregate(loss, inputs, agg), "clip_frac": masks.masked_mean(clipped, mask)}


# --- importance weights and masks -------------------------------------------------------------------------------------


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


def logprob_entropy(inputs: Inputs, *, temperature: float) -> Outputs:
    log_prob, entropy = log_prob_and_entropy(inputs["logits"] / temperature, inputs["labels"])
    objective = jnp.sum(inputs["weight_log_prob"] * log_prob + inputs["weight_entropy"] * entropy)
    return {"log_prob": log_prob, "entropy": entropy, "objective": objective}


KINDS: dict[str, Callable[..., Outputs]] = {
    function.__name__: function
    for function in (
        adv_gae, adv_gpg, adv_group, adv_multi_reward, adv_opo, adv_pass_at_k, adv_pipeline, adv_reinforce_pp,
        adv_reinforce_pp_baseline, adv_remax, adv_rloo, agg, group_filter, high_entropy_mask, is_weights, kl_controller,
        kl_estimate, logprob_entropy, off_policy_sequence_mask, offpolicy_metrics, overlong, pg_cispo, pg_clip_cov,
        pg_gmpo, pg_gspo, pg_kl_cov, pg_ppo_clip, pg_ppo_correction, pg_reinforce, pg_sapo, pg_truncated_is,
        rejection_mask, returns_discounted, reward_kl, value_loss, whiten,
    )
}  # fmt: skip

# kind -> (scalar output, input that it is differentiated by)
GRADIENTS = {kind: ("loss", "log_prob") for kind in KINDS if kind.startswith("pg_")} | {
    "agg": ("loss", "loss_mat"),
    "kl_estimate": ("sum", "log_prob"),
    "logprob_entropy": ("objective", "logits"),
    "value_loss": ("loss", "values"),
}
