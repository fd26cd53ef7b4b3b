"""One optimizer step, of a policy and of a critic, in passes whose gradients are summed.

A loss is Σ weights · token loss with weights of the whole step, so how its rows are cut into passes changes the order
of a sum and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrl_llm.algorithm import Algorithm, choose_tokens, needs_choice, needs_exact_kl, policy_loss, value_loss
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.training.balancing import Router, balancing_loss
from jaxrl_llm.training.offload import HOST_MEMORY
from jaxrl_llm.training.optimizer import gradient_norm
from jaxrl_llm.training.packing import Packing
from jaxrl_llm.training.score import Scorer, in_pass, score, score_values
from jaxrl_llm.types import (
    Array,
    Choice,
    Controls,
    Critic,
    Mean,
    Metrics,
    Model,
    Params,
    Routing,
    TrainBatch,
    TrainState,
    join_policy,
)

Jit = Callable[..., Any]  # jax.jit, or one with settings of its own
Observe = Callable[[Array, TrainBatch], Metrics]  # (log-probabilities [B, T], batch) -> more metrics of a pass
LossOf = Callable[..., tuple[Array, Metrics]]  # (params, batch, packing, *others) -> loss, metrics


@jax.jit
def add_metrics(first: Metrics, second: Metrics) -> Metrics:
    return {name: first[name] + second[name] for name in first}


@dataclasses.dataclass(frozen=True)
class Gradients:
    """(params, batch, passes, *others) -> gradients of a loss, and its metrics with the loss itself under ``name``.

    A step of one pass holds its gradients once; one of several, the sum beside those of a pass.
    """

    loss_of: LossOf
    name: str
    jit: Jit = jax.jit

    def __call__(
        self, params: Params, batch: TrainBatch, passes: Sequence[Packing], *others: Any
    ) -> tuple[Params, Metrics]:
        places = places_of(params)
        sums = None if len(passes) == 1 else _zeros(params, places)
        totals: Metrics = {}
        for packing in passes:
            if jax.default_backend() == "cpu":
                # XLA takes temporaries there when a program is launched: those of all passes would lie side by side.
                jax.block_until_ready(sums)
            sums, metrics = self.program(sums, params, batch, packing, places, *others)
            totals = add_metrics(totals, metrics) if totals else metrics
        assert sums is not None
        # the loss counts once a step, however many parts it was summed from; so does the norm of the gradient
        totals[self.name] = Mean(totals[self.name].total, jnp.ones(()))
        return sums, totals

    @functools.cached_property
    def program(self) -> Callable[..., tuple[Params, Metrics]]:
        """(sums or None, params, batch, packing, places, *others) -> sums with a pass's gradients, its metrics.

        The sums are donated.
        """

        def gradients(
            sums: Params | None, params: Params, batch: TrainBatch, packing: Packing, places: Places, *others: Any
        ) -> tuple[Params, Metrics]:
            def loss_of(params: Params) -> tuple[Array, Metrics]:
                part = dataclasses.replace(batch, mask=in_pass(batch, packing))
                return self.loss_of(params, part, packing, *others)

            (loss, metrics), found = jax.value_and_grad(loss_of, has_aux=True)(params)
            if sums is not None:
                found = jax.tree.map(jnp.add, sums, found)
            return _placed(found, places), metrics | {self.name: Mean(loss, jnp.zeros(()))}

        return self.jit(gradients, donate_argnums=0, static_argnums=4)


Places = tuple[jax.sharding.Sharding | None, ...] | None  # of the leaves of a tree


def places_of(tree: Any) -> Places:
    """Where leaves lie on the mesh that is set; None without one, and for leaves in the memory of hosts."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    return tuple(None if x.sharding.memory_kind == HOST_MEMORY else x.sharding for x in jax.tree.leaves(tree))


def _placed(tree: Any, places: Places) -> Any:
    """The tree where ``places`` says: what a program returns is what the next call of it was compiled for."""
    if places is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    pairs = zip(leaves, places, strict=True)
    return jax.tree.unflatten(structure, [x if s is None else jax.lax.with_sharding_constraint(x, s) for x, s in pairs])


@functools.partial(jax.jit, static_argnums=1)
def _zeros(params: Params, places: Places) -> Params:
    return _placed(jax.tree.map(jnp.zeros_like, params), places)


def _apply(
    optimizer: optax.GradientTransformation, gradients: Params, opt_state: Any, params: Params
) -> tuple[Params, Any, Mean]:
    """Parameters and optimizer after a step, and the norm of the gradient."""
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    norm = Mean(gradient_norm(gradients), jnp.ones(()))
    return optax.apply_updates(params, updates), opt_state, norm  # type: ignore[return-value]


def _stepped(
    apply: Callable[..., tuple[TrainState, Mean]], state: TrainState, gradients: Params
) -> tuple[TrainState, Mean]:
    """A step of an optimizer, which reads nothing frozen: its program donates the state that it is given."""
    moving = dataclasses.replace(state, frozen={})
    moved, norm = apply(moving, gradients, places_of(moving))
    return dataclasses.replace(moved, frozen=state.frozen), norm


