"""An algorithm as a point in a product of small knobs, and the one place where their strings become functions.

Order of a step: shape the rewards; keep groups (dynamic sampling); baseline, scale, KL in the reward, whitening, clip
of the advantage; filters, which act on the mask alone; weights of the loss; then the policy loss of each micro-batch.

Every difference of log-probabilities is held within ±20 nats before it is exponentiated (:data:`LOG_RATIO_CLAMP`), and
every KL estimate of a token within ±10 nats (:data:`KL_CLAMP`), with gradient 0 beyond: float32 stays finite.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, get_args, get_type_hints

import jax
import jax.numpy as jnp

from jaxrl_llm.core import advantages as baselines
from jaxrl_llm.core import aggregation, diagnostics, groups, kl, losses, masks, ratios, returns, shaping
from jaxrl_llm.types import Array, Mean, Metrics, TrainBatch

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
KL_ESTIMATORS = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}
AGGREGATIONS = {
    "token_mean": lambda mask, prompt_id, tokens_per_row: aggregation.token_mean(mask),
    "sequence_mean": lambda mask, prompt_id, tokens_per_row: aggregation.sequence_mean(mask),
    "prompt_mean": lambda mask, prompt_id, tokens_per_row: aggregation.prompt_mean(mask, prompt_id),
    "sequence_sum": lambda mask, prompt_id, tokens_per_row: aggregation.sequence_sum(mask),
    "constant": lambda mask, prompt_id, tokens_per_row: aggregation.constant(mask, tokens_per_row=tokens_per_row),
}


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """The knobs; each stands with its unit, default and comment in ``configs/base.py``.

    Raises:
      ValueError: a value is out of its range, or two knobs contradict each other.
    """

    baseline: Literal["none", "group", "batch", "leave_one_out"]
    scale: Literal["none", "group", "batch", "batch_centered"]
    scale_ddof: int
    scale_epsilon: float
    whiten: bool
    advantage_clip: float | None
    surrogate: Literal["ppo_clip", "reinforce"]
    ratio: Literal["token", "sequence"]
    clip_low: float
    clip_high: float
    dual_clip: float | None
    old_logprobs: Literal["sampler", "trainer"]
    kl_placement: Literal["none", "loss", "reward"]
    kl_estimator: Literal["k1", "k2", "k3"]
    kl_coefficient: float
    entropy_coefficient: float
    aggregation: Literal["token_mean", "sequence_mean", "prompt_mean", "sequence_sum", "constant"]
    aggregation_constant: float | None
    overlong_filter: bool
    overlong_buffer: int
    overlong_penalty: float
    group_filter: Literal["none", "zero_variance"]
    resample_rounds: int

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            options = get_args(hint)
            value = getattr(self, name)
            if options and all(isinstance(option, str) for option in options) and value not in options:
                raise ValueError(f"algorithm.{name} = {value!r}: expected one of {', '.join(options)}")
        _check_ranges(self)
        _check_contradictions(self)


def _check_ranges(a: Algorithm) -> None:
    ranges = {
        "scale_ddof": (a.scale_ddof >= 0, "0 or more"),
        "scale_epsilon": (a.scale_epsilon >= 0, "0 or more"),
        "advantage_clip": (a.advantage_clip is None or a.advantage_clip > 0, "a number above 0, or None"),
        "clip_low": (0 <= a.clip_low <= 1, "between 0 and 1"),
        "clip_high": (a.clip_high >= 0, "0 or more"),
        "dual_clip": (a.dual_clip is None or a.dual_clip > 1, "a number above 1, or None"),
        "kl_coefficient": (a.kl_coefficient >= 0, "0 or more"),
        "aggregation_constant": (
            a.aggregation_constant is None or a.aggregation_constant > 0,
            "tokens, above 0, or None",
        ),
        "overlong_buffer": (a.overlong_buffer >= 0, "tokens, 0 or more"),
        "overlong_penalty": (a.overlong_penalty >= 0, "0 or more (it is taken from the reward)"),
        "resample_rounds": (a.resample_rounds >= 1, "1 or more"),
    }
    for name, (holds, expected) in ranges.items():
        if not holds:
            raise ValueError(f"algorithm.{name} = {getattr(a, name)!r}: expected {expected}")


def _check_contradictions(a: Algorithm) -> None:
    placed = a.kl_placement != "none"
    contradictions = [
        (placed and a.kl_coefficient == 0, "kl_placement", "kl_coefficient", "a KL term needs a coefficient above 0"),
        (not placed and a.kl_coefficient > 0, "kl_coefficient", "kl_placement", "say where the KL goes: loss, reward"),
        (
            a.kl_placement == "loss" and a.kl_estimator == "k1",
            "kl_placement",
            "kl_estimator",
            "as a loss, k1 has a gradient that is zero on average; take k2 or k3",
        ),
        (
            a.aggregation_constant is not None and a.aggregation != "constant",
            "aggregation_constant",
            "aggregation",
            "only aggregation 'constant' divides by it",
        ),
        (
            a.surrogate == "reinforce" and a.dual_clip is not None,
            "dual_clip",
            "surrogate",
            "there is no ratio to clip in -A log p",
        ),
        (
            a.surrogate == "reinforce" and a.ratio != "token",
            "ratio",
            "surrogate",
            "there is no ratio in -A log p",
        ),
        (
            a.overlong_buffer > 0 and a.overlong_penalty == 0,
            "overlong_buffer",
            "overlong_penalty",
            "the penalty would change no reward",
        ),
        (
            a.resample_rounds > 1 and a.group_filter == "none",
            "resample_rounds",
            "group_filter",
            "without a filter no group is ever replaced",
        ),
    ]
    for found, one, other, why in contradictions:
        if found:
            raise ValueError(
                f"algorithm.{one} = {getattr(a, one)!r} with algorithm.{other} = {getattr(a, other)!r}: {why}"
            )


def check(algorithm: Algorithm, *, samples_per_prompt: int, max_tokens: int) -> None:
    """Refuses knobs that contradict the size of a group or of a completion.

    Args:
      samples_per_prompt: completions of a prompt, G.
      max_tokens: the limit of a completion, in tokens.

    Raises:
      ValueError: names the key, its value and what was expected.
    """
    needs_group = {
        "baseline": algorithm.baseline in ("group", "leave_one_out"),
        "scale": algorithm.scale in ("group", "batch_centered"),
        "group_filter": algorithm.group_filter != "none",
    }
    for name, needed in needs_group.items():
        if needed and samples_per_prompt < 2:
            raise ValueError(
                f"algorithm.{name} = {getattr(algorithm, name)!r} with data.samples_per_prompt = {samples_per_prompt}: "
                "expected at least 2 samples of a prompt, or every advantage is 0"
            )
    if algorithm.scale == "group" and samples_per_prompt <= algorithm.scale_ddof:
        raise ValueError(
            f"algorithm.scale_ddof = {algorithm.scale_ddof} with data.samples_per_prompt = {samples_per_prompt}: "
            "expected more samples than ddof for a standard deviation within a group"
        )
    if algorithm.overlong_buffer > max_tokens:
        raise ValueError(
            f"algorithm.overlong_buffer = {algorithm.overlong_buffer} with sampling.max_tokens = {max_tokens}: "
            "expected a buffer that fits into a completion"
        )


def needs_reference(algorithm: Algorithm) -> bool:
    """Whether the starting policy must score the completions."""
    return algorithm.kl_placement != "none"


def needs_entropy(algorithm: Algorithm) -> bool:
    """Whether the loss needs the gradient of the entropy (as a metric it needs none)."""
    return algorithm.entropy_coefficient != 0


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
    values = jnp.where(tokens, row_values[:, None], 0)
    if kl is not None:
        to_go = returns.returns_to_go(-algorithm.kl_coefficient * masks.keep(kl, tokens), tokens)
        values = jnp.where(tokens, values + to_go.astype(values.dtype), 0)
    if algorithm.whiten:
        values = baselines.whiten(values, tokens, ddof=algorithm.scale_ddof, std_epsilon=algorithm.scale_epsilon)
    metrics = _reward_metrics(rewards, prompt_id, scored)
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


def _reward_metrics(rewards: Array, prompt_id: Array, scored: Array) -> Metrics:
    """Spread of the rewards, and the share of groups that have none; a group counts once, whatever its size."""
    member = groups.members(prompt_id, scored)
    share_of_group = masks.divide(jnp.ones_like(rewards), groups.size(member).astype(rewards.dtype))
    share_of_group = jnp.where(scored, share_of_group, 0)
    flat = ~shaping.has_spread(rewards, prompt_id, scored)
    number_of_groups = jnp.sum(share_of_group)
    group_std = baselines.group_std(rewards, prompt_id, scored, ddof=0)
    batch_std = baselines.batch_std(rewards, prompt_id, scored, ddof=0)
    return {
        "unscorable": Mean.of(~scored),
        "zero_variance_groups": Mean(jnp.sum(share_of_group * flat), number_of_groups),
        "reward_std_group": Mean(jnp.sum(share_of_group * group_std), number_of_groups),
        "reward_std_batch": Mean.of(batch_std, scored),
    }


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
    """
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
    from_sampler = ratios.log_ratio(logprobs, batch.sampler_logprobs, mask, clamp=LOG_RATIO_CLAMP)
    metrics |= surrogate_metrics | {"kl_sampler": diagnostics.kl_of_sampler(from_sampler, mask)}
    if batch.ref_logprobs is not None:
        kl_ref = kl_estimate(algorithm, logprobs, masks.keep(batch.ref_logprobs, mask))
        metrics["kl_ref"] = Mean.of(kl_ref, mask)
        if algorithm.kl_placement == "loss":
            token_loss = token_loss + algorithm.kl_coefficient * kl_ref
    if algorithm.entropy_coefficient != 0:
        token_loss = token_loss - algorithm.entropy_coefficient * entropy
    return jnp.sum(masks.keep(batch.weights * token_loss, mask)), jax.lax.stop_gradient(metrics)


def _ppo_clip(
    algorithm: Algorithm, logprobs: Array, ratio: Array, advantage: Array, mask: Array
) -> tuple[Array, Metrics]:
    del logprobs
    bounds = {"clip_low": algorithm.clip_low, "clip_high": algorithm.clip_high}
    loss = losses.ppo_clip(ratio, advantage, **bounds)
    metrics = diagnostics.clip_fractions(ratio, advantage, mask, **bounds)
    if algorithm.dual_clip is not None:
        metrics["dual_clip_fraction"] = diagnostics.dual_clip_fraction(loss, advantage, mask, bound=algorithm.dual_clip)
        loss = losses.dual_clip(loss, advantage, bound=algorithm.dual_clip)
    return loss, metrics


def _reinforce(
    algorithm: Algorithm, logprobs: Array, ratio: Array, advantage: Array, mask: Array
) -> tuple[Array, Metrics]:
    del algorithm, ratio, mask
    return losses.reinforce(logprobs, advantage), {}


SURROGATES = {"ppo_clip": _ppo_clip, "reinforce": _reinforce}
