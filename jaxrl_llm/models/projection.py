"""The matrix product of a decoder layer, with the low-rank one of an adapter beside it."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxrl_llm.models.lora import KEY
from jaxrl_llm.types import Array

KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Projection(nn.DenseGeneral):
    """x W + bias, and + (x A) B where the collection "lora" holds factors A and B for it (B with its scale).

    The two thin products cost R · (in + out) a token, and the weights W + A B exist nowhere: a gradient with respect to
    the factors alone computes none of W.
    """

    kernel_init: nn.initializers.Initializer = KERNEL_INIT

    def __call__(self, inputs: Array) -> Array:
        projected = super().__call__(inputs)
        if not self.has_variable(KEY, "a"):
            return projected
        a, b = (self.get_variable(KEY, factor).astype(projected.dtype) for factor in ("a", "b"))
        axes = 1 if isinstance(self.axis, int) else len(self.axis)
        return projected + jnp.tensordot(jnp.tensordot(inputs.astype(projected.dtype), a, axes), b, 1)
