"""The loss that balances experts, beside the policy's: of a pass, and what it needs of the whole optimizer step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.models import experts
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.training.packing import Packing
from jaxrl_llm.training.score import predictions
from jaxrl_llm.types import Array, Mean, Metrics, Model, Params, Rollout, Routing, TrainBatch


def check(coefficient: float, config: ModelConfig) -> None:
    """Raises ValueError where experts are to be balanced, and the model has none."""
    if coefficient and not config.experts:
        raise ValueError(
            f"training.balancing_coefficient = {coefficient:g} with a model of the family {config.family}, which has "
            "no experts; expected 0"
        )


def balancing_loss(part: Routing, step: Routing | None) -> tuple[Array, Metrics]:
    """:func:`~jaxrl_llm.models.experts.load_balancing_loss` of a part of an optimizer step.

    Args:
      step: of the whole step; None: the part is the step.

    Returns:
      (loss, metrics). Losses of the parts add up to that of the step; each metric counts once a step.
    """
    step = part if step is None else step
    loss = experts.load_balancing_loss(step, part.likely)
    share = part.tokens.sum() / jnp.maximum(step.tokens.sum(), 1)
    metrics = {"balancing_loss": Mean(loss, share), "busiest_expert": Mean(experts.busiest_load(step) * share, share)}
    return loss, jax.lax.stop_gradient(metrics)


@jax.jit
def _add(first: Routing, second: Routing) -> Routing:
    return jax.tree.map(jnp.add, first, second)


@dataclasses.dataclass(frozen=True)
class Router:
    """(policy, batch, passes) -> the routing of all tokens that the passes compute, from forward passes alone."""

    model: Model
    jit: Callable[..., Any] = jax.jit

    def __call__(self, policy: Params, batch: Rollout | TrainBatch, passes: Sequence[Packing]) -> Routing:
        return functools.reduce(_add, (self.program(policy, batch, packing) for packing in passes))

    @functools.cached_property
    def program(self) -> Callable[..., Routing]:
        """(policy, batch, packing) -> of a pass."""
        apply = self.model.apply_routed
        assert apply is not None

        def route(policy: Params, batch: Rollout | TrainBatch, packing: Packing) -> Routing:
            routing = predictions(apply, policy, batch, packing, routed=True).routing
            assert routing is not None
            return routing

        return self.jit(route)
