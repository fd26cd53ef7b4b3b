"""An algorithm as a point in a product of small knobs, and the one place where their strings become functions.

Order of a step: shape the rewards; keep groups (dynamic sampling); baseline, scale, KL in the reward, whitening, clip
of the advantage; filters, which act on the mask alone; weights of the loss; then the policy loss of each micro-batch.

Every difference of log-probabilities is held within ±20 nats before it is exponentiated (:data:`LOG_RATIO_CLAMP`), and
every KL estimate of a token within ±10 nats (:data:`KL_CLAMP`), with gradient 0 beyond: float32 stays finite.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_llm.core import advantages as baselines
from jaxrl_llm.core import aggregation, diagnostics, losses, masks, ratios, returns, shaping
from jaxrl_llm.core import kl as kl_estimators
from jaxrl_llm.knobs import Algorithm, check
from jaxrl_llm.types import Array, Mean, Metrics, TrainBatch

__all__ = [
    "KL_CLAMP",
    "LOG_RATIO_CLAMP",
    "Advantages",
    "Algorithm",
    "advantages",
    "check",
    "keep_groups",
    "kl_estimate",
    "loss_weights",
    "needs_reference",
    "policy_loss",
    "shape_rewards",
]

LOG_RATIO_CLAMP = 20.0  # nats
KL_CLAMP = 10.0  # nats

BASELINES = {
    "none": baselines.minus_nothing,
    "group": baselines.minus_group_mean,
    "batch": baselines.minus_batch_mean,
    "leave_one_out": baselines.minus_mean_of_others,
}
SCALES = {
    "group": baselines.group_std,
    "batch": baselines.batch_std,
    "batch_centered": baselines.centred_batch_std,
}
RATIOS = {"token": ratios.token_ratio, "sequence": ratios.sequence_ratio}
KL_ESTIMATORS = {"k1": kl_estimators.k1, "k2": kl_estimators.k2, "k3": kl_estimators.k3}
AGGREGATIONS = {
    "token_mean": lambda mask, prompt_id, tokens_per_row: aggregation.token_mean(mask),
    "sequence_mean": lambda mask, prompt_id, tokens_per_row: aggregation.sequence_mean(mask),
    "prompt_mean": lambda mask, prompt_id, tokens_per_row: aggregation.prompt_mean(mask, prompt_id),
    "sequence_sum": lambda mask, prompt_id, tokens_per_row: aggregation.sequence_sum(mask),
    "constant": lambda mask, prompt_id, tokens_per_row: aggregation.constant(mask, tokens_per_row=tokens_per_row),
}


def needs_reference(algorithm: Algorithm) -> bool:
    """Whether the starting policy must score the completions."""
    return algorithm.kl_placement != "none"


def shape_rewards(algorithm: Algorithm, rewards: Array, length: Array, *, max_tokens: int) -> Array:
    """rewards + soft overlong penalty, not below -overlong_penalty; the rewards themselves if the buffer is 0.

    Args:
      rewards: [B]; NaN stays NaN.
      length: [B], tokens of the completion, the stop token included.
      max_tokens: the limit of a completion, in tokens.
    """
    rewards = masks.as_float(rewards)
    if algorithm.overlong_buffer == 0:
        return rewards
    return rewards + shaping.overlong_penalty(
        length,
        max_tokens=max_tokens,
        buffer=algorithm.overlong_buffer,
        penalty=algorithm.overlong_penalty,
        floor=-algorithm.overlong_penalty,
    )


def keep_groups(algorithm: Algorithm, rewards: Array, prompt_id: Array) -> Array:
    """bool [B]: rows whose group stays. With `zero_variance` a group whose scored rewards are all equal goes."""
    scored = ~jnp.isnan(masks.as_float(rewards))
    if algorithm.group_filter == "none":
        return jnp.ones_like(scored)
    return shaping.has_spread(rewards, prompt_id, scored)


def kl_estimate(algorithm: Algorithm, logprobs: Array, ref_logprobs: Array) -> Array:
    """The algorithm's estimate of KL(policy ‖ reference) at each token, in nats, clamped as the module says."""
    estimator = KL_ESTIMATORS[algorithm.kl_estimator]
    return estimator(logprobs, ref_logprobs, log_ratio_clamp=LOG_RATIO_CLAMP, clamp=KL_CLAMP)


