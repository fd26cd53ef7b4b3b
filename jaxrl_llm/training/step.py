"""The programs of training beside sampling, each compiled at its first call, and the state that they start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrl_llm.algorithm import Algorithm, initial_controls, needs_critic, needs_sum_pi_squared
from jaxrl_llm.sharding import replicated
from jaxrl_llm.training.batch import Batcher, Scored, make_batcher, make_completer, make_slicer
from jaxrl_llm.training.optimizer import init_optimizer, learning_rate, make_optimizer
from jaxrl_llm.training.score import Scorer, ValueScorer
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.update import CriticUpdate, PolicyUpdate
from jaxrl_llm.types import Array, Critic, Metrics, Model, Params, TrainBatch, TrainState, split_policy


def init_state(
    policy: Params,
    optimizer: optax.GradientTransformation,
    algorithm: Algorithm,
    *,
    critic: Critic | None = None,
    critic_optimizer: optax.GradientTransformation | None = None,
    critic_params: Params | None = None,
    offload: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
      policy: its tree; with an adapter the optimizer trains that alone.
      critic: its functions, and with them its optimizer, if and only if the algorithm has one.
      critic_params: that the critic starts from; None: a copy of the policy's base, with a head of zeros.
      offload: whether moments lie on the hosts, see `optimizer.state_shardings`.
    """
    params, frozen = split_policy(policy)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=frozen,
        opt_state=init_optimizer(optimizer, params, offload=offload),
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
    start = jax.tree.map(jnp.copy, critic.init(frozen or params)) if critic_params is None else critic_params
    critic_opt_state = init_optimizer(critic_optimizer, start, offload=offload)
    return dataclasses.replace(state, critic_params=start, critic_opt_state=critic_opt_state)


class CriticPrograms(NamedTuple):
    """What an algorithm with a critic needs beside :class:`Programs`."""

    functions: Critic
    optimizer: optax.GradientTransformation
    values: ValueScorer
    update: CriticUpdate


class Programs(NamedTuple):
    """The functions of a run, each compiled at its first call.

    Attributes:
      learning_rate: optimizer step of the policy -> rate.
      score, batch, complete, slice, update: see `Scorer`, `make_batcher`, `make_completer`, `make_slicer`,
        `PolicyUpdate`.
      critic: None without one.
      offload: whether the optimizers' moments lie on the hosts between updates.
    """

    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    score: Scorer
    batch: Batcher
    complete: Callable[[TrainBatch, Scored], tuple[TrainBatch, Metrics]]
    slice: Callable[[TrainBatch, Array, Any], TrainBatch]
    update: PolicyUpdate
    critic: CriticPrograms | None
    offload: bool

    def init_state(self, policy: Params, algorithm: Algorithm, critic_params: Params | None = None) -> TrainState:
        """The state before the first step, with a critic if there is one."""
        critic, optimizer = (None, None) if self.critic is None else (self.critic.functions, self.critic.optimizer)
        return init_state(
            policy,
            self.optimizer,
            algorithm,
            critic=critic,
            critic_optimizer=optimizer,
            critic_params=critic_params,
            offload=self.offload,
        )


def make_programs(settings: Settings, model: Model, critic: Critic | None) -> Programs:
    """The programs of a run for ``model``."""
    training, algorithm = settings.training, settings.algorithm
    updates = training.epochs * training.mini_batches  # of a rollout step
    steps = settings.steps - (algorithm.critic_warmup or 0)  # rollout steps in which the policy learns
    optimizer = make_optimizer(settings.optimizer, steps * updates, seed=settings.seed)
    max_tokens, sampling, chunk = settings.sampling.max_tokens, settings.sampling, training.score_chunk
    return Programs(
        optimizer,
        learning_rate(settings.optimizer, steps * updates),
        Scorer(model, sampling, chunk, concentration=needs_sum_pi_squared(algorithm)),
        make_batcher(algorithm, max_tokens, settings.log.loop),
        make_completer(algorithm),
        make_slicer(algorithm, max_tokens),
        PolicyUpdate(
            model, algorithm, sampling, optimizer, chunk, balancing_coefficient=training.balancing_coefficient
        ),
        _critic_programs(settings, critic, settings.steps * updates),
        settings.optimizer.offload,
    )


def _critic_programs(settings: Settings, critic: Critic | None, total: int) -> CriticPrograms | None:
    """``total`` counts the critic's optimizer steps of the run."""
    algorithm = settings.algorithm
    if critic is None:
        assert not needs_critic(algorithm)
        return None
    assert algorithm.critic_learning_rate is not None
    of_critic = dataclasses.replace(settings.optimizer, learning_rate=algorithm.critic_learning_rate)
    optimizer = make_optimizer(of_critic, total, seed=settings.seed)
    return CriticPrograms(critic, optimizer, ValueScorer(critic), CriticUpdate(critic, algorithm, optimizer))
