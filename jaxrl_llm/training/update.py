"""One optimizer step, of a policy and of a critic, in micro-batches whose gradients are summed.

A loss is Σ weights · token loss with weights of the whole step, so the number of micro-batches changes the order of a
sum and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl_llm.algorithm import Algorithm, choose_tokens, needs_choice, needs_exact_kl, policy_loss, value_loss
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.training.score import Scores, score, score_values
from jaxrl_llm.types import Array, Critic, Mean, Metrics, Model, Params, TrainBatch, TrainState

Gradients = Callable[[Params, TrainBatch], tuple[Params, Metrics]]  # of the loss of these rows
Update = Callable[..., tuple[TrainState, Metrics]]


def add_metrics(first: Metrics, second: Metrics) -> Metrics:
    return {name: first[name] + second[name] for name in first}


def split_rows(tree: Any, parts: int) -> Any:
    """Every array [B, ...] as [M, B / M, ...]; part m takes rows m, m + M, …: each spans all devices of the rows."""
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def map_rows(function: Callable[[Any], Any], tree: Any, parts: int) -> Any:
    """``function`` of all rows, computed part after part; its results [B / M, ...] come back in the order of rows."""
    if parts == 1:
        return function(tree)
    results = jax.lax.map(function, split_rows(tree, parts))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), results)


def _summed(gradients_of: Gradients, params: Params, batch: TrainBatch, parts: int) -> tuple[Params, Metrics]:
    if parts == 1:
        return gradients_of(params, batch)
    split = split_rows(batch, parts)
    first = jax.eval_shape(gradients_of, params, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

    def add(sums: tuple[Params, Metrics], part: TrainBatch) -> tuple[tuple[Params, Metrics], None]:
        return jax.tree.map(jnp.add, sums, gradients_of(params, part)), None

    return jax.lax.scan(add, zeros, split)[0]


def _gradients(loss_of: Callable[[Params, TrainBatch], tuple[Array, Metrics]], name: str) -> Gradients:
    """The gradients of a loss, and its metrics with the loss itself under ``name``."""

    def gradients_of(params: Params, batch: TrainBatch) -> tuple[Params, Metrics]:
        (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, batch)
        return gradients, metrics | {name: Mean(loss, jnp.zeros(()))}

    return gradients_of


def _of_step(metrics: Metrics, name: str, gradients: Params, norm: str) -> Metrics:
    """The loss counts once a step, however many parts it was summed from; so does the norm of the gradient."""
    once = jnp.ones(())
    return metrics | {name: Mean(metrics[name].total, once), norm: Mean(optax.tree.norm(gradients), once)}


def make_update(
    model: Model,
    algorithm: Algorithm,
    sampling: Sampling,
    optimizer: optax.GradientTransformation,
    *,
    micro_batches: int,
    chunk: int,
) -> Update:
    """(state, batch, reference or None) -> the state after a step of the policy, and metrics; the state is donated.

    Tokens that are chosen by comparing all tokens of the step are chosen once: from the forward pass of the gradient
    where there is one micro-batch, from a forward pass before it where there are several.

    The parameters of the reference are needed where the exact KL stands in the loss, and not read elsewhere.
    """
    exact = needs_exact_kl(algorithm) and algorithm.kl_placement == "loss"

    def scores_of(params: Params, batch: TrainBatch, reference: Params | None = None) -> Scores:
        return score(model, params, batch, sampling, chunk=chunk, reference=reference)

    def update(state: TrainState, batch: TrainBatch, reference: Params | None = None) -> tuple[TrainState, Metrics]:
        if exact and reference is None:
            raise ValueError("algorithm.kl_estimator = 'exact' but reference is None: expected its parameters")

        def with_choice(batch: TrainBatch, scores: Scores) -> TrainBatch:
            choice = choose_tokens(algorithm, scores.logprobs, scores.entropy, batch, step=state.step)
            return dataclasses.replace(batch, choice=choice)

        def loss_of(params: Params, batch: TrainBatch) -> tuple[Array, Metrics]:
            scores = scores_of(params, batch, reference if exact else None)
            if needs_choice(algorithm) and batch.choice is None:
                batch = with_choice(batch, scores)
            return policy_loss(
                algorithm, scores.logprobs, scores.entropy, batch, controls=state.controls, exact_kl=scores.exact_kl
            )

        if needs_choice(algorithm) and micro_batches > 1:
            batch = with_choice(batch, map_rows(lambda part: scores_of(state.params, part), batch, micro_batches))
        gradients, metrics = _summed(_gradients(loss_of, "loss"), state.params, batch, micro_batches)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
        return new, _of_step(metrics, "loss", gradients, "gradient_norm")

    return jax.jit(update, donate_argnums=0)


def make_critic_update(
    critic: Critic, algorithm: Algorithm, optimizer: optax.GradientTransformation, *, micro_batches: int
) -> Update:
    """(state, batch) -> the state after a step of the critic, and metrics; nothing of the policy changes.

    The state is donated.
    """

    def loss_of(params: Params, batch: TrainBatch) -> tuple[Array, Metrics]:
        return value_loss(algorithm, score_values(critic, params, batch), batch)

    def update(state: TrainState, batch: TrainBatch) -> tuple[TrainState, Metrics]:
        gradients, metrics = _summed(_gradients(loss_of, "value_loss"), state.critic_params, batch, micro_batches)
        updates, opt_state = optimizer.update(gradients, state.critic_opt_state, state.critic_params)
        params = optax.apply_updates(state.critic_params, updates)
        new = dataclasses.replace(state, critic_params=params, critic_opt_state=opt_state)
        return new, _of_step(metrics, "value_loss", gradients, "critic_gradient_norm")

    return jax.jit(update, donate_argnums=0)
