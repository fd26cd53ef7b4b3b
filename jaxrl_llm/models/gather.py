"""The weights of one layer, brought together from the devices that hold their parts along `fsdp`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, PartitionSpec

from jaxrl_llm.models import lora, weights
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.sharding import spec
from jaxrl_llm.types import Array, Params

_GATHERED = "gathered weights"


def keep_unless_gathered(_: Any, *__: Any, **params: Any) -> bool:
    """A remat policy where layers would have none: it keeps all but gathered weights, or a device would hold the model.

    What JAX asks about is the call that makes them, and not the name that they have inside it.
    """
    body = params.get("call_jaxpr")
    return body is None or all(equation.params.get("name") != _GATHERED for equation in body.eqns)


def gather_layer(
    config: ModelConfig, settings: LoraSettings | None, dtype: jnp.dtype, mesh: AbstractMesh, variables: Params
) -> Params:
    """The weights of a layer in the compute dtype, whole along `fsdp`; gradients are summed into their shards.

    Left to itself, XLA gathers some of them twice in the backward pass, or cuts products into as many parts as devices.
    """

    def whole(axes: tuple[str, ...], shape: tuple[int, ...], x: Array) -> Array:
        axes, shape = axes[1:], shape[1:]
        return _reshard(spec(axes, shape, mesh), spec(axes, shape, mesh, whole=("fsdp",)), x.astype(dtype))

    def weight(weight: weights.Weight, x: Array) -> Array:  # norms compute in float32 and are not split
        return x if weight.of_norm else whole(weight.axes, weight.shape, x)

    table = weights.tree(config, lambda weight: weight)["layers"]
    gathered = {"params": jax.tree.map(weight, table, variables["params"])}
    if settings is None or not variables.get(lora.KEY):
        return gathered
    of_factors = lora.tree(config, settings, lambda adapter, name: (adapter.axes[name], adapter.shapes[name]))
    factors = jax.tree.map(lambda x, factor: whole(factor[0], factor[1], x), variables[lora.KEY], of_factors["layers"])
    return gathered | {lora.KEY: factors}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reshard(before: PartitionSpec, after: PartitionSpec, x: Array) -> Array:
    """x laid out as ``after``; its gradient as ``before``, where the transpose of a constraint has it as ``after``."""
    return checkpoint_name(jax.lax.with_sharding_constraint(x, after), _GATHERED)


_reshard.defvjp(
    lambda before, after, x: (_reshard(before, after, x), None),
    lambda before, after, _, gradient: (jax.lax.with_sharding_constraint(gradient, before),),
)