class Advantages(NamedTuple):
    """Advantages of a step.

    Attributes:
      values: [B, T], 0 off the mask that was given and in unscorable rows.
      mask: bool [B, T], the tokens that keep a gradient after the filters.
      metrics: what the filters and clips touched.
    """

    values: Array
    mask: Array
    metrics: Metrics


def advantages(
    algorithm: Algorithm,
    rewards: Array,
    *,
    prompt_id: Array,
    mask: Array,
    truncated: Array,
    kl: Array | None = None,
) -> Advantages:
    """A_{i,t} = (r_i - baseline) / (std + epsilon) - coefficient · Σ_{s ≥ t} kl_{i,s}, then whitened and clipped.

    Statistics are those of all scored rows, filtered ones included; filters act on the mask only. A reward of NaN could
    not be scored: its row enters no statistic, has advantage 0 and no gradient. Where the standard deviation is exactly
    0 there is nothing to tell rows apart by, and the quotient is 0. Whitening uses ``scale_ddof`` and
    ``scale_epsilon`` too, over tokens.

    Args:
      rewards: [B], of any number type, after :func:`shape_rewards`.
      prompt_id: int [B]; rows with the same number are one group, in any order.
      mask: bool [B, T], tokens the policy sampled.
      truncated: bool [B].
      kl: [B, T] from :func:`kl_estimate`, if and only if ``kl_placement`` is "reward".

    Reference: arXiv 2508.08221, eqs. 5-7 and section 5.
    """
    if (kl is not None) != (algorithm.kl_placement == "reward"):
        raise ValueError(
            f"algorithm.kl_placement = {algorithm.kl_placement!r} but kl is {'given' if kl is not None else 'None'}: "
            "expected a KL estimate exactly when it goes into the reward"
        )
    rewards = masks.as_float(rewards)
    scored = ~jnp.isnan(rewards)
    tokens = mask.astype(bool) & scored[:, None]
    row_values = _row_advantages(algorithm, rewards, prompt_id, scored)
    values = masks.over_tokens(row_values, tokens)
    if kl is not None:
        to_go = returns.returns_to_go(-algorithm.kl_coefficient * masks.keep(kl, tokens), tokens)
        values = jnp.where(tokens, values + to_go.astype(values.dtype), 0)
    if algorithm.whiten:
        values = baselines.whiten(values, tokens, ddof=algorithm.scale_ddof, std_epsilon=algorithm.scale_epsilon)
    metrics = {"unscorable": Mean.of(~scored)} | diagnostics.reward_spread(rewards, prompt_id, scored)
    if algorithm.advantage_clip is not None:
        metrics["advantage_clipped"] = Mean.of(jnp.abs(values) > algorithm.advantage_clip, tokens)
        values = jnp.clip(values, -algorithm.advantage_clip, algorithm.advantage_clip)
    kept = tokens
    if algorithm.overlong_filter:
        metrics["overlong_filtered"] = Mean.of(truncated.astype(bool))
        kept = kept & ~truncated.astype(bool)[:, None]
    if algorithm.group_filter != "none":
        kept = kept & keep_groups(algorithm, rewards, prompt_id)[:, None]
    return Advantages(values, kept, metrics)


def _row_advantages(algorithm: Algorithm, rewards: Array, prompt_id: Array, scored: Array) -> Array:
    centred = BASELINES[algorithm.baseline](rewards, prompt_id, scored)
    if algorithm.scale == "none":
        return centred
    std = SCALES[algorithm.scale](rewards, prompt_id, scored, ddof=algorithm.scale_ddof)
    return jnp.where(std > 0, baselines.scaled(centred, std, epsilon=algorithm.scale_epsilon), 0)


def loss_weights(algorithm: Algorithm, mask: Array, prompt_id: Array, *, max_tokens: int) -> Array:
    """float [B, T]: what each token weighs in the loss; see ``core.aggregation``.

    Args:
      mask: bool [B, T] of all rows of an optimizer step, after the filters.
      prompt_id: int [B].
      max_tokens: the limit of a completion, in tokens; aggregation "constant" divides by it if it has no other.
    """
    tokens_per_row = max_tokens if algorithm.aggregation_constant is None else algorithm.aggregation_constant
    return AGGREGATIONS[algorithm.aggregation](mask, prompt_id, tokens_per_row)


