"""The parts of a decoder layer, as Linen modules: norms, grouped-query attention, MLP.

A layer has three entrances: the full sequence (scoring, update), the prompt (which also returns keys and values), and
one decode step over a group-shared prompt cache and each row's own cache. It takes tokens flat, [B · S, D]: the weight
gradient of a product whose input has two leading axes costs a transposed copy of that input on CPU, a third of the rate
of the MLP. Only attention gives them the shape of its rows, that of ``segments`` [B, S]. Where the columns of a row are
split over devices, which one merged axis cannot be along with rows, tokens are [B, S, D] throughout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.attend import attend
from jaxrl_llm.models.attention import by_lanes, soft_cap
from jaxrl_llm.models.experts import Experts
from jaxrl_llm.models.kinds import PLAIN, Kind
from jaxrl_llm.models.projection import Projection
from jaxrl_llm.models.rotary import Angles, rotate
from jaxrl_llm.types import Array, Routing

PROJECTED = "projections of attention"  # the name of their results, for what the backward pass keeps


class RMSNorm(nn.Module):
    """x · scale / √(mean(x²) + ε), the mean in float32 (Zhang and Sennrich, 2019, arXiv 1910.07467).

    Attributes:
      offset: multiply by 1 + scale in place of scale.
    """

    epsilon: float
    offset: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.zeros if self.offset else nn.initializers.ones
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        scale = 1.0 + scale.astype(jnp.float32) if self.offset else scale
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * scale).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean(x)) · scale / √(var(x) + ε) + bias, the moments in float32 (Ba et al., 2016, arXiv 1607.06450)."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        wide -= jnp.mean(wide, axis=-1, keepdims=True)
        wide *= jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * scale + bias).astype(x.dtype)


def norm(config: ModelConfig, name: str | None = None) -> RMSNorm | LayerNorm:
    """The norm that the architecture has everywhere."""
    if config.layer_norm:
        return LayerNorm(config.norm_epsilon, name=name)
    return RMSNorm(config.norm_epsilon, config.norm_offset, name=name)


class Attention(nn.Module):
    config: ModelConfig
    dtype: jnp.dtype

    def setup(self):
        c = self.config

        def heads(*shape: int) -> Projection:
            return Projection((*shape, c.head_size), use_bias=c.qkv_bias, dtype=self.dtype)

        if c.fused_qkv:
            self.qkv = heads(3, c.heads)
        else:
            self.query, self.key, self.value = heads(c.heads), heads(c.kv_heads), heads(c.kv_heads)
        self.output = Projection(c.width, axis=(-2, -1), use_bias=c.output_bias, dtype=self.dtype)
        if c.qk_norm:
            self.query_norm, self.key_norm = norm(c), norm(c)

    def _project(self, x: Array, angles: Angles | None) -> tuple[Array, Array, Array]:
        """Queries [..., K, N / K, H], scaled, and keys and values [..., K, H]."""
        c = self.config
        if c.fused_qkv:
            query, key, value = jnp.moveaxis(checkpoint_name(self.qkv(x), PROJECTED), -3, 0)
        else:
            query, key, value = (checkpoint_name(part(x), PROJECTED) for part in (self.query, self.key, self.value))
        if c.qk_norm:
            query, key = self._normalized(self.query_norm, query), self._normalized(self.key_norm, key)
        if angles is None:
            query = query * c.query_scale
        else:
            query, key = rotate(query, angles) * c.query_scale, rotate(key, angles)
        return query.reshape(*query.shape[:-2], c.kv_heads, c.heads // c.kv_heads, c.head_size), key, value

    def _normalized(self, norm: Callable[[Array], Array], x: Array) -> Array:
        if self.config.qk_norm_joint:
            return norm(x.reshape(*x.shape[:-2], -1)).reshape(x.shape)
        return norm(x)

    def _merge(self, heads: Array) -> Array:
        """The output projection of [..., K, N / K, H]."""
        c = self.config
        merged = self.output(heads.reshape(*heads.shape[:-3], c.heads, c.head_size).astype(self.dtype))
        return checkpoint_name(merged, PROJECTED)

    def __call__(
        self, x: Array, angles: Angles | None, segments: Array, attend: Callable[..., Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        """Attention of tokens x [B · S, D] in rows of ``segments`` [B, S]; also keys and values [B, S, K, H]."""
        query, key, value = (
            part.reshape(*segments.shape, *part.shape[x.ndim - 1 :]) for part in self._project(x, angles)
        )
        heads = attend(query, key, value, segments)
        return self._merge(heads.reshape(*x.shape[:-1], *heads.shape[2:])), (key, value)

    def decode(
        self,
        x: Array,
        angles: Angles | None,
        prompt: tuple[Array, Array],
        cache: tuple[Array, Array],
        prompt_mask: Array,
        column: Array,
        window: int | None = None,
    ) -> tuple[Array, tuple[Array, Array]]:
        """One token a row, x [B, D]: attends to its prompt and to its own columns 0 to ``column``.

        Of a ``window`` only the last columns are seen of its own; the mask of the prompt, bool [P, Q] or of each row
        [B, Q], already says what is seen of that.

        The prompt's keys [P, K, H, Q] and values [P, K, Q, H] are read once for the whole group: rows of a group are
        further rows of the same matrix product. The row's own cache is keys [B, K, H, C] and values [B, K, C, H].
        """
        prompt_keys, prompt_values = prompt
        query, key, value = self._project(x, angles)
        keys = jax.lax.dynamic_update_slice_in_dim(cache[0], key[..., None].astype(cache[0].dtype), column, axis=3)
        values = jax.lax.dynamic_update_slice_in_dim(cache[1], value[:, :, None].astype(cache[1].dtype), column, axis=2)
        prompts, rows, width = prompt_keys.shape[0], x.shape[0], prompt_keys.shape[-1]
        samples, (kv_heads, per_head) = rows // prompts, query.shape[1:3]

        def by_prompt(x: Array) -> Array:
            """Rows [B, K, N / K, ...] as matrices [P, K, G · N / K, ...], of which XLA knows a fast product."""
            x = x.reshape(prompts, samples, *x.shape[1:]).swapaxes(1, 2)
            return x.reshape(prompts, kv_heads, samples * per_head, x.shape[-1])

        def by_row(x: Array) -> Array:
            x = x.reshape(prompts, kv_heads, samples, per_head, x.shape[-1]).swapaxes(1, 2)
            return x.reshape(rows, kv_heads, per_head, x.shape[-1])

        on_prompt = by_row(jnp.matmul(by_prompt(query), prompt_keys, preferred_element_type=jnp.float32))
        on_own = jnp.einsum("bkgh,bkhc->bkgc", query, keys, preferred_element_type=jnp.float32)
        of_prompt = jnp.repeat(prompt_mask, rows // len(prompt_mask), axis=0)
        own = jnp.arange(keys.shape[-1]) <= column
        if window is not None:
            own &= column - jnp.arange(keys.shape[-1]) < window
        mask = jnp.concatenate([of_prompt, jnp.broadcast_to(own, (rows, keys.shape[-1]))], axis=-1)
        scores = jnp.concatenate([on_prompt, on_own], axis=-1)
        scores = soft_cap(scores, self.config.attention_cap)
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
        probabilities = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        heads = by_row(jnp.matmul(by_prompt(probabilities[..., :width]), prompt_values))
        heads = heads + jnp.einsum("bkgc,bkch->bkgh", probabilities[..., width:], values)
        return self._merge(heads), (keys, values)


class MLP(nn.Module):
    """down(act(gate(x)) · up(x)) (Shazeer, 2020, arXiv 2002.05202), or down(act(up(x))) without a gate."""

    config: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def dense(width: int, name: str) -> Projection:
            return Projection(width, use_bias=self.config.mlp_bias, dtype=self.dtype, name=name)

        activation = nn.silu if self.config.activation == "silu" else nn.gelu  # gelu: of the tanh
        if self.config.gated:
            hidden = activation(dense(self.config.mlp_width, "gate")(x)) * dense(self.config.mlp_width, "up")(x)
        else:
            hidden = activation(dense(self.config.mlp_width, "up")(x))
        return dense(self.config.width, "down")(hidden)


def _span(positions: Array | None, kind: Kind) -> tuple[Array, Array] | None:
    """As ``by_lanes`` takes it."""
    if kind.window is None or positions is None:
        return None
    return positions, positions - kind.window + 1


def _own(angles: Angles | None, kind: Kind) -> Angles | None:
    if angles is None or kind.rope is None:
        return angles
    return angles[0][kind.rope], angles[1][kind.rope]


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); norms also, or only, after attention and MLP where configured.

    A layer that is not like all others is told of its :class:`~jaxrl_llm.models.kinds.Kind`.

    Attributes:
      attention_choice: of the full sequence, see :func:`jaxrl_llm.models.attend.implementation`.
      prompt, lanes, segments_per_lane: of its rows, see ``apply`` of :class:`jaxrl_llm.types.Model`.
    """

    config: ModelConfig
    dtype: jnp.dtype
    attention_choice: str = "xla"
    prompt: int = 0
    lanes: int = 1
    segments_per_lane: int = 1

    def setup(self):
        self.attention = Attention(self.config, self.dtype)
        self.mlp = (Experts if self.config.experts else MLP)(self.config, self.dtype)
        if self.config.norms != "after":
            self.attention_norm, self.mlp_norm = norm(self.config), norm(self.config)
        if self.config.norms != "before":
            self.post_attention_norm, self.post_mlp_norm = norm(self.config), norm(self.config)

    def _before(self, x: Array) -> Array:
        return x if self.config.norms == "after" else self.attention_norm(x)

    def _mlp(self, x: Array, counted: Array | None) -> tuple[Array, Routing | None]:
        return self.mlp(x, counted) if isinstance(self.mlp, Experts) else (self.mlp(x), None)

    def _rest(self, x: Array, attended: Array, counted: Array | None = None) -> tuple[Array, Routing | None]:
        if self.config.norms == "before":
            x = x + attended
            change, routing = self._mlp(self.mlp_norm(x), counted)
            return x + change, routing
        x = x + self.post_attention_norm(attended)
        change, routing = self._mlp(x if self.config.norms == "after" else self.mlp_norm(x), counted)
        return x + self.post_mlp_norm(change), routing

    def __call__(
        self,
        x: Array,
        angles: Angles | None,
        segments: Array,
        positions: Array | None = None,
        kind: Kind = PLAIN,
        counted: Array | None = None,
    ) -> tuple[Array, Routing | None]:
        """Also where the router sends the tokens that count, where ``counted`` says which."""
        over_rows = functools.partial(
            attend,
            prompt=self.prompt,
            lanes=self.lanes,
            segments_per_lane=self.segments_per_lane,
            choice=self.attention_choice,
            cap=self.config.attention_cap,
            span=_span(positions, kind),
        )
        attended, _ = self.attention(self._before(x), _own(angles, kind), segments, over_rows)
        return self._rest(x, attended, counted)

    def prefill(
        self, x: Array, angles: Angles | None, segments: Array, positions: Array | None = None, kind: Kind = PLAIN
    ) -> tuple[Array, tuple[Array, Array]]:
        """Also the cache of this layer: keys [B, K, H, S] and values [B, K, S, H]."""
        over_rows = functools.partial(by_lanes, cap=self.config.attention_cap, span=_span(positions, kind))
        attended, (key, value) = self.attention(self._before(x), _own(angles, kind), segments, over_rows)
        return self._rest(x, attended)[0], (key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))

    def decode(
        self, x: Array, angles: Angles | None, *attention_arguments: Any, kind: Kind = PLAIN
    ) -> tuple[Array, tuple[Array, Array]]:
        angles = _own(angles, kind)
        attended, cache = self.attention.decode(self._before(x), angles, *attention_arguments, window=kind.window)
        return self._rest(x, attended)[0], cache
