"""The parts of a decoder layer, as Linen modules: RMS norm, rotary embedding, grouped-query attention, gated MLP.

A layer has three entrances: the full sequence (scoring, update), the prompt (which also returns keys and values), and
one decode step over a group-shared prompt cache and each row's own cache. It takes tokens flat, [B · S, D]: the weight
gradient of a product whose input has two leading axes costs a transposed copy of that input on CPU, a third of the rate
of the MLP. Only attention gives them the shape of its rows, that of ``segments`` [B, S]. Where the columns of a row are
split over devices, which one merged axis cannot be along with rows, tokens are [B, S, D] throughout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxrl_llm.models.attend import attend
from jaxrl_llm.models.attention import by_lanes
from jaxrl_llm.models.config import Llama3RopeScaling, ModelConfig
from jaxrl_llm.types import Array

PROJECTED = "projections of attention"  # the name of their results, for what the backward pass keeps
KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class RMSNorm(nn.Module):
    """x · scale / √(mean(x²) + ε), the mean in float32 (Zhang and Sennrich, 2019, arXiv 1910.07467)."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * scale).astype(x.dtype)


def rotary_frequencies(config: ModelConfig) -> Array:
    """Angles per position, float32 [H / 2]: θ^(-2i/H), with Llama 3's scaling of low frequencies where configured."""
    half = config.head_size // 2
    frequencies = 1.0 / config.rope_theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    if config.rope_scaling is None:
        return frequencies
    return _llama3_frequencies(frequencies, config.rope_scaling)


def _llama3_frequencies(frequencies: Array, scaling: Llama3RopeScaling) -> Array:
    """Wavelengths beyond the original context are stretched by `factor`, short ones kept, those between blended."""
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)  # full turns within the original context
    blend = (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor)
    blend = jnp.clip(blend, 0.0, 1.0)
    return frequencies * (blend + (1.0 - blend) / scaling.factor)


