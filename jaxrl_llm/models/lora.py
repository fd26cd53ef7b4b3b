"""Low-rank adapters: which matrices have one, their factors as a tree of their own, and the merge into the weights.

The matrix W of an adapted projection becomes W + s · A B with A [in, R] and B [R, out], and only A and B are trained
(LoRA: Hu et al., 2021, arXiv 2106.09685). The tree of a policy is then the tree of its weights with one more key,
"lora"; `projection.py` computes x W + s · (x A) B from it, and :func:`merge` makes the plain tree again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxrl_llm import sharding
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.weights import Weight, weight_table
from jaxrl_llm.types import ADAPTER, Array, Params, split_policy

KEY = ADAPTER  # of the adapter in a policy's tree, and of the collection of variables that holds it
ALL_LINEAR = "all-linear"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The section `lora` of a config: all None (no adapter) or all set.

    Attributes:
      rank: R, of the product A B.
      alpha: the product is multiplied by alpha / rank.
      targets: "all-linear", or a regular expression that a module's name within its layer matches as a whole.
      rank_stabilized: the product is multiplied by alpha / √rank instead.
    """

    rank: int | None
    alpha: float | None
    targets: str | None
    rank_stabilized: bool | None

    @property
    def scale(self) -> float:
        """s of W + s · A B: alpha / rank, or alpha / √rank, with which activations and gradients keep their size as
        the rank grows (rsLoRA: Kalajdzievski, 2023, arXiv 2312.03732).

        Raises:
          ValueError: a key is None or out of its range.
        """
        rank, alpha = self.rank, self.alpha
        for key, value in (("rank", rank), ("alpha", alpha)):
            if value is None or not value > 0:
                raise ValueError(f"lora.{key} = {value}: expected a number above 0")
        if self.rank_stabilized is None:
            raise ValueError("lora.rank_stabilized = None: expected True or False")
        assert rank is not None and alpha is not None
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The two factors of one matrix of every layer.

    Attributes:
      weight: the kernel [L, *in, *out] that it adapts.
      rank: R.
    """

    weight: Weight
    rank: int

    @property
    def path(self) -> tuple[str, ...]:
        """Keys from the root of the adapter tree to {"a": [L, *in, R], "b": [L, R, *out]}."""
        return self.weight.path[:-1]

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Logical axes of the two factors, keys of ``sharding.RULES``."""
        stack, *rest = self.weight.axes
        inputs = self.weight.input_axes
        return {"a": (stack, *rest[:inputs], "rank"), "b": (stack, "rank", *rest[inputs:])}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the two factors."""
        layers, *rest = self.weight.shape
        inputs = self.weight.input_axes
        return {"a": (layers, *rest[:inputs], self.rank), "b": (layers, self.rank, *rest[inputs:])}

    @property
    def inputs(self) -> int:
        """Numbers that the matrix multiplies."""
        return math.prod(self.weight.layer_shape[: self.weight.input_axes])

    @property
    def outputs(self) -> int:
        """Numbers that the matrix gives."""
        return math.prod(self.weight.layer_shape[self.weight.input_axes :])

    @property
    def module(self) -> str:
        """Hugging Face's name of the module that holds the matrix; holds ``{layer}``."""
        return self.weight.hf_name.removesuffix(".weight")

    @property
    def target(self) -> str:
        """The module's name within its layer, such as "self_attn.q_proj"."""
        return _within_layer(self.weight)


def adapter_table(config: ModelConfig, settings: LoraSettings) -> tuple[Adapter, ...]:
    """The adapter of every matrix that ``settings.targets`` means, in the order of the weight table.

    Raises:
      ValueError: a key of the settings is None or out of its range, the expression is none, matches nothing, or
        matches experts or their router.
    """
    rank, targets = settings.rank, settings.targets
    _ = settings.scale  # judges the numbers
    if not isinstance(rank, int):
        raise ValueError(f"lora.rank = {rank}: expected a whole number")
    matrices = [weight for weight in weight_table(config) if weight.stacked and weight.path[-1] == "kernel"]
    plain = [weight for weight in matrices if not _of_experts(weight)]
    matched = plain if targets == ALL_LINEAR else [weight for weight in matrices if _means(targets, weight)]
    wrong = next(filter(_of_experts, matched), None)
    if wrong is not None or not matched:
        what = "no matrix" if wrong is None else f"{_within_layer(wrong)}, and experts and their router have no adapter"
        names = ", ".join(map(_within_layer, plain))
        raise ValueError(f"lora.targets = {targets!r} means {what}: expected {_EXPECTED}, of {names}")
    return tuple(Adapter(weight, rank) for weight in matched)


_EXPECTED = f'"{ALL_LINEAR}", or a regular expression for whole names of the modules of a layer'


def _means(targets: str | None, weight: Weight) -> bool:
    try:
        return re.fullmatch(targets or "", _within_layer(weight)) is not None
    except re.error as error:
        raise ValueError(f"lora.targets = {targets!r}: {error}: expected {_EXPECTED}") from error


def _of_experts(weight: Weight) -> bool:
    return "experts" in weight.axes


def _within_layer(weight: Weight) -> str:
    return weight.hf_name.partition("{layer}.")[2].removesuffix(".weight").replace("{expert}", "0")


