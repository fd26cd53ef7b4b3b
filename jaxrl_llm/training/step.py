"""The programs of training beside sampling, each compiled at its first call, and the state that they start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrl_llm.algorithm import Algorithm, initial_controls, needs_critic, needs_sum_pi_squared
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.sharding import replicated
from jaxrl_llm.training.batch import Batcher, make_batcher, make_slicer
from jaxrl_llm.training.optimizer import learning_rate, make_optimizer
from jaxrl_llm.training.score import Scores, score, score_values
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.update import Update, make_critic_update, make_update, map_rows
from jaxrl_llm.types import Array, Critic, Model, Params, Rollout, TrainBatch, TrainState


def _init_optimizer(params: Params, optimizer: optax.GradientTransformation) -> Any:
    """The optimizer's first state; its moments lie as their parameters lie."""
    shardings = jax.tree.map(lambda x: x.sharding, params)
    abstract = jax.eval_shape(optimizer.init, params)
    placed = optax.tree.map_params(optimizer, lambda _, s: s, abstract, shardings, transform_non_params=lambda _: None)
    return jax.jit(optimizer.init, out_shardings=placed)(params)


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    algorithm: Algorithm,
    *,
    critic: Critic | None = None,
    critic_optimizer: optax.GradientTransformation | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      params: of the policy; the critic starts from a copy of them.
      critic: its functions, and with them its optimizer, if and only if the algorithm has one.
    """
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen={},
        opt_state=_init_optimizer(params, optimizer),
        controls=initial_controls(algorithm),
        critic_params={},
        critic_opt_state={},
    )
    # Scalars lie on the whole mesh, as the rest does: a restored checkpoint puts every array where it lay.
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
        step, controls = jax.device_put((state.step, state.controls), replicated(mesh))
        state = dataclasses.replace(state, step=step, controls=controls)
    if critic is None:
        return state
    assert critic_optimizer is not None
    critic_params = critic.init(params)
    return dataclasses.replace(
        state, critic_params=critic_params, critic_opt_state=_init_optimizer(critic_params, critic_optimizer)
    )


def make_scorer(
    model: Model, sampling: Sampling, *, micro_batches: int, chunk: int, concentration: bool = False
) -> Callable[..., Scores]:
    """(params, rollout, reference or None) -> scores of all rows, without gradient.

    With the parameters of a reference, the exact KL to it is among them; ``concentration`` adds Σ_v π(v)².
    """

    @jax.jit
    def scorer(params: Params, rollout: Rollout, reference: Params | None = None) -> Scores:
        def of_part(part: Rollout) -> Scores:
            return score(model, params, part, sampling, chunk=chunk, concentration=concentration, reference=reference)

        return map_rows(of_part, rollout, micro_batches)

    return scorer


def make_value_scorer(critic: Critic, *, micro_batches: int) -> Callable[[Params, Rollout], Array]:
    """(params of the critic, rollout) -> values float32 [B, T], without gradient."""

    @jax.jit
    def scorer(params: Params, rollout: Rollout) -> Array:
        return map_rows(lambda part: score_values(critic, params, part), rollout, micro_batches)

    return scorer


class CriticPrograms(NamedTuple):
    """What an algorithm with a critic needs beside :class:`Programs`."""

    functions: Critic
    optimizer: optax.GradientTransformation
    values: Callable[[Params, Rollout], Array]
    update: Update


class Programs(NamedTuple):
    """The functions of a run, each compiled at its first call.

    Attributes:
      learning_rate: optimizer step of the policy -> rate.
      score, batch, slice, update: see `make_scorer`, `make_batcher`, `make_slicer`, `make_update`.
      critic: None without one.
    """

    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    score: Callable[..., Scores]
    batch: Batcher
    slice: Callable[[TrainBatch, Array, Any], TrainBatch]
    update: Update
    critic: CriticPrograms | None

    def init_state(self, params: Params, algorithm: Algorithm) -> TrainState:
        """The state before the first step, with a critic if there is one."""
        if self.critic is None:
            return init_state(params, self.optimizer, algorithm)
        return init_state(
            params,
            self.optimizer,
            algorithm,
            critic=self.critic.functions,
            critic_optimizer=self.critic.optimizer,
        )


def make_programs(settings: Settings, model: Model, critic: Critic | None) -> Programs:
    """The programs of a run for ``model``; scoring takes as many rows at a time as the update does."""
    training, algorithm = settings.training, settings.algorithm
    rows = settings.data.prompts_per_step * settings.data.samples_per_prompt
    rows_of_update = rows // training.mini_batches
    rows_of_pass = training.micro_batch or rows_of_update
    parts_of_step, parts_of_update = rows // rows_of_pass, rows_of_update // rows_of_pass
    updates = training.epochs * training.mini_batches  # of a rollout step
    steps = settings.steps - (algorithm.critic_warmup or 0)  # rollout steps in which the policy learns
    optimizer = make_optimizer(settings.optimizer, steps * updates)
    max_tokens = settings.sampling.max_tokens
    return Programs(
        optimizer,
        learning_rate(settings.optimizer, steps * updates),
        make_scorer(
            model,
            settings.sampling,
            micro_batches=parts_of_step,
            chunk=training.score_chunk,
            concentration=needs_sum_pi_squared(algorithm),
        ),
        make_batcher(algorithm, max_tokens, settings.log.loop),
        make_slicer(algorithm, max_tokens),
        make_update(
            model,
            algorithm,
            settings.sampling,
            optimizer,
            micro_batches=parts_of_update,
            chunk=training.score_chunk,
        ),
        _critic_programs(settings, critic, parts_of_step, parts_of_update, settings.steps * updates),
    )


def _critic_programs(
    settings: Settings, critic: Critic | None, parts_of_step: int, parts_of_update: int, total: int
) -> CriticPrograms | None:
    """``total`` counts the critic's optimizer steps of the run."""
    algorithm = settings.algorithm
    if critic is None:
        assert not needs_critic(algorithm)
        return None
    assert algorithm.critic_learning_rate is not None
    of_critic = dataclasses.replace(settings.optimizer, learning_rate=algorithm.critic_learning_rate)
    optimizer = make_optimizer(of_critic, total)
    return CriticPrograms(
        critic,
        optimizer,
        make_value_scorer(critic, micro_batches=parts_of_step),
        make_critic_update(critic, algorithm, optimizer, micro_batches=parts_of_update),
    )
