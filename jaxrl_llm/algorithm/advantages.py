"""From rewards to advantages of tokens."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxrl_llm.algorithm import controls as carried
from jaxrl_llm.algorithm.filters import filter_tokens
from jaxrl_llm.algorithm.kl import kl_coefficient
from jaxrl_llm.algorithm.rewards import Rewards, as_rewards
from jaxrl_llm.algorithm.rows import Rows, row_values
from jaxrl_llm.core import advantages as core
from jaxrl_llm.core import diagnostics, masks, returns, running
from jaxrl_llm.core.token_baselines import optimal_token_baseline
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Controls, Mean, Metrics


class Advantages(NamedTuple):
    """Advantages of a step.

    Attributes:
      values: [B, T], 0 off the mask that was given and in unscorable rows.
      mask: bool [B, T], the tokens that keep a gradient after the filters.
      metrics: what each knob touched.
      returns: [B, T], what the critic learns; None without one.
      controls: with the moments of this step merged in; None if none were given.
    """

    values: Array
    mask: Array
    metrics: Metrics
    returns: Array | None = None
    controls: Controls | None = None


def advantages(
    algorithm: Algorithm,
    rewards: Array | Rewards,
    *,
    prompt_id: Array,
    mask: Array,
    truncated: Array,
    kl: Array | None = None,
    correct: Array | None = None,
    source: Array | None = None,
    greedy_rewards: Array | None = None,
    values: Array | None = None,
    old_logprobs: Array | None = None,
    sum_pi_squared: Array | None = None,
    controls: Controls | None = None,
) -> Advantages:
    """A_{i,t}: the row's (r_i - baseline) / scale at its last token, less coefficient · kl, summed to go, then shaped.

    Statistics are those of all scored rows, filtered ones included; filters act on the mask only. A reward of NaN could
    not be scored: its row enters no statistic, has advantage 0 and no gradient; so do the rows of a prompt whose greedy
    completion, their baseline, could not be scored. Where a standard deviation is exactly 0 there is nothing to tell
    rows apart by, and the quotient is 0. Whitening uses ``scale_ddof`` and ``scale_epsilon`` too, over tokens.

    Sums to go and GAE pass over the gaps of a mask: a token that the policy did not write costs neither discount nor
    lambda.

    Args:
      rewards: of :func:`shape_rewards`, or plain ones [B] of any number type.
      prompt_id: int [B]; rows with the same number are one group, in any order.
      mask: bool [B, T], tokens the policy sampled.
      truncated: bool [B].
      kl: [B, T], nats, if and only if ``kl_placement`` is "reward".
      correct: bool [B]; read by group_filter difficulty.
      source: int [B]; read by batch_statistics source.
      greedy_rewards: [B], of the greedy completion of the row's prompt; read by baseline greedy.
      values: [B, T], V before each token; read by baseline critic.
      old_logprobs: [B, T], of the policy that sampled; read by baseline optimal_token.
      sum_pi_squared: [B, T], of the same policy; read by baseline optimal_token.
      controls: read by running moments and an adaptive KL coefficient.

    Raises:
      ValueError: a knob that is on reads an argument that is None.

    Reference: arXiv 2508.08221, eqs. 5-7 and section 5.
    """
    a, rewards = algorithm, as_rewards(rewards)
    _check_given(
        a, kl=kl, source=source, values=values, old_logprobs=old_logprobs, sum_pi_squared=sum_pi_squared,
        controls=controls,
    )  # fmt: skip
    scored = ~jnp.isnan(rewards.judged)
    if a.baseline == "greedy" and greedy_rewards is not None:
        scored = scored & ~jnp.isnan(greedy_rewards)
    tokens = mask.astype(bool) & scored[:, None]
    if "running" in (a.baseline, a.scale):
        assert controls is not None
        seen = running.merge(carried.moments(controls), rewards.total, scored)
        controls = carried.with_moments(controls, seen)
    scope = jnp.zeros_like(prompt_id) if source is None or a.batch_statistics == "step" else source
    rows = Rows(
        a, rewards.total, prompt_id, scored, scope, jnp.sum(mask, axis=1), greedy_rewards,
        None if controls is None else carried.moments(controls),
    )  # fmt: skip
    per_row, metrics = row_values(rows, rewards)
    metrics = {"unscorable": Mean.of(~scored)} | diagnostics.reward_spread(rows.rewards, prompt_id, scored) | metrics
    coefficient = kl_coefficient(a, controls) if kl is not None else 0.0
    cost = None if kl is None else coefficient * masks.keep(kl, tokens)
    result, targets, of_tokens = _over_tokens(
        a, per_row, tokens, cost, rows=rows, values=values, old_logprobs=old_logprobs, sum_pi_squared=sum_pi_squared
    )
    result, of_shaping = _finish(a, result, tokens)
    kept, of_filters = filter_tokens(a, tokens, rewards, prompt_id, truncated, correct)
    metrics = rewards.metrics | metrics | of_tokens | of_shaping | of_filters
    return Advantages(result, kept, metrics, targets, controls)


def _check_given(a: Algorithm, **given: object) -> None:
    if (given["kl"] is not None) != (a.kl_placement == "reward"):
        raise ValueError(
            f"algorithm.kl_placement = {a.kl_placement!r} but kl is {'given' if given['kl'] is not None else 'None'}: "
            "expected a KL estimate exactly when it goes into the reward"
        )
    read = {
        "batch_statistics": ("source",) if a.batch_statistics == "source" else (),
        "baseline": {
            "critic": ("values",),
            "optimal_token": ("old_logprobs", "sum_pi_squared"),
            "running": ("controls",),
        }.get(a.baseline, ()),
        "scale": ("controls",) if a.scale == "running" else (),
    }
    for knob, names in read.items():
        for name in names:
            if given[name] is None:
                raise ValueError(f"algorithm.{knob} = {getattr(a, knob)!r} but {name} is None: expected what it reads")


def _over_tokens(
    a: Algorithm,
    per_row: Array,
    tokens: Array,
    cost: Array | None,
    *,
    rows: Rows,
    values: Array | None,
    old_logprobs: Array | None,
    sum_pi_squared: Array | None,
) -> tuple[Array, Array | None, Metrics]:
    """(advantages [B, T], returns for a critic, metrics) from one number a row and a cost at each token."""
    flat = masks.over_tokens(per_row, tokens)
    metrics: Metrics = {} if cost is None else {"effect/kl_placement": Mean.of(cost != 0, tokens)}
    rewards = returns.at_last_token(per_row, tokens)
    rewards = rewards if cost is None else rewards - cost.astype(rewards.dtype)
    if a.baseline == "critic":
        assert values is not None and a.gae_lambda_returns is not None
        values = masks.keep(values, tokens)
        lam = _gae_lambda(a, rows.length)
        result = returns.gae(rewards, values, tokens, gamma=a.discount, lam=lam)
        targets = values + returns.gae(rewards, values, tokens, gamma=a.discount, lam=a.gae_lambda_returns)
        alone = returns.gae(rewards, jnp.zeros_like(values), tokens, gamma=a.discount, lam=1.0)
        metrics |= {"effect/baseline": Mean.of(result != alone, tokens), "value": Mean.of(values, tokens)}
        metrics["return"] = Mean.of(targets, tokens)
        if a.discount != 1:
            undiscounted = returns.gae(rewards, values, tokens, gamma=1.0, lam=lam)
            metrics["effect/discount"] = Mean.of(result != undiscounted, tokens)
        return result, targets, metrics
    if a.baseline == "optimal_token":
        assert old_logprobs is not None and sum_pi_squared is not None
        result, _ = optimal_token_baseline(
            rewards, tokens, rows.prompt_id, rows.scored, old_logprobs, sum_pi_squared, epsilon=a.scale_epsilon
        )
        return result, None, metrics | {"effect/baseline": Mean.of(result != flat, tokens)}
    if cost is None and a.discount == 1:
        return flat, None, metrics
    nothing = jnp.zeros_like(rewards)  # with values of 0 and λ = 1, GAE is the discounted sum to go
    result = returns.gae(rewards, nothing, tokens, gamma=a.discount, lam=1.0)
    if a.discount != 1:
        undiscounted = returns.gae(rewards, nothing, tokens, gamma=1.0, lam=1.0)
        metrics["effect/discount"] = Mean.of(result != undiscounted, tokens)
    return result, None, metrics


def _gae_lambda(a: Algorithm, length: Array) -> float | Array:
    """λ, or 1 - 1 / (alpha · length), at least 0, for each row [B, 1].

    Reference: Yue et al., 2025, arXiv 2504.05118 (VAPO), eq. 11.
    """
    if a.gae_length_alpha is None:
        assert a.gae_lambda is not None
        return a.gae_lambda
    inverse = masks.divide(jnp.ones_like(length, jnp.float32), a.gae_length_alpha * length.astype(jnp.float32))
    return jnp.maximum(1 - inverse, 0)[:, None]


def _finish(a: Algorithm, values: Array, tokens: Array) -> tuple[Array, Metrics]:
    """Whitening and the clip of the advantage."""
    metrics: Metrics = {}
    if a.whiten:
        white = core.whiten(values, tokens, ddof=a.scale_ddof, std_epsilon=a.scale_epsilon)
        metrics["effect/whiten"] = Mean.of(white != values, tokens)
        values = white
    if a.advantage_clip is not None:
        metrics["effect/advantage_clip"] = Mean.of(jnp.abs(values) > a.advantage_clip, tokens)
        values = jnp.clip(values, -a.advantage_clip, a.advantage_clip)
    return values, metrics