def tree(config: ModelConfig, settings: LoraSettings, make: Callable[[Adapter, str], T]) -> dict[str, Any]:
    """An adapter tree whose leaves are ``make(adapter, "a")`` and ``make(adapter, "b")``."""
    root: dict[str, Any] = {}
    for adapter in adapter_table(config, settings):
        node = root
        for key in adapter.path:
            node = node.setdefault(key, {})
        node |= {factor: make(adapter, factor) for factor in ("a", "b")}
    return root


def leaf(tree: Any, adapter: Adapter, factor: str) -> Any:
    """The leaf of an adapter tree that is the factor, "a" or "b"."""
    for key in adapter.path:
        tree = tree[key]
    return tree[factor]


def abstract(config: ModelConfig, settings: LoraSettings) -> Params:
    """The adapter tree as float32 shapes, without memory."""
    return tree(config, settings, lambda adapter, factor: jax.ShapeDtypeStruct(adapter.shapes[factor], jnp.float32))


def shardings(config: ModelConfig, settings: LoraSettings, mesh: Mesh) -> dict[str, Any]:
    """The adapter tree as NamedShardings on the mesh; an axis of a matrix lies as it does in the matrix."""

    def place(adapter: Adapter, factor: str) -> NamedSharding:
        return NamedSharding(mesh, sharding.spec(adapter.axes[factor], adapter.shapes[factor], mesh))

    return tree(config, settings, place)


def count(config: ModelConfig, settings: LoraSettings) -> int:
    """Numbers in the adapter tree."""
    return sum(math.prod(shape) for adapter in adapter_table(config, settings) for shape in adapter.shapes.values())


def init(config: ModelConfig, settings: LoraSettings, key: Array, mesh: Mesh | None = None) -> Params:
    """A new adapter, float32, that changes nothing yet: A ~ U(-1/√in, 1/√in), as of peft, and B = 0.

    Args:
      mesh: that it is laid on, by the rules of `sharding.py`, with the same numbers on any; None: where jit puts it.
    """

    def make() -> Params:
        keys = iter(jax.random.split(key, len(adapter_table(config, settings))))

        def factor(adapter: Adapter, name: str) -> Array:
            if name == "b":
                return jnp.zeros(adapter.shapes[name], jnp.float32)
            bound = adapter.inputs**-0.5
            return jax.random.uniform(next(keys), adapter.shapes[name], jnp.float32, -bound, bound)

        return tree(config, settings, factor)

    return jax.jit(make, out_shardings=None if mesh is None else shardings(config, settings, mesh))()


def check(config: ModelConfig, settings: LoraSettings, adapter: Params) -> None:
    """Compares factors and shapes of an adapter with what its settings say.

    Raises:
      ValueError: they differ.
    """
    found, expected = (jax.tree.map(lambda x: x.shape, of) for of in (adapter, abstract(config, settings)))
    if found != expected:
        raise ValueError(f"the adapter has factors {found}, expected {expected} for {settings}")


def split(params: Params) -> tuple[Params, Params | None]:
    """(the tree of the weights, the adapter or None) of a policy's tree."""
    if KEY not in params:
        return params, None
    adapter, base = split_policy(params)
    return base, adapter


def scaled(settings: LoraSettings, adapter: Params) -> Params:
    """The adapter with s · B in place of B: so its products need no further factor."""
    return jax.tree.map_with_path(lambda path, x: settings.scale * x if path[-1].key == "b" else x, adapter)


def merge(config: ModelConfig, settings: LoraSettings, params: Params) -> Params:
    """The plain tree that computes what the policy's tree does: W + s · A B in float32, then in the dtype of W.

    Raises:
      ValueError: the adapter in it is not that of ``settings``.
    """
    base, adapter = split(params)
    if adapter is None:
        return base
    check(config, settings, adapter)

    def merged(kernel: Array, *factors: Array) -> Array:  # a layer at a time: float32 may be twice the weights
        return jax.lax.map(lambda layer: _merged(settings.scale, kernel.dtype, *layer), (kernel, *factors))

    return base | {"layers": _with_kernels(base["layers"], adapter["layers"], merged)}


def merge_layer(settings: LoraSettings, weights: Params, adapter: Params, dtype: jnp.dtype) -> Params:
    """As :func:`merge`, of one layer: its weights and its factors, both without the leading axis.

    Args:
      dtype: of the merged matrices; of bfloat16 weights, float32 keeps what their own dtype would round away.
    """
    return _with_kernels(weights, adapter, functools.partial(_merged, settings.scale, dtype))


def _with_kernels(weights: Params, adapter: Params, make: Callable[[Array, Array, Array], Array]) -> Params:
    """The weights of layers with make(kernel, A, B) for every kernel that has factors."""
    if "a" in adapter:
        return weights | {"kernel": make(weights["kernel"], adapter["a"], adapter["b"])}
    return weights | {name: _with_kernels(weights[name], below, make) for name, below in adapter.items()}


def _merged(scale: float, dtype: jnp.dtype, kernel: Array, a: Array, b: Array) -> Array:
    product = jnp.tensordot(a, b, 1, precision=jax.lax.Precision.HIGHEST)  # accelerators round float32 by default
    return (kernel.astype(jnp.float32) + scale * product).astype(dtype)
