"""A mixture of experts: a router chooses some of the MLPs for each token, computed as grouped matrix products."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.types import Array

_EXPERTS_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=(0,))


class Kernel(nn.Module):
    """A matrix, or one for each expert, as a module so that its path ends with `kernel`."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", _EXPERTS_INIT, self.shape, jnp.float32)


class Experts(nn.Module):
    """Σₑ p(e) · down_e(silu(gate_e(x)) · up_e(x)) over the experts that the router finds likeliest.

    Tokens are sorted by expert, so that each of them multiplies the rows of one group (`jax.lax.ragged_dot`); none is
    dropped, whatever the balance. The router's softmax, and the sum over experts, are float32.

    Reference: Shazeer et al., 2017, arXiv 1701.06538; Qwen3, 2025, arXiv 2505.09388.
    """

    config: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        tokens = x.reshape(-1, c.width)
        router = Kernel((c.width, c.experts), name="router")().astype(self.dtype)
        share, chosen = choose(c, tokens @ router)
        # Of each choice: its place behind all choices of lower experts, and the token that made it.
        order = jnp.argsort(chosen.ravel(), stable=True)
        rows, sizes = tokens[order // c.experts_per_token], jnp.bincount(chosen.ravel(), length=c.experts)

        def grouped(rows: Array, inputs: int, outputs: int, name: str) -> Array:
            kernel = Kernel((c.experts, inputs, outputs), name=name)().astype(self.dtype)
            return jax.lax.ragged_dot(rows, kernel, sizes.astype(jnp.int32))

        hidden = nn.silu(grouped(rows, c.width, c.mlp_width, "gate")) * grouped(rows, c.width, c.mlp_width, "up")
        out = grouped(hidden, c.mlp_width, c.width, "down")
        out = out[jnp.argsort(order)].reshape(*chosen.shape, c.width)
        return jnp.einsum("tkd,tk->td", out.astype(jnp.float32), share).astype(x.dtype).reshape(x.shape)


def choose(config: ModelConfig, logits: Array) -> tuple[Array, Array]:
    """Shares float32 and numbers int32 [T, k] of the likeliest experts, by the router's logits [T, E]."""
    share, chosen = jax.lax.top_k(jax.nn.softmax(logits.astype(jnp.float32)), config.experts_per_token)
    if config.renormalized_router:
        share = share / share.sum(axis=-1, keepdims=True)
    return share, chosen


def load_balancing_loss(logits: Array, chosen: int, mask: Array) -> Array:
    """E · Σₑ fₑ · Pₑ: how often an expert is chosen, times its mean probability; ``chosen`` if the router is balanced.

    Both are means over the counted tokens of all layers.

    Args:
      logits: of the router, [L, T, E].
      chosen: experts a token.
      mask: bool [T], tokens that count.

    Reference: Fedus et al., 2021, arXiv 2101.03961, equations 4 to 6, with several choices a token.
    """
    experts = logits.shape[-1]
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    hits = jax.nn.one_hot(jax.lax.top_k(probabilities, chosen)[1], experts).sum(axis=-2)  # [L, T, E]
    counted = mask.astype(jnp.float32)
    tokens = logits.shape[0] * jnp.maximum(counted.sum(), 1)
    often, likely = (jnp.einsum("lte,t->e", x, counted) / tokens for x in (hits, probabilities))
    return experts * jnp.sum(often * likely)
