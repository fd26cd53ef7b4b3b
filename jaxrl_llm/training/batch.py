"""From a judged and scored rollout to what optimizer steps learn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_llm.algorithm import (
    Algorithm,
    Rewards,
    advantages,
    correct_gap,
    kl_estimate,
    loss_weights,
    needs_exact_kl,
    rows_with_gradient,
    shape_rewards,
)
from jaxrl_llm.core import diagnostics, shaping
from jaxrl_llm.training.score import Scores
from jaxrl_llm.training.settings import LoopSettings
from jaxrl_llm.types import Array, Controls, Mean, Metrics, Rollout, TrainBatch


class Judged(NamedTuple):
    """What judging says of each row of a rollout.

    Attributes:
      rewards: float32 [B], as judged, before any shaping.
      correct: bool [B].
      parseable: bool [B], whether an answer was found.
      source: int32 [B], rows of one source have one number; None where the data names no sources.
      greedy_rewards: float32 [B], with all additions, of the greedy completion of the row's prompt; None without it.
    """

    rewards: Any
    correct: Any
    parseable: Any
    source: Any = None
    greedy_rewards: Any = None


class Scored(NamedTuple):
    """What the networks say of each token of a rollout, before any update; [B, T] each.

    Log-probabilities and :class:`~jaxrl_llm.training.score.Scores` of a row that was not scored are 0.

    Attributes:
      old_logprobs: of the policy that the ratio is measured against.
      policy: the policy that sampled, as the trainer scores it; None where nothing reads it.
      ref_logprobs: of the reference policy, or None.
      values: of the critic, or None.
    """

    old_logprobs: Array
    policy: Scores | None = None
    ref_logprobs: Array | None = None
    values: Array | None = None


Batcher = Callable[[Rollout, Judged, Scored, Controls], tuple[TrainBatch, Controls, Metrics]]


def rewards_of(algorithm: Algorithm, rollout: Rollout, judged: Judged, max_tokens: int) -> Rewards:
    """The rewards of a rollout with all additions that the algorithm makes."""
    return shape_rewards(
        algorithm,
        judged.rewards,
        mask=rollout.mask,
        prompt_id=rollout.prompt_id,
        max_tokens=max_tokens,
        tokens=rollout.tokens,
        correct=judged.correct,
        parseable=judged.parseable,
    )


def _reward_kl(algorithm: Algorithm, scored: Scored) -> Array | None:
    """The KL that goes into the reward, [B, T]; None where none does."""
    if algorithm.kl_placement != "reward":
        return None
    if needs_exact_kl(algorithm):
        assert scored.policy is not None and scored.policy.exact_kl is not None
        return scored.policy.exact_kl
    assert scored.ref_logprobs is not None
    return kl_estimate(algorithm, scored.old_logprobs, scored.ref_logprobs)


def make_batcher(algorithm: Algorithm, max_tokens: int, loop: LoopSettings) -> Batcher:
    """(rollout, judged, scored, controls) -> batch of the whole step, controls after it, and its metrics.

    Advantages see every row of the step, also those that a filter then keeps from the loss. The weights of the batch
    are those of one optimizer step over all rows; :func:`~jaxrl_llm.training.update.make_update` is given slices with
    weights of their own.
    """

    @jax.jit
    def batcher(
        rollout: Rollout, judged: Judged, scored: Scored, controls: Controls
    ) -> tuple[TrainBatch, Controls, Metrics]:
        shaped, policy = rewards_of(algorithm, rollout, judged, max_tokens), scored.policy
        result = advantages(
            algorithm,
            shaped,
            prompt_id=rollout.prompt_id,
            mask=rollout.mask,
            truncated=rollout.truncated,
            kl=_reward_kl(algorithm, scored),
            correct=judged.correct,
            source=judged.source,
            greedy_rewards=judged.greedy_rewards,
            values=scored.values,
            old_logprobs=None if policy is None else policy.logprobs,
            sum_pi_squared=None if policy is None else policy.sum_pi_squared,
            controls=controls,
        )
        mask, correction, metrics = result.mask, None, result.metrics
        if algorithm.old_logprobs == "trainer":
            gap = correct_gap(algorithm, scored.old_logprobs, rollout.sampler_logprobs, mask)
            mask, correction, metrics = gap.mask, gap.weights, metrics | gap.metrics
        batch = TrainBatch(
            prompt_tokens=rollout.prompt_tokens,
            prompt_length=rollout.prompt_length,
            tokens=rollout.tokens,
            mask=mask,
            advantages=result.values,
            old_logprobs=scored.old_logprobs,
            sampler_logprobs=rollout.sampler_logprobs,
            weights=loss_weights(algorithm, mask, rollout.prompt_id, max_tokens=max_tokens),
            ref_logprobs=scored.ref_logprobs,
            values=scored.values,
            returns=result.returns,
            rewards=judged.rewards,
            correction=correction,
            row_id=jnp.arange(rollout.mask.shape[0], dtype=jnp.int32),
        )
        assert result.controls is not None
        metrics = metrics | _describe(rollout, judged, mask, loop)
        of_scored = ~jnp.isnan(judged.rewards)
        metrics["shaped_reward"] = Mean.of(shaped.total, of_scored)
        if result.returns is not None:
            assert scored.values is not None
            explained = diagnostics.explained_variance(scored.values, result.returns, rollout.mask)
            metrics["explained_variance"] = Mean.of(explained)
        return batch, result.controls, metrics

    return batcher


def make_completer(algorithm: Algorithm) -> Callable[[TrainBatch, Scored], tuple[TrainBatch, Metrics]]:
    """(batch that was made without scores, scored) -> the batch with them, and what they change of its metrics.

    Of an algorithm whose loss alone reads them; the rows in which it finds no gradient need none, and no metric of the
    gap between trainer and sampler counts them.
    """

    @jax.jit
    def completer(batch: TrainBatch, scored: Scored) -> tuple[TrainBatch, Metrics]:
        correction, metrics = None, {}
        if algorithm.old_logprobs == "trainer":
            mask = batch.mask & rows_with_gradient(algorithm, batch)[:, None]
            gap = correct_gap(algorithm, scored.old_logprobs, batch.sampler_logprobs, mask)
            correction, metrics = gap.weights, gap.metrics
        of_scores = {"old_logprobs": scored.old_logprobs, "ref_logprobs": scored.ref_logprobs, "correction": correction}
        return dataclasses.replace(batch, **of_scores), metrics

    return completer


def _describe(rollout: Rollout, judged: Judged, mask: Array, loop: LoopSettings) -> Metrics:
    """Numbers of every rollout."""
    scored = ~jnp.isnan(judged.rewards)
    endless = shaping.loops(rollout.tokens, rollout.mask, **dataclasses.asdict(loop))
    metrics = {
        "reward": Mean.of(judged.rewards, scored),
        "length": Mean.of(rollout.mask.sum(axis=1)),
        "truncated": Mean.of(rollout.truncated),
        "repeat_ratio": Mean.of(endless, rollout.truncated),
        # of all rows and without bias, where the policy's own `entropy` is of the rows that the update computes
        "sampled_entropy": Mean.of(-rollout.sampler_logprobs, rollout.mask),
        "kept_tokens": Mean(jnp.sum(mask, dtype=jnp.float32), jnp.sum(rollout.mask, dtype=jnp.float32)),
    }
    if judged.greedy_rewards is not None:
        metrics["greedy_reward"] = Mean.of(judged.greedy_rewards)
    return metrics


def make_slicer(algorithm: Algorithm, max_tokens: int) -> Callable[[TrainBatch, Array, Any], TrainBatch]:
    """(batch, prompt_id [B], rows [b]) -> the rows of one optimizer step, with the weights of that step."""

    @jax.jit
    def slicer(batch: TrainBatch, prompt_id: Array, rows: Array) -> TrainBatch:
        part = jax.tree.map(lambda x: x[rows], batch)
        weights = loss_weights(algorithm, part.mask, prompt_id[rows], max_tokens=max_tokens)
        return dataclasses.replace(part, weights=weights)

    return slicer
