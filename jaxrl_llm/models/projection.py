"""The matrix product of a decoder layer, with the low-rank one of an adapter beside it."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl_llm.models.lora import KEY
from jaxrl_llm.types import Array

TRANSPOSED = "transposed"  # a parameter in place of "kernel": the matrix, [outputs, inputs]
KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def _matrix_product(x: Array, kernel: Array, dimensions: Any, **precision: Any) -> Array:
    """The product of ``nn.DenseGeneral``, the last axes of x by the first of the kernel, as one of matrices.

    On CPU the gradient by a kernel of several output axes, those of heads say, costs a transposed copy of that by the
    output, which takes longer than the product. On several devices axes stay apart: one of them may be split, and a
    remat policy knows the gathered kernel as it is.
    """
    if jax.sharding.get_abstract_mesh().size > 1:
        return jax.lax.dot_general(x, kernel, dimensions, **precision)
    inputs = len(dimensions[0][0])
    flat = x.reshape(*x.shape[:-inputs], -1)
    matrix = kernel.reshape(math.prod(kernel.shape[:inputs]), -1)
    product = jax.lax.dot_general(flat, matrix, (((flat.ndim - 1,), (0,)), ((), ())), **precision)
    return product.reshape(*product.shape[:-1], *kernel.shape[inputs:])


def transposed_product(x: Array, matrix: Array) -> Array:
    """x Wᵀ, [..., outputs], of a matrix W [outputs, inputs], the sum in float32.

    Computed as W xᵀ. For few rows XLA's product on CPU reads its first operand from memory half again as fast as its
    second; without the barrier XLA would put x first.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(matrix, rows, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(product).T.reshape(*x.shape[:-1], -1)


class Projection(nn.DenseGeneral):
    """x W + bias, and + (x A) B where the collection "lora" holds factors A and B for it (B with its scale).

    The two thin products cost R · (in + out) a token, and the weights W + A B exist nowhere: a gradient with respect to
    the factors alone computes none of W.
    """

    kernel_init: nn.initializers.Initializer = KERNEL_INIT
    dot_general: Any = _matrix_product

    def __call__(self, inputs: Array) -> Array:
        projected = self._transposed(inputs) if self.has_variable("params", TRANSPOSED) else super().__call__(inputs)
        if not self.has_variable(KEY, "a"):
            return projected
        a, b = (self.get_variable(KEY, factor).astype(projected.dtype) for factor in ("a", "b"))
        axes = 1 if isinstance(self.axis, int) else len(self.axis)
        return projected + jnp.tensordot(jnp.tensordot(inputs.astype(projected.dtype), a, axes), b, 1)

    def _transposed(self, inputs: Array) -> Array:
        axes = 1 if isinstance(self.axis, int) else len(self.axis)
        flat = inputs.reshape(*inputs.shape[:-axes], -1)
        projected = transposed_product(flat, self.get_variable("params", TRANSPOSED)).astype(flat.dtype)
        features = (self.features,) if isinstance(self.features, int) else self.features
        projected = projected.reshape(*flat.shape[:-1], *features)
        return projected + self.get_variable("params", "bias") if self.use_bias else projected
