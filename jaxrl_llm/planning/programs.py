"""The programs of a run in abstract shapes, as training calls them: rollout, scoring, gradients and optimizer."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxrl_llm.algorithm import initial_controls, needs_exact_kl, needs_greedy, needs_sum_pi_squared
from jaxrl_llm.models import decoder, lora, weights
from jaxrl_llm.models import prepared as prepared_layout
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.planning.work import Work, work_of
from jaxrl_llm.sampling.generate import generate
from jaxrl_llm.sampling.keys import ROLLOUT, step_key
from jaxrl_llm.sharding import replicated, row_devices, row_sharding
from jaxrl_llm.training.batch import Judged, Scored
from jaxrl_llm.training.optimizer import state_shardings
from jaxrl_llm.training.packing import Packing
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.step import Programs, make_programs
from jaxrl_llm.training.update import places_of
from jaxrl_llm.types import Model, Params, Rollout, TrainState, join_policy, split_policy

# One run of "update" is the gradient of one pass; "apply" is the optimizer's step over the sum of those of a step.
PROGRAMS = ("rollout", "score", "update", "apply")


def _placed(abstract: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)


class Abstract:
    """Shapes with their places on a mesh, of everything that the programs of a run take.

    Made before ``jax.set_mesh``: optax makes real counters on the way, which devices that are not there cannot hold.
    """

    def __init__(self, settings: Settings, config: ModelConfig, mesh: Mesh):
        self.settings, self.config, self.mesh = settings, config, mesh
        self.work: Work = work_of(settings, config, tuple(mesh.shape.values()), platform=mesh.devices.flat[0].platform)
        dtype = jnp.dtype(settings.model.dtype)
        self.model: Model = decoder.functions(
            config,
            dtype=dtype,
            remat=settings.model.remat,
            attention=settings.model.attention,
            lora=settings.lora,
        )
        self.programs: Programs = make_programs(settings, self.model, None)
        self.policy: Params = self._policy()
        self.params, self.frozen = split_policy(self.policy)
        self.reference: Params = self.frozen or self.params
        prepared = jax.eval_shape(self.model.prepare, self.policy)
        apart = self.work.lora if lora.KEY in prepared else None
        self.prepared: Params = _placed(prepared, prepared_layout.shardings(config, mesh, apart))
        self.state: TrainState = self._state()

    def _policy(self) -> Params:
        settings, config, mesh = self.settings, self.config, self.mesh
        base = weights.abstract_params(config, jnp.dtype(settings.model.param_dtype))
        base = _placed(base, weights.shardings(config, mesh))
        if self.work.lora is None:
            return base
        adapter = lora.abstract(config, self.work.lora)
        return join_policy(_placed(adapter, lora.shardings(config, self.work.lora, mesh)), base)

    def whole(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=replicated(self.mesh))

    def rows(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """As :func:`~jaxrl_llm.sharding.shard_rows` places them."""
        place = row_sharding if shape[0] % row_devices(self.mesh) == 0 else replicated
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place(self.mesh))

    def packing(self, program: str) -> Packing:
        """Of a pass of "score" or "update"."""
        return jax.tree.map(lambda x: self.rows(x.shape, x.dtype), self.work.passes(program).packing)

    def rollout(self) -> Rollout:
        data, width = self.settings.data, self.settings.sampling.max_tokens
        count = data.prompts_per_step * data.samples_per_prompt
        return Rollout(
            prompt_tokens=self.rows((count, data.max_prompt_tokens), jnp.int32),
            prompt_length=self.rows((count,), jnp.int32),
            tokens=self.rows((count, width), jnp.int32),
            mask=self.rows((count, width), jnp.bool_),
            sampler_logprobs=self.rows((count, width), jnp.float32),
            truncated=self.rows((count,), jnp.bool_),
            prompt_id=self.rows((count,), jnp.int32),
        )

    def _state(self) -> TrainState:
        optimizer = self.programs.optimizer
        places = state_shardings(optimizer, self.params, offload=self.settings.optimizer.offload)
        opt_state = jax.tree.map(
            lambda x, s: self.whole(x.shape, x.dtype) if s is None else _placed(x, s),
            jax.eval_shape(optimizer.init, self.params),
            places,
        )
        controls = jax.eval_shape(lambda: initial_controls(self.settings.algorithm))
        controls = jax.tree.map(lambda x: self.whole(x.shape, x.dtype), controls)
        return TrainState(self.whole((), jnp.int32), self.params, self.frozen, opt_state, controls, {}, {})

    def batch(self) -> Any:
        """Of one optimizer step, with the arrays that the algorithm asks for."""
        settings, algorithm, rollout = self.settings, self.settings.algorithm, self.rollout()
        count = rollout.tokens.shape[0]
        flags, numbers = self.rows((count,), jnp.bool_), self.rows((count,), jnp.float32)
        source = None if settings.data.source_key is None else self.rows((count,), jnp.int32)
        judged = Judged(numbers, flags, flags, source, numbers if needs_greedy(algorithm) else None)
        columns, policy = rollout.sampler_logprobs, None
        exact_in_reward = needs_exact_kl(algorithm) and algorithm.kl_placement == "reward"
        if algorithm.old_logprobs == "trainer" or exact_in_reward or needs_sum_pi_squared(algorithm):
            policy = jax.eval_shape(self.programs.score.program, *self.scored())
        scored = Scored(columns, policy, None if algorithm.kl_placement == "none" else columns, None)
        batch, _, _ = jax.eval_shape(self.programs.batch, rollout, judged, scored, self.state.controls)
        rows = count // settings.training.mini_batches
        return jax.tree.map(lambda x: self.rows((rows, *x.shape[1:]), x.dtype), batch)

    def scored(self) -> tuple[Any, ...]:
        """The arguments of the scoring program."""
        algorithm = self.settings.algorithm
        exact = needs_exact_kl(algorithm) and algorithm.kl_placement == "reward"
        return self.policy, self.rollout(), self.packing("score"), self.reference if exact else None


def trace(name: str, abstract: Abstract, *, stops: int = 1) -> Any:
    """One of PROGRAMS, traced; to be lowered and compiled under ``jax.set_mesh``.

    Args:
      stops: end-of-text tokens; without a tokenizer only their number could matter.
    """
    settings, data, state = abstract.settings, abstract.settings.data, abstract.state
    if name == "rollout":
        prompts = data.prompts_per_step
        return generate.trace(
            abstract.model,
            abstract.prepared,
            abstract.rows((prompts, data.max_prompt_tokens), jnp.int32),
            abstract.rows((prompts,), jnp.int32),
            abstract.rows((prompts,), jnp.int32),
            jax.eval_shape(lambda: step_key(settings.seed, ROLLOUT, 1)),
            samples=data.samples_per_prompt,
            sampling=settings.sampling,
            stop_ids=tuple(range(stops + len(settings.sampling.stop))),
            pad_id=0,
        )
    programs: Any = abstract.programs
    if name == "score":
        return programs.score.program.trace(*abstract.scored())
    if name == "apply":
        moving = dataclasses.replace(state, frozen={})
        return programs.update.apply.trace(moving, abstract.params, places_of(moving))
    work, places = abstract.work, places_of(abstract.params)
    sums = abstract.params if work.update.count > 1 else None  # gradients lie as their parameters
    routing = None
    if settings.training.balancing_coefficient and work.update.count > 1:
        of_pass = state.policy, abstract.batch(), abstract.packing("update")
        routing = jax.tree.map(
            lambda x: abstract.whole(x.shape, x.dtype), jax.eval_shape(programs.update.route.program, *of_pass)
        )
    others = state.frozen, state.step, state.controls, abstract.reference if work.exact_kl else None, routing
    return programs.update.gradients.program.trace(
        sums, abstract.params, abstract.batch(), abstract.packing("update"), places, *others
    )
