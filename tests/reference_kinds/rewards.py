"""KL estimates, what is done to rewards, and log-probabilities."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.core import advantages, kl, logprobs, masks, running, shaping

Inputs = dict[str, Any]
Outputs = dict[str, Any]


ESTIMATORS = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3, "abs": kl.absolute}


def estimate_kl(
    log_prob: jax.Array,
    ref_log_prob: jax.Array,
    *,
    estimator: str,
    log_ratio_clamp: float | None = None,
    out_clamp: float | None = None,
) -> jax.Array:
    return ESTIMATORS[estimator](log_prob, ref_log_prob, log_ratio_clamp=log_ratio_clamp, clamp=out_clamp)


def kl_estimate(inputs: Inputs, **params: Any) -> Outputs:
    estimate = estimate_kl(inputs["log_prob"], inputs["ref_log_prob"], **params)
    return {"kl": estimate, "sum": jnp.sum(estimate)}


def reward_kl(inputs: Inputs, *, coef: float, controller: dict[str, Any], **estimate: Any) -> Outputs:
    mask = inputs["mask"]
    k = masks.keep(estimate_kl(inputs["old_log_prob"], inputs["ref_log_prob"], **estimate), mask)
    mean_kl = jnp.mean(masks.masked_mean(k, mask, axis=1))
    known = {"error_clip": 0.2} | controller
    next_coef = kl.adapted_coefficient(jnp.asarray(coef), mean_kl, rows=mask.shape[0], **known)
    return {"token_rewards": inputs["token_scores"] - coef * k, "mean_kl": mean_kl, "next_coef": next_coef}


def kl_controller(inputs: Inputs, *, init: float, **controller: Any) -> Outputs:
    coefficient, coefficients = jnp.asarray(init), []
    known = {"error_clip": 0.2} | controller
    for measured, rows in zip(inputs["kl"], inputs["samples"], strict=True):
        coefficient = kl.adapted_coefficient(coefficient, measured, rows=rows, **known)
        coefficients.append(coefficient)
    return {"coef": jnp.stack(coefficients)}


def reward_running_norm(inputs: Inputs, *, center: str, initial_count: float, eps: float) -> Outputs:
    everyone = jnp.ones(inputs["group"].shape, bool)

    def normalise(moments: running.Moments, rewards: jax.Array) -> tuple[running.Moments, jax.Array]:
        moments = running.merge(moments, rewards, everyone)
        if center in ("group_mean", "group"):
            centred = advantages.minus_group_mean(rewards, inputs["group"], everyone)
        else:
            assert center in ("running_mean", "running")
            centred = rewards - moments.mean
        return moments, advantages.scaled(centred, running.std(moments), epsilon=eps)

    moments, normalised = jax.lax.scan(normalise, running.initial(initial_count), inputs["rewards"])
    return {"normalised": normalised, "mean": moments.mean, "std": running.std(moments), "count": moments.count}


def kl_full(inputs: Inputs) -> Outputs:
    divergence = kl.exact(inputs["log_probs"], inputs["ref_log_probs"])
    return {"kl": divergence, "sum": jnp.sum(divergence)}


def sum_pi_squared(inputs: Inputs) -> Outputs:
    return {"sum_pi_squared": logprobs.sum_pi_squared(inputs["logits"])}


def group_filter(inputs: Inputs, *, bounds: str, low: float, high: float) -> Outputs:
    assert bounds == "exclusive"
    scores = inputs["scores"]
    where = jnp.ones(scores.shape, bool)
    return {"keep": shaping.mean_between(scores, inputs["group"], where, low=low, high=high)}


def overlong(inputs: Inputs, *, max_length: int, buffer: int, factor: float, floor: float | None = None) -> Outputs:
    lengths = inputs["lengths"]
    sizes = {"max_tokens": max_length, "buffer": buffer}
    return {"penalty": shaping.overlong_penalty(lengths, **sizes, penalty=factor, floor=floor)}


def logprob_entropy(inputs: Inputs, *, temperature: float) -> Outputs:
    log_prob, entropy = logprobs.log_prob_and_entropy(inputs["logits"] / temperature, inputs["labels"])
    objective = jnp.sum(inputs["weight_log_prob"] * log_prob + inputs["weight_entropy"] * entropy)
    return {"log_prob": log_prob, "entropy": entropy, "objective": objective}