def policy_loss(algorithm: Algorithm, logprobs: Array, entropy: Array, batch: TrainBatch) -> tuple[Array, Metrics]:
    """Σ weights · (surrogate + kl_coefficient · KL - entropy_coefficient · entropy), over any subset of a step's rows.

    Args:
      logprobs: [B, T], of the policy that learns; gradients flow through it.
      entropy: [B, T], nats.
      batch: ``ref_logprobs`` is needed where :func:`needs_reference`.

    Returns:
      (loss, metrics). Losses of the parts of a step add up to the loss of the step, and so do the metrics.

    Raises:
      ValueError: the KL goes into the loss and ``ref_logprobs`` is None.
    """
    if algorithm.kl_placement == "loss" and batch.ref_logprobs is None:
        raise ValueError("algorithm.kl_placement = 'loss' but batch.ref_logprobs is None: expected [B, T]")
    mask = batch.mask.astype(bool)
    logprobs, entropy = masks.keep(masks.as_float(logprobs), mask), masks.keep(masks.as_float(entropy), mask)
    advantage = masks.keep(batch.advantages, mask)
    log_ratio = ratios.log_ratio(logprobs, batch.old_logprobs, mask, clamp=LOG_RATIO_CLAMP)
    ratio = RATIOS[algorithm.ratio](log_ratio, mask)
    metrics: Metrics = {
        "ratio": Mean.of(ratio, mask),
        "kl_old": Mean.of(-log_ratio, mask),
        "entropy": Mean.of(entropy, mask),
        "advantage": Mean.of(advantage, mask),
        "advantage_size": Mean.of(jnp.abs(advantage), mask),
    }
    token_loss, surrogate_metrics = SURROGATES[algorithm.surrogate](algorithm, logprobs, ratio, advantage, mask)
    sampled = masks.keep(batch.sampler_logprobs, mask)
    metrics |= surrogate_metrics | {
        "kl_sampler": Mean.of(kl_estimators.k3(sampled, logprobs, log_ratio_clamp=LOG_RATIO_CLAMP), mask)
    }
    if batch.ref_logprobs is not None:
        kl_ref = kl_estimate(algorithm, logprobs, masks.keep(batch.ref_logprobs, mask))
        metrics["kl_ref"] = Mean.of(kl_ref, mask)
        if algorithm.kl_placement == "loss":
            token_loss = token_loss + algorithm.kl_coefficient * kl_ref
    if algorithm.entropy_coefficient != 0:
        token_loss = token_loss - algorithm.entropy_coefficient * entropy
    return jnp.sum(masks.keep(batch.weights, mask) * token_loss), jax.lax.stop_gradient(metrics)


def _ppo_clip(a: Algorithm, logprobs: Array, ratio: Array, advantage: Array, mask: Array) -> tuple[Array, Metrics]:
    del logprobs
    loss = losses.ppo_clip(ratio, advantage, clip_low=a.clip_low, clip_high=a.clip_high)
    metrics = {
        "clip_fraction_low": Mean.of(diagnostics.clip_binds_low(ratio, advantage, a.clip_low), mask),
        "clip_fraction_high": Mean.of(diagnostics.clip_binds_high(ratio, advantage, a.clip_high), mask),
        "outside_low": Mean.of(ratio < 1 - a.clip_low, mask),  # whatever the sign of A, as the paper counts
        "outside_high": Mean.of(ratio > 1 + a.clip_high, mask),
    }
    if a.dual_clip is not None:
        binds = diagnostics.dual_clip_binds(loss, advantage, a.dual_clip)
        metrics["dual_clip_fraction"] = Mean.of(binds, mask)
        loss = losses.dual_clip(loss, advantage, bound=a.dual_clip)
    return loss, metrics


def _reinforce(a: Algorithm, logprobs: Array, ratio: Array, advantage: Array, mask: Array) -> tuple[Array, Metrics]:
    del a, ratio, mask
    return losses.reinforce(logprobs, advantage), {}


SURROGATES = {"ppo_clip": _ppo_clip, "reinforce": _reinforce}
