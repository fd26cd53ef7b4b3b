"""The weight table: of every parameter its path, logical axes, shape, Hugging Face name and Hugging Face layout.

Shapes, shardings, loading and export all come from this one table; the module classes in `layers.py` and `decoder.py`
make the same tree (a test compares the two).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxrl_llm import sharding
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.names import hf_name
from jaxrl_llm.types import Params

# How Hugging Face holds one layer of a parameter:
#   same         as we do (the embedding)
#   flat         flattened to one axis (norms, biases)
#   matrix       [out, in], our first axis the input (a torch Linear)
#   joined       [out, in], our first two axes the input (the output projection, whose input is heads × head size)
#   rows         [in, out], our first axis the input (GPT-2)
#   joined rows  [in, out], our first two axes the input
Layout = Literal["same", "flat", "matrix", "joined", "rows", "joined rows"]
_TRANSPOSED = ("matrix", "joined")
Slices = tuple[slice, ...]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter of the tree.

    Attributes:
      path: keys from the root of the parameter tree.
      axes: logical axes, keys of ``sharding.RULES``; ``layers`` first if the layers are stacked.
      shape: as long as axes.
      hf_name: the tensor's name in a Hugging Face checkpoint; holds ``{layer}``, and ``{expert}``, if they are stacked.
      layout: see Layout.
    """

    path: tuple[str, ...]
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    hf_name: str
    layout: Layout

    @property
    def stacked(self) -> bool:
        return self.axes[0] == "layers"

    @property
    def stack(self) -> tuple[int, ...]:
        """Sizes of the leading axes that have a tensor for each entry in a Hugging Face checkpoint."""
        leading = ("layers", "experts")
        return tuple(size for i, size in enumerate(self.shape[:2]) if self.axes[: i + 1] == leading[: i + 1])

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Of one layer, or of one expert of it."""
        return self.shape[len(self.stack) :]

    @property
    def input_axes(self) -> int:
        """Of a matrix: how many axes of a layer of it, the first ones, are what it multiplies."""
        return 2 if self.layout.startswith("joined") else 1

    @property
    def of_norm(self) -> bool:
        return of_norm(self.path)

    @property
    def hf_names(self) -> tuple[str, ...]:
        """One for each entry of the stack, or the one."""
        places = itertools.product(*map(range, self.stack))
        return tuple(self.hf_name.format(**dict(zip(("layer", "expert"), place, strict=False))) for place in places)

    def tensor(self, array: Any, number: int) -> Any:
        """The entry of the stack whose name is ``hf_names[number]``."""
        return array[tuple(int(i) for i in np.unravel_index(number, self.stack))] if self.stack else array

    def part(self, index: Slices) -> tuple[tuple[str, ...], tuple[int, ...], Slices]:
        """The names of the tensors that a part of the weight is of, the shape of its stack, and their own part."""
        depth = len(self.stack)
        names = np.array(self.hf_names, object).reshape(self.stack)[(*index[:depth], ...)]
        return tuple(names.ravel()), names.shape, index[depth:]

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Of one tensor in a Hugging Face checkpoint."""
        shape = self.layer_shape
        if self.layout == "same":
            return shape
        if self.layout == "flat":
            return (math.prod(shape),)
        inputs = self.input_axes
        sides = math.prod(shape[:inputs]), math.prod(shape[inputs:])
        return sides[::-1] if self.layout in _TRANSPOSED else sides


def weight_table(config: ModelConfig) -> tuple[Weight, ...]:
    """Every parameter of the decoder, in the order of the forward pass."""
    sizes = {
        "layers": config.layers,
        "vocab": config.vocab_size,
        "embed": config.width,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head": config.head_size,
        "mlp": config.mlp_width,
        "qkv": 3,
        "experts": config.experts,
        "positions": config.max_positions,
    }

    def weight(path: str, axes: str, layout: Layout, norm: int = 0) -> Weight:
        names = tuple(axes.split())
        shape = tuple(norm if axis == "norm" else sizes[axis] for axis in names)
        return Weight(tuple(path.split("/")), names, shape, hf_name(config, path), layout)

    def norm(path: str, size: int, axes: str = "norm") -> list[Weight]:
        parameters = ("scale", "bias") if config.layer_norm else ("scale",)
        return [weight(f"{path}/{parameter}", axes, "flat", size) for parameter in parameters]

    def layer_norm(path: str, size: int) -> list[Weight]:
        return norm(f"layers/{path}", size, "layers norm")

    def dense(path: str, inputs: str, outputs: str, bias: bool) -> list[Weight]:
        joined = len(inputs.split()) > 1
        layout: Layout = "joined" if joined else "matrix"
        if config.fused_qkv:  # GPT-2 has its matrices as [in, out]
            layout = "joined rows" if joined else "rows"
        kernel = weight(f"layers/{path}/kernel", f"layers {inputs} {outputs}", layout)
        return [kernel] + ([weight(f"layers/{path}/bias", f"layers {outputs}", "flat")] if bias else [])

    table = [weight("embed/embedding", "vocab embed", "same")]
    if config.learned_positions:
        table.append(weight("positions/embedding", "positions embed", "same"))
    if config.norms != "after":
        table += layer_norm("attention_norm", config.width)
    if config.fused_qkv:
        table += dense("attention/qkv", "embed", "qkv heads head", config.qkv_bias)
    else:
        for name, heads in (("query", "heads"), ("key", "kv_heads"), ("value", "kv_heads")):
            table += dense(f"attention/{name}", "embed", f"{heads} head", config.qkv_bias)
    if config.qk_norm:
        for name, heads in (("query", config.heads), ("key", config.kv_heads)):
            table += layer_norm(f"attention/{name}_norm", config.head_size * (heads if config.qk_norm_joint else 1))
    table += dense("attention/output", "heads head", "embed", config.output_bias)
    if config.norms != "before":
        table += layer_norm("post_attention_norm", config.width)
    if config.norms != "after":
        table += layer_norm("mlp_norm", config.width)
    if config.experts:
        table += dense("mlp/router", "embed", "experts", False)
        for name, axes in (("gate", "embed mlp"), ("up", "embed mlp"), ("down", "mlp embed")):
            table.append(weight(f"layers/mlp/{name}/kernel", f"layers experts {axes}", "matrix"))
    else:
        for name in ("gate", "up") if config.gated else ("up",):
            table += dense(f"mlp/{name}", "embed", "mlp", config.mlp_bias)
        table += dense("mlp/down", "mlp", "embed", config.mlp_bias)
    if config.norms != "before":
        table += layer_norm("post_mlp_norm", config.width)
    table += norm("final_norm", config.width)
    if not config.tied:
        table.append(weight("head/kernel", "embed vocab", "matrix"))
    return tuple(table)


