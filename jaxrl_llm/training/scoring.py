"""What is scored of a rollout before any update, and the batch that is made of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl_llm.algorithm import (
    Algorithm,
    needs_exact_kl,
    needs_sum_pi_squared,
    rows_with_gradient,
    scores_in_loss_alone,
)
from jaxrl_llm.training.batch import Judged, Scored
from jaxrl_llm.training.offload import to_device_memory
from jaxrl_llm.training.packing import Packing
from jaxrl_llm.training.step import Programs
from jaxrl_llm.types import Array, Controls, Metrics, Params, Rollout, TrainBatch, TrainState


def score_rollout(
    algorithm: Algorithm,
    programs: Programs,
    state: TrainState,
    reference: Params | None,
    rollout: Rollout,
    passes_of_rollout: Callable[[], list[Packing]],
) -> Scored:
    """What the algorithm reads of policy, reference and critic, before any update.

    Args:
      passes_of_rollout: makes the passes over the rows to score; called where something must be scored.
    """
    critic = programs.critic
    from_trainer = algorithm.old_logprobs == "trainer"
    exact_in_reward = needs_exact_kl(algorithm) and algorithm.kl_placement == "reward"
    of_policy = from_trainer or exact_in_reward or needs_sum_pi_squared(algorithm)
    if not of_policy and reference is None and critic is None:
        return Scored(rollout.sampler_logprobs)
    passes = passes_of_rollout()
    reference = to_device_memory(reference)
    policy = None
    if of_policy:
        policy = programs.score(state.policy, rollout, passes, reference if exact_in_reward else None)
    return Scored(
        old_logprobs=policy.logprobs if policy is not None and from_trainer else rollout.sampler_logprobs,
        policy=policy,
        ref_logprobs=None if reference is None else programs.score(reference, rollout, passes).logprobs,
        values=None if critic is None else critic.values(state.critic_params, rollout, passes),
    )


def score_and_weigh(
    algorithm: Algorithm,
    programs: Programs,
    state: TrainState,
    reference: Params | None,
    rollout: Rollout,
    judged: Judged,
    passes_of: Callable[[Rollout | TrainBatch, Algorithm | None], list[Packing]],
    *,
    skips: bool,
    whole: bool = False,
) -> tuple[Scored, TrainBatch, Controls, Metrics]:
    """The scores of a rollout, its batch, the controls after it, and its metrics.

    Where the loss alone reads the scores, the batch is made first, and only its rows with a gradient are scored.

    Args:
      passes_of: makes the passes over a batch: over all rows, or those in which the policy of an algorithm finds a
        gradient.
      skips: whether rows without gradient are left out of the update.
      whole: whether the scores of the others are wanted beside; batch and metrics do not read them.
    """

    def score(part: Rollout, batch: Rollout | TrainBatch, policy: Algorithm | None = None) -> Scored:
        return score_rollout(algorithm, programs, state, reference, part, lambda: passes_of(batch, policy))

    if not (skips and scores_in_loss_alone(algorithm)):
        scored = score(rollout, rollout)
        return scored, *programs.batch(rollout, judged, scored, state.controls)
    batch, controls, metrics = programs.batch(rollout, judged, Scored(rollout.sampler_logprobs), state.controls)
    scored = score(rollout, batch, algorithm)
    batch, of_scores = programs.complete(batch, scored)
    if whole:
        rest, kept = _without_gradient(algorithm, rollout, batch)
        scored = _merge(kept, scored, score(rest, rest))
    return scored, batch, controls, metrics | of_scores


@functools.partial(jax.jit, static_argnums=0)
def _without_gradient(algorithm: Algorithm, rollout: Rollout, batch: TrainBatch) -> tuple[Rollout, Array]:
    """The rollout with the rows alone in which the policy finds no gradient, and bool [B, 1], the others."""
    kept = rows_with_gradient(algorithm, batch)[:, None]
    return dataclasses.replace(rollout, mask=rollout.mask & ~kept), kept


@jax.jit
def _merge(kept: Array, scored: Scored, others: Scored) -> Scored:
    return jax.tree.map(lambda a, b: jnp.where(kept, a, b), scored, others)
