"""The two jitted programs of training beside sampling: preparing a batch from a rollout, and one optimizer step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrl_llm.algorithm import (
    Algorithm,
    advantages,
    keep_groups,
    kl_estimate,
    loss_weights,
    policy_loss,
    shape_rewards,
)
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.training.optimizer import learning_rate, make_optimizer
from jaxrl_llm.training.score import score
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.types import Array, Mean, Metrics, Model, Params, Rollout, TrainBatch, TrainState


def add_metrics(first: Metrics, second: Metrics) -> Metrics:
    return {name: first[name] + second[name] for name in first}


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the optimizer's moments lie as their parameters lie."""
    shardings = jax.tree.map(lambda x: x.sharding, params)
    abstract = jax.eval_shape(optimizer.init, params)
    placed = optax.tree.map_params(optimizer, lambda _, s: s, abstract, shardings, transform_non_params=lambda _: None)
    opt_state = jax.jit(optimizer.init, out_shardings=placed)(params)
    return TrainState(jnp.zeros((), jnp.int32), params, {}, opt_state)


def _split_rows(tree: Any, parts: int) -> Any:
    """Every array [B, ...] as [M, B / M, ...]; part m takes rows m, m + M, …: each spans all devices of the rows."""
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def make_scorer(
    model: Model, sampling: Sampling, *, micro_batches: int, chunk: int
) -> Callable[[Params, Rollout], Array]:
    """(params, rollout) -> log-probabilities float32 [B, T], without gradient."""

    @jax.jit
    def scorer(params: Params, rollout: Rollout) -> Array:
        parts = jax.lax.map(
            lambda part: score(model, params, part, sampling, chunk=chunk).logprobs, _split_rows(rollout, micro_batches)
        )
        return parts.swapaxes(0, 1).reshape(-1, parts.shape[-1])

    return scorer


def make_batcher(algorithm: Algorithm, max_tokens: int) -> Callable[..., tuple[TrainBatch, Metrics]]:
    """(rollout, rewards [B], old_logprobs, ref_logprobs or None) -> batch of the whole step, and its metrics.

    Advantages see every row of the step, also those that a filter then keeps from the loss. The weights of the batch
    are those of one optimizer step over all rows; :func:`make_update` is given slices with weights of their own.
    """

    @jax.jit
    def batcher(
        rollout: Rollout, rewards: Array, old_logprobs: Array, ref_logprobs: Array | None
    ) -> tuple[TrainBatch, Metrics]:
        length = rollout.mask.sum(axis=1)
        shaped = shape_rewards(algorithm, rewards, length, max_tokens=max_tokens)
        kl = None
        if algorithm.kl_placement == "reward":
            assert ref_logprobs is not None
            kl = kl_estimate(algorithm, old_logprobs, ref_logprobs)
        result = advantages(
            algorithm, shaped, prompt_id=rollout.prompt_id, mask=rollout.mask, truncated=rollout.truncated, kl=kl
        )
        # Dynamic sampling keeps groups by the rewards as judged; a spread that only the shaping made is none.
        mask = result.mask & keep_groups(algorithm, rewards, rollout.prompt_id)[:, None]
        batch = TrainBatch(
            prompt_tokens=rollout.prompt_tokens,
            prompt_length=rollout.prompt_length,
            tokens=rollout.tokens,
            mask=mask,
            advantages=result.values,
            old_logprobs=old_logprobs,
            sampler_logprobs=rollout.sampler_logprobs,
            weights=loss_weights(algorithm, mask, rollout.prompt_id, max_tokens=max_tokens),
            ref_logprobs=ref_logprobs,
        )
        scored = ~jnp.isnan(rewards)
        metrics = result.metrics | {
            "reward": Mean.of(rewards, scored),
            "shaped_reward": Mean.of(shaped, scored),
            "length": Mean.of(length),
            "truncated": Mean.of(rollout.truncated),
            "kept_tokens": Mean(jnp.sum(mask, dtype=jnp.float32), jnp.sum(rollout.mask, dtype=jnp.float32)),
        }
        return batch, metrics

    return batcher


