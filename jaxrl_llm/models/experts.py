"""A mixture of experts: a router chooses some of the MLPs for each token, computed as grouped matrix products."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.sharding import ROW_AXES, row_devices, sample_axes, spec
from jaxrl_llm.types import Array, Routing

GROUPED = "grouped products of experts"  # the name of their results, for what the backward pass keeps
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

        def kernel(name: str, *shape: int) -> Array:
            return Kernel(shape, name=name)().astype(self.dtype)

        logits = x @ kernel("router", c.width, c.experts)
        share, chosen = choose(c, logits)
        routing = None if counted is None else route(c, logits, chosen, counted.reshape(logits.shape[:-1]))
        inputs = kernel("gate", c.experts, c.width, c.mlp_width), kernel("up", c.experts, c.width, c.mlp_width)
        kernels = *inputs, kernel("down", c.experts, c.mlp_width, c.width)
        return _on_own_tokens(x, chosen, share, *kernels), routing


def _on_own_tokens(x: Array, chosen: Array, share: Array, gate: Array, up: Array, down: Array) -> Array:
    """:func:`mixture` on a mesh: each device sorts its own tokens, and has its own part of the width of all experts.

    Left to XLA, every device gathers and multiplies the tokens of all. The parts of the width are summed along
    `tensor` once a token, not once a choice.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return mixture(x, chosen, share, gate, up, down)
    if x.ndim == 3:
        tokens = PartitionSpec(ROW_AXES if len(x) % row_devices(mesh) == 0 else None, "sequence")
    else:  # tokens of a rollout, or whole rows, which `sequence` does not split
        tokens = PartitionSpec(sample_axes(len(x), 1, mesh.shape))
    inputs = spec(("experts", "embed", "mlp"), gate.shape, mesh, whole=("fsdp",))
    outputs = spec(("experts", "mlp", "embed"), down.shape, mesh, whole=("fsdp",))

    def on_own(x: Array, chosen: Array, share: Array, *kernels: Array) -> Array:
        if "tensor" not in outputs:
            return mixture(x, chosen, share, *kernels)
        # Said here, so that their gradients are summed once a token too.
        x, share = (jax.lax.pcast(part, "tensor", to="varying") for part in (x, share))
        return jax.lax.psum(mixture(x, chosen, share, *kernels), "tensor")

    specs = tokens, tokens, tokens, inputs, inputs, outputs
    return jax.shard_map(on_own, mesh=mesh, in_specs=specs, out_specs=tokens)(x, chosen, share, gate, up, down)


def mixture(x: Array, chosen: Array, share: Array, gate: Array, up: Array, down: Array) -> Array:
    """The sum of the chosen experts' outputs.

    Args:
      x: [..., D].
      chosen: numbers of the experts of a token, int32 [..., k].
      share: of each of them in the sum, float32 [..., k].
      gate, up, down: [E, D, F] twice, [E, F, D].
    """
    choices = chosen.reshape(-1, chosen.shape[-1])
    # Of each choice: its place behind all choices of lower experts, and the token that made it.
    order = jnp.argsort(choices.ravel(), stable=True)
    rows = x.reshape(-1, x.shape[-1])[order // choices.shape[-1]]
    sizes = jnp.bincount(choices.ravel(), length=len(gate)).astype(jnp.int32)

    def grouped(rows: Array, kernel: Array) -> Array:
        return checkpoint_name(jax.lax.ragged_dot(rows, kernel, sizes), GROUPED)

    # The shares go in before the last product, whose result, the largest of all, the backward pass then does not read.
    hidden = nn.silu(grouped(rows, gate)) * grouped(rows, up) * share.reshape(-1, 1)[order]
    out = grouped(hidden.astype(x.dtype), down)[jnp.argsort(order)].reshape(*choices.shape, -1)
    return jnp.sum(out.astype(jnp.float32), axis=1).astype(x.dtype).reshape(x.shape)


def choose(config: ModelConfig, logits: Array) -> tuple[Array, Array]:
    """Shares float32 and numbers int32 [..., k] of the likeliest experts, by the router's logits [..., E]."""
    share, chosen = jax.lax.top_k(jax.nn.softmax(logits.astype(jnp.float32)), config.experts_per_token)
    if config.renormalized_router:
        share = share / share.sum(axis=-1, keepdims=True)
    return share, chosen


def route(config: ModelConfig, logits: Array, chosen: Array, counted: Array) -> Routing:
    """Of one layer: chosen and likely [E], tokens [].

    Args:
      logits: of the router, [..., E].
      chosen: numbers of the chosen experts, [..., k].
      counted: int32 [...], as how many tokens a column counts.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    hits = (chosen[..., None] == jnp.arange(config.experts)).sum(axis=-2)  # [..., E]
    of_tokens = tuple(range(counted.ndim))
    often, likely = (jnp.sum(x * counted[..., None], axis=of_tokens) for x in (hits, probabilities))
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