def of_norm(path: Sequence[Any]) -> bool:
    """Whether a path of the tree, as JAX's keys or as strings, leads to a weight of a norm: those stay float32."""
    return any(str(getattr(key, "key", key)).endswith("norm") for key in path[:-1])


def row_axis(weight: Weight) -> int:
    """The axis of the weight that is the first, or the first part of the first, of its tensors in the file."""
    return len(weight.stack) + _joined_axes(weight)[0][0]


def read_layer(weight: Weight, index: Slices, read: Callable[[Slices], np.ndarray]) -> np.ndarray:
    """A part of one layer [layer_shape], of a tensor of a Hugging Face checkpoint [hf_shape]; a view where possible.

    Of our axes that make one axis of the tensor, the first decides what is read; the others are cut afterwards.

    Args:
      index: of the part, a slice for each axis of the layer.
      read: (a slice for each axis of the tensor) -> that part of the tensor.
    """
    shape, inside, wanted = list(weight.layer_shape), list(index), []
    for first, *others in _joined_axes(weight):
        size = math.prod(weight.layer_shape[axis] for axis in others)
        start, stop, _ = index[first].indices(shape[first])
        wanted.append(slice(start * size, stop * size))
        shape[first], inside[first] = stop - start, slice(None)
    tensor = read(tuple(wanted))
    if weight.layout in _TRANSPOSED:
        tensor = tensor.T
    return tensor.reshape(shape)[tuple(inside)]


def from_hf_layout(weight: Weight, tensor: np.ndarray) -> np.ndarray:
    """One tensor of a Hugging Face checkpoint [hf_shape] as one layer of ours [layer_shape]; a view where possible."""
    return read_layer(weight, (slice(None),) * len(weight.layer_shape), lambda _: tensor)


def to_hf_layout(weight: Weight, array: np.ndarray) -> np.ndarray:
    """The inverse of :func:`from_hf_layout`."""
    if weight.layout not in _TRANSPOSED:
        return array.reshape(weight.hf_shape)
    return array.reshape(weight.hf_shape[::-1]).T


def tree(config: ModelConfig, make: Callable[[Weight], T]) -> dict[str, Any]:
    """A parameter tree whose leaves are ``make(weight)``."""
    root: dict[str, Any] = {}
    for weight in weight_table(config):
        node = root
        for key in weight.path[:-1]:
            node = node.setdefault(key, {})
        node[weight.path[-1]] = make(weight)
    return root


def leaf(params: Params, weight: Weight) -> Any:
    """The leaf of a parameter tree that the weight describes."""
    node: Any = params
    for key in weight.path:
        node = node[key]
    return node


def abstract_params(config: ModelConfig, dtype: Any = jnp.float32) -> Params:
    """The parameter tree as shapes, without memory."""
    return tree(config, lambda weight: jax.ShapeDtypeStruct(weight.shape, dtype))


def shardings(config: ModelConfig, mesh: Mesh) -> dict[str, Any]:
    """The parameter tree as NamedShardings on the mesh, by the rules of :mod:`jaxrl_llm.sharding`."""
    return tree(config, lambda weight: NamedSharding(mesh, sharding.spec(weight.axes, weight.shape, mesh)))


def parameter_count(config: ModelConfig) -> int:
    """Numbers in the parameter tree; a tied embedding counts once."""
    return sum(math.prod(weight.shape) for weight in weight_table(config))


def _joined_axes(weight: Weight) -> list[tuple[int, ...]]:
    """For each axis of the tensor in a Hugging Face checkpoint, the axes of our layer that it is made of."""
    axes = tuple(range(len(weight.layer_shape)))
    if weight.layout == "same":
        return [(axis,) for axis in axes]
    if weight.layout == "flat":
        return [axes]
    inputs = weight.input_axes
    sides = [axes[:inputs], axes[inputs:]]
    return sides[::-1] if weight.layout in _TRANSPOSED else sides