def make_slicer(algorithm: Algorithm, max_tokens: int) -> Callable[[TrainBatch, Array, Any], TrainBatch]:
    """(batch, prompt_id [B], rows [b]) -> the rows of one optimizer step, with the weights of that step."""

    @jax.jit
    def slicer(batch: TrainBatch, prompt_id: Array, rows: Array) -> TrainBatch:
        part = jax.tree.map(lambda x: x[rows], batch)
        weights = loss_weights(algorithm, part.mask, prompt_id[rows], max_tokens=max_tokens)
        return dataclasses.replace(part, weights=weights)

    return slicer


def make_update(
    model: Model,
    algorithm: Algorithm,
    sampling: Sampling,
    optimizer: optax.GradientTransformation,
    *,
    micro_batches: int,
    chunk: int,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, Metrics]]:
    """One optimizer step over a batch, in micro-batches whose gradients are summed; the state is donated.

    The loss is Σ weights · token loss with weights of the whole step, so the number of micro-batches changes the
    order of a sum and nothing else.
    """

    def loss_of(params: Params, batch: TrainBatch) -> tuple[Array, Metrics]:
        scores = score(model, params, batch, sampling, chunk=chunk)
        return policy_loss(algorithm, scores.logprobs, scores.entropy, batch)

    def gradients_of(params: Params, batch: TrainBatch) -> tuple[Params, Metrics]:
        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, batch)
        return gradients, metrics | {"loss": Mean(loss, jnp.zeros(()))}

    def accumulated(params: Params, batch: TrainBatch) -> tuple[Params, Metrics]:
        parts = _split_rows(batch, micro_batches)
        first = jax.eval_shape(gradients_of, params, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

        def add(sums: tuple[Params, Metrics], part: TrainBatch) -> tuple[tuple[Params, Metrics], None]:
            return jax.tree.map(jnp.add, sums, gradients_of(params, part)), None

        return jax.lax.scan(add, zeros, parts)[0]

    def update(state: TrainState, batch: TrainBatch) -> tuple[TrainState, Metrics]:
        compute = gradients_of if micro_batches == 1 else accumulated
        gradients, metrics = compute(state.params, batch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["loss"] = Mean(metrics["loss"].total, jnp.ones(()))
        metrics["gradient_norm"] = Mean(optax.tree.norm(gradients), jnp.ones(()))
        return TrainState(state.step + 1, params, state.frozen, opt_state), metrics  # type: ignore[arg-type]

    return jax.jit(update, donate_argnums=0)


class Programs(NamedTuple):
    """The functions of a run, each compiled at its first call.

    Attributes:
      learning_rate: optimizer step -> rate.
      score, batch, slice, update: see `make_scorer`, `make_batcher`, `make_slicer`, `make_update`.
    """

    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    score: Callable[[Params, Rollout], Array]
    batch: Callable[..., tuple[TrainBatch, Metrics]]
    slice: Callable[[TrainBatch, Array, Any], TrainBatch]
    update: Callable[[TrainState, TrainBatch], tuple[TrainState, Metrics]]


def make_programs(settings: Settings, model: Model) -> Programs:
    """The programs of a run for ``model``; scoring takes as many rows at a time as the update does."""
    training, algorithm = settings.training, settings.algorithm
    rows = settings.data.prompts_per_step * settings.data.samples_per_prompt
    rows_of_update = rows // training.mini_batches
    rows_of_pass = training.micro_batch or rows_of_update
    total = settings.steps * training.epochs * training.mini_batches
    optimizer = make_optimizer(settings.optimizer, total)
    max_tokens = settings.sampling.max_tokens
    return Programs(
        optimizer,
        learning_rate(settings.optimizer, total),
        make_scorer(model, settings.sampling, micro_batches=rows // rows_of_pass, chunk=training.score_chunk),
        make_batcher(algorithm, max_tokens),
        make_slicer(algorithm, max_tokens),
        make_update(
            model,
            algorithm,
            settings.sampling,
            optimizer,
            micro_batches=rows_of_update // rows_of_pass,
            chunk=training.score_chunk,
        ),
    )
