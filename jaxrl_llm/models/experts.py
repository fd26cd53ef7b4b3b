"""A mixture of experts: a router chooses some of the MLPs for each token, computed as grouped matrix products."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.types import Array, Routing

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
    def __call__(self, x: Array, counted: Array | None = None) -> tuple[Array, Routing | None]:
        """The sum for x [..., D]; also where the router sends the tokens that count, where ``counted`` says which."""
        c = self.config
        tokens = x.reshape(-1, c.width)
        router = Kernel((c.width, c.experts), name="router")().astype(self.dtype)
        logits = tokens @ router
        share, chosen = choose(c, logits)
        routing = None if counted is None else route(c, logits, chosen, counted.ravel())
        # Of each choice: its place behind all choices of lower experts, and the token that made it.
        order = jnp.argsort(chosen.ravel(), stable=True)
        rows, sizes = tokens[order // c.experts_per_token], jnp.bincount(chosen.ravel(), length=c.experts)

        def grouped(rows: Array, inputs: int, outputs: int, name: str) -> Array:
            kernel = Kernel((c.experts, inputs, outputs), name=name)().astype(self.dtype)
            return jax.lax.ragged_dot(rows, kernel, sizes.astype(jnp.int32))

        hidden = nn.silu(grouped(rows, c.width, c.mlp_width, "gate")) * grouped(rows, c.width, c.mlp_width, "up")
        out = grouped(hidden, c.mlp_width, c.width, "down")
        out = out[jnp.argsort(order)].reshape(*chosen.shape, c.width)
        total = jnp.einsum("tkd,tk->td", out.astype(jnp.float32), share).astype(x.dtype)
        return total.reshape(x.shape), routing


def choose(config: ModelConfig, logits: Array) -> tuple[Array, Array]:
    """Shares float32 and numbers int32 [T, k] of the likeliest experts, by the router's logits [T, E]."""
    share, chosen = jax.lax.top_k(jax.nn.softmax(logits.astype(jnp.float32)), config.experts_per_token)
    if config.renormalized_router:
        share = share / share.sum(axis=-1, keepdims=True)
    return share, chosen


def route(config: ModelConfig, logits: Array, chosen: Array, counted: Array) -> Routing:
    """Of one layer: chosen and likely [E], tokens [].

    Args:
      logits: of the router, [T, E].
      chosen: numbers of the chosen experts, [T, k].
      counted: int32 [T], as how many tokens a column counts.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    hits = (chosen[..., None] == jnp.arange(config.experts)).sum(axis=1)  # [T, E]
    often = jnp.sum(hits * counted[:, None], axis=0)
    likely = jnp.sum(probabilities * counted[:, None], axis=0)
    return Routing(often, likely, jnp.sum(counted))


def load_balancing_loss(step: Routing, likely: Array) -> Array:
    """E · Σₑ fₑ · Pₑ: how often an expert is chosen, times its mean probability; k if the router is balanced.

    Both are means over the tokens that count, of all layers together. Parts of a step add up to its loss.

    Args:
      step: of all tokens of an optimizer step; f comes from here.
      likely: [L, E], of the tokens of a part of the step; P comes from here, and the gradient.

    Reference: Fedus et al., 2021, arXiv 2101.03961, equations 4 to 6, with several choices a token.
    """
    tokens = jnp.maximum(step.tokens.sum(), 1)
    return likely.shape[-1] * jnp.sum(step.chosen.sum(axis=0) / tokens * (likely.sum(axis=0) / tokens))


def busiest_load(step: Routing) -> Array:
    """How often the busiest expert of any layer is chosen, over its fair share k / E: from 1, balanced, to E / k."""
    of_layer = jnp.maximum(step.chosen.sum(axis=1, keepdims=True), 1)
    return jnp.max(step.chosen / of_layer) * step.chosen.shape[-1]
