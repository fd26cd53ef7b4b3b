"""The sampling layout of parameters, made once per rollout: compute dtype, layers one by one, the head as [D, V].

Of a large model on some CPUs matrices are transposed, the head too, see :func:`transposes`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_llm.environment import has_avx512
from jaxrl_llm.models import lora, weights
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.models.projection import TRANSPOSED
from jaxrl_llm.sharding import spec
from jaxrl_llm.types import Params

LEAST_TRANSPOSED = 2**30  # bytes of a model: one of 0.5 GiB (SmolLM2-135M) took as long either way


def kept_apart(dtype: jnp.dtype) -> bool:
    """Whether sampling computes an adapter beside the weights, as the update does, or merges it into them.

    Merging is free of cost in decoding. But most of what an adapter changes in a weight is less than a step of
    bfloat16: the sampler would not see it, the update would, and the two would be different policies.
    """
    return dtype != jnp.float32


def transposes(config: ModelConfig, dtype: jnp.dtype, mesh: Mesh) -> bool:
    """Whether sampling is to hold matrices as [outputs, inputs].

    On CPUs with AVX-512 XLA's product of few rows, which a decode step is made of, reads matrices in that form from
    memory up to three times as fast, where they are too many for a cache. On CPUs without it the other form is faster.
    """
    one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    if not one_cpu or dtype != jnp.float32 or not has_avx512():
        return False
    return sum(4 * x.size for x in jax.tree.leaves(weights.abstract_params(config))) >= LEAST_TRANSPOSED


def prepare(
    config: ModelConfig,
    settings: LoraSettings | None,
    dtype: jnp.dtype,
    base: Params,
    adapter: Params | None,
    *,
    transposed: bool = False,
) -> Params:
    """The sampling layout of a policy.

    Args:
      base: tree of the weights.
      adapter: its tree under ``settings``, or None.
      transposed: see :func:`transposes`. A tied head is then the embedding itself, and not there.
    """

    def cast(tree: Any) -> Any:  # norms compute in float32, so their weights stay
        return jax.tree.map_with_path(lambda path, x: x if weights.of_norm(path) else x.astype(dtype), tree)

    def layers_of(tree: Params) -> list[Params]:
        return [jax.tree.map(operator.itemgetter(i), tree["layers"]) for i in range(config.layers)]

    layers, factors = layers_of(base), None
    if settings is not None and adapter is not None:
        if kept_apart(dtype):
            factors = layers_of(lora.scaled(settings, adapter))
        else:
            pairs = zip(layers, layers_of(adapter), strict=True)
            layers = [lora.merge_layer(settings, own, of_layer, dtype) for own, of_layer in pairs]
    embedding = base["embed"]["embedding"]
    prepared = {"embedding": cast(embedding), "layers": tuple(map(cast, layers)), "final_norm": base["final_norm"]}
    if not transposed:
        prepared["head"] = cast(embedding.T if config.tied else base["head"]["kernel"])
    else:
        prepared["layers"] = tuple(_transposed(config, layer, _matrix) for layer in prepared["layers"])
        if not config.tied:
            prepared["head"] = cast(base["head"]["kernel"]).T
    if config.learned_positions:
        prepared["positions"] = cast(base["positions"]["embedding"])
    if factors is not None:
        prepared[lora.KEY] = tuple(map(cast, factors))
    return prepared


def _transposed(config: ModelConfig, layer: Params, turn: Callable[[weights.Weight, Any], Any]) -> Params:
    """A layer whose projections have their matrix under TRANSPOSED; experts, whose matrices are one product, stay."""

    def of(node: Any, table: Any) -> Any:
        if not isinstance(table, dict) or "experts" in getattr(table.get("kernel"), "axes", ()):
            return node
        found = {key: of(x, table[key]) for key, x in node.items() if key != "kernel"}
        return found | ({TRANSPOSED: turn(table["kernel"], node["kernel"])} if "kernel" in node else {})

    return of(layer, weights.tree(config, lambda weight: weight)["layers"])


def _matrix(weight: weights.Weight, kernel: Any) -> Any:
    """[outputs, inputs] of a kernel."""
    return kernel.reshape(math.prod(kernel.shape[: weight.input_axes]), -1).T


def variables(prepared: Params, layer: int) -> dict[str, Params]:
    """What a module of one layer is applied to."""
    factors = {lora.KEY: prepared[lora.KEY][layer]} if lora.KEY in prepared else {}
    return {"params": prepared["layers"][layer], **factors}


def shardings(
    config: ModelConfig, mesh: Mesh, apart: LoraSettings | None = None, *, transposed: bool = False
) -> Params:
    """Shardings of the sampling layout: split along tensor, whole along fsdp, so that no token gathers a weight.

    Args:
      apart: of the adapter that stands beside the weights, if one does.
      transposed: as of :func:`prepare`; of a mesh of one device.
    """

    def placed(axes: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        return NamedSharding(mesh, spec(axes, shape, mesh, whole=("fsdp",)))

    layers = weights.tree(config, lambda w: placed(w.axes[1:], w.shape[1:]) if w.stacked else placed(w.axes, w.shape))
    prepared = {
        "embedding": layers["embed"]["embedding"],
        "layers": (layers["layers"],) * config.layers,
        "final_norm": layers["final_norm"],
        "head": placed(("embed", "vocab"), (config.width, config.vocab_size)),
    }
    if transposed:
        own = _transposed(config, layers["layers"], lambda _, __: NamedSharding(mesh, PartitionSpec()))
        prepared["layers"] = (own,) * config.layers
        if config.tied:
            del prepared["head"]
    if config.learned_positions:
        prepared["positions"] = layers["positions"]["embedding"]
    if apart is not None:
        factors = lora.tree(config, apart, lambda of, name: placed(of.axes[name][1:], of.shapes[name][1:]))
        prepared[lora.KEY] = (factors["layers"],) * config.layers
    return prepared