@dataclasses.dataclass(frozen=True)
class PolicyUpdate:
    """(state, batch, passes, reference or None) -> the state after a step of the policy, and metrics.

    The state is donated, but for what is frozen of it. Metrics are of the tokens that the passes compute.

    Tokens that are chosen by comparing all tokens of the step are chosen once: from the forward pass of the gradient
    where there is one pass, from a forward pass before it where there are several.

    The parameters of the reference are needed where the exact KL stands in the loss, and not read elsewhere.

    ``observe`` counts what no metric of the loss does, without gradient.

    ``balancing_coefficient`` times :func:`~jaxrl_llm.models.experts.load_balancing_loss` is added to the loss. How
    often an expert is chosen is a mean over the whole step too: where there are several passes, it is counted before.
    """

    model: Model
    algorithm: Algorithm
    sampling: Sampling
    optimizer: optax.GradientTransformation
    chunk: int
    jit: Jit = jax.jit
    observe: Observe | None = None
    balancing_coefficient: float = 0.0

    def __call__(
        self, state: TrainState, batch: TrainBatch, passes: Sequence[Packing], reference: Params | None = None
    ) -> tuple[TrainState, Metrics]:
        if self._exact and reference is None:
            raise ValueError("algorithm.kl_estimator = 'exact' but reference is None: expected its parameters")
        if needs_choice(self.algorithm) and len(passes) > 1:
            scores = self.scorer(state.policy, batch, passes)
            batch = dataclasses.replace(batch, choice=self.choose(state.step, scores.logprobs, scores.entropy, batch))
        routing = None
        if self.balancing_coefficient and len(passes) > 1:
            routing = self.route(state.policy, batch, passes)
        others = (state.frozen, state.step, state.controls, reference if self._exact else None, routing)
        gradients, metrics = self.gradients(state.params, batch, passes, *others)
        state, norm = _stepped(self.apply, state, gradients)
        return state, metrics | {"gradient_norm": norm}

    @property
    def _exact(self) -> bool:
        return needs_exact_kl(self.algorithm) and self.algorithm.kl_placement == "loss"

    @functools.cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.model, self.sampling, chunk=self.chunk, jit=self.jit)

    @functools.cached_property
    def route(self) -> Router:
        return Router(self.model, self.jit)

    @functools.cached_property
    def choose(self) -> Callable[..., Choice]:
        def choose(step: Array, logprobs: Array, entropy: Array, batch: TrainBatch) -> Choice:
            return choose_tokens(self.algorithm, logprobs, entropy, batch, step=step)

        return self.jit(choose)

    @functools.cached_property
    def gradients(self) -> Gradients:
        a = self.algorithm
        needs_entropy = a.entropy_coefficient != 0 or a.entropy_target is not None

        def loss_of(
            params: Params,
            batch: TrainBatch,
            packing: Packing,
            frozen: Params,
            step: Array,
            controls: Controls,
            reference: Params | None,
            routing: Routing | None,
        ) -> tuple[Array, Metrics]:
            scores = score(
                self.model,
                join_policy(params, frozen),
                batch,
                self.sampling,
                chunk=self.chunk,
                packing=packing,
                reference=reference,
                entropy_gradient=needs_entropy,
                routed=self.balancing_coefficient != 0,
            )
            if needs_choice(a) and batch.choice is None:
                choice = choose_tokens(a, scores.logprobs, scores.entropy, batch, step=step)
                batch = dataclasses.replace(batch, choice=choice)
            loss, metrics = policy_loss(
                a, scores.logprobs, scores.entropy, batch, controls=controls, exact_kl=scores.exact_kl
            )
            if self.observe is not None:
                metrics |= self.observe(jax.lax.stop_gradient(scores.logprobs), batch)
            if scores.routing is not None:
                balancing, of_experts = balancing_loss(scores.routing, routing)
                loss, metrics = loss + self.balancing_coefficient * balancing, metrics | of_experts
            return loss, metrics

        return Gradients(loss_of, "loss", self.jit)

    @functools.cached_property
    def apply(self) -> Callable[..., tuple[TrainState, Mean]]:
        """(state, gradients, places) -> the state after the step, the norm of the gradient. The state is donated."""

        def apply(state: TrainState, gradients: Params, places: Places = None) -> tuple[TrainState, Mean]:
            params, opt_state, norm = _apply(self.optimizer, gradients, state.opt_state, state.params)
            new = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
            return _placed(new, places), norm

        return self.jit(apply, donate_argnums=0, static_argnums=2)


@dataclasses.dataclass(frozen=True)
class CriticUpdate:
    """(state, batch, passes) -> the state after a step of the critic, and metrics; nothing of the policy changes.

    The state is donated, but for what is frozen of it.
    """

    critic: Critic
    algorithm: Algorithm
    optimizer: optax.GradientTransformation
    jit: Jit = jax.jit

    def __call__(self, state: TrainState, batch: TrainBatch, passes: Sequence[Packing]) -> tuple[TrainState, Metrics]:
        gradients, metrics = self.gradients(state.critic_params, batch, passes)
        state, norm = _stepped(self.apply, state, gradients)
        return state, metrics | {"critic_gradient_norm": norm}

    @functools.cached_property
    def gradients(self) -> Gradients:
        def loss_of(params: Params, batch: TrainBatch, packing: Packing) -> tuple[Array, Metrics]:
            return value_loss(self.algorithm, score_values(self.critic, params, batch, packing), batch)

        return Gradients(loss_of, "value_loss", self.jit)

    @functools.cached_property
    def apply(self) -> Callable[..., tuple[TrainState, Mean]]:
        """(state, gradients, places) -> the state after the step, the norm of the gradient. The state is donated."""

        def apply(state: TrainState, gradients: Params, places: Places = None) -> tuple[TrainState, Mean]:
            params, opt_state, norm = _apply(self.optimizer, gradients, state.critic_opt_state, state.critic_params)
            return _placed(dataclasses.replace(state, critic_params=params, critic_opt_state=opt_state), places), norm

        return self.jit(apply, donate_argnums=0, static_argnums=2)