def rotary_angles(config: ModelConfig, positions: Array) -> tuple[Array, Array]:
    """cos and sin, float32 [..., H / 2], for integer positions [...]."""
    angles = positions[..., None].astype(jnp.float32) * rotary_frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, angles: tuple[Array, Array]) -> Array:
    """Rotary embedding of x [..., heads, H]: the two halves of a head are the two coordinates (Su et al., 2021)."""
    cos, sin = (a[..., None, :] for a in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    config: ModelConfig
    dtype: jnp.dtype

    def setup(self):
        c = self.config

        def heads(count: int) -> nn.DenseGeneral:
            return nn.DenseGeneral((count, c.head_size), use_bias=c.qkv_bias, dtype=self.dtype, kernel_init=KERNEL_INIT)

        self.query, self.key, self.value = heads(c.heads), heads(c.kv_heads), heads(c.kv_heads)
        self.output = nn.DenseGeneral(c.width, axis=(-2, -1), use_bias=False, dtype=self.dtype, kernel_init=KERNEL_INIT)
        if c.qk_norm:
            self.query_norm, self.key_norm = RMSNorm(c.norm_epsilon), RMSNorm(c.norm_epsilon)

    def _project(self, x: Array, angles: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        """Queries [..., K, N / K, H], scaled by 1/√H, and keys and values [..., K, H]."""
        c = self.config
        query, key, value = (checkpoint_name(part(x), PROJECTED) for part in (self.query, self.key, self.value))
        if c.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = rotate(query, angles) * c.head_size**-0.5, rotate(key, angles)
        return query.reshape(*query.shape[:-2], c.kv_heads, c.heads // c.kv_heads, c.head_size), key, value

    def _merge(self, heads: Array) -> Array:
        """The output projection of [..., K, N / K, H]."""
        c = self.config
        merged = self.output(heads.reshape(*heads.shape[:-3], c.heads, c.head_size).astype(self.dtype))
        return checkpoint_name(merged, PROJECTED)

    def __call__(
        self, x: Array, angles: tuple[Array, Array], segments: Array, attend: Callable[..., Array]
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
        angles: tuple[Array, Array],
        prompt: tuple[Array, Array],
        cache: tuple[Array, Array],
        prompt_mask: Array,
        column: Array,
    ) -> tuple[Array, tuple[Array, Array]]:
        """One token a row, x [B, D]: attends to its prompt and to its own columns 0 to ``column``.

        The prompt's keys [P, K, H, Q] and values [P, K, Q, H] are read once for the whole group: rows of a group are
        further rows of the same matrix product. The row's own cache is keys [B, K, H, C] and values [B, K, C, H].
        """
        prompt_keys, prompt_values = prompt
        query, key, value = self._project(x, angles)
        keys = jax.lax.dynamic_update_slice_in_dim(cache[0], key[..., None].astype(cache[0].dtype), column, axis=3)
        values = jax.lax.dynamic_update_slice_in_dim(cache[1], value[:, :, None].astype(cache[1].dtype), column, axis=2)
        prompts, rows, width = prompt_keys.shape[0], x.shape[0], prompt_keys.shape[-1]
        grouped = query.reshape(prompts, rows // prompts, *query.shape[1:])
        on_prompt = jnp.einsum("prkgh,pkhq->prkgq", grouped, prompt_keys, preferred_element_type=jnp.float32)
        on_own = jnp.einsum("bkgh,bkhc->bkgc", query, keys, preferred_element_type=jnp.float32)
        mask = jnp.concatenate(
            [
                jnp.repeat(prompt_mask, rows // prompts, axis=0),
                jnp.broadcast_to(jnp.arange(keys.shape[-1]) <= column, (rows, keys.shape[-1])),
            ],
            axis=-1,
        )
        scores = jnp.concatenate([on_prompt.reshape(*on_own.shape[:-1], width), on_own], axis=-1)
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
        probabilities = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        to_prompt = probabilities[..., :width].reshape(*on_prompt.shape)
        heads = jnp.einsum("prkgq,pkqh->prkgh", to_prompt, prompt_values).reshape(query.shape)
        heads = heads + jnp.einsum("bkgc,bkch->bkgh", probabilities[..., width:], values)
        return self._merge(heads), (keys, values)


class MLP(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer, 2020, arXiv 2002.05202)."""

    config: ModelConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, use_bias=False, dtype=self.dtype, kernel_init=KERNEL_INIT, name=name)

        hidden = nn.silu(dense(self.config.mlp_width, "gate")(x)) * dense(self.config.mlp_width, "up")(x)
        return dense(self.config.width, "down")(hidden)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

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
        self.attention_norm = RMSNorm(self.config.norm_epsilon)
        self.attention = Attention(self.config, self.dtype)
        self.mlp_norm = RMSNorm(self.config.norm_epsilon)
        self.mlp = MLP(self.config, self.dtype)

    def _rest(self, x: Array, attended: Array) -> Array:
        x = x + attended
        return x + self.mlp(self.mlp_norm(x))

    def __call__(self, x: Array, angles: tuple[Array, Array], segments: Array) -> tuple[Array, None]:
        over_rows = functools.partial(
            attend,
            prompt=self.prompt,
            lanes=self.lanes,
            segments_per_lane=self.segments_per_lane,
            choice=self.attention_choice,
        )
        attended, _ = self.attention(self.attention_norm(x), angles, segments, over_rows)
        return self._rest(x, attended), None

    def prefill(self, x: Array, angles: tuple[Array, Array], segments: Array) -> tuple[Array, tuple[Array, Array]]:
        """Also the cache of this layer: keys [B, K, H, S] and values [B, K, S, H]."""
        attended, (key, value) = self.attention(self.attention_norm(x), angles, segments, by_lanes)
        return self._rest(x, attended), (key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))

    def decode(self, x: Array, *attention_arguments) -> tuple[Array, tuple[Array, Array]]:
        attended, cache = self.attention.decode(self.attention_norm(x), *attention_arguments)
        return self._rest(x, attended), cache
