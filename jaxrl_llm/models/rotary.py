"""Rotary positions (Su et al., 2021, arXiv 2104.09864), and the scalings of their frequencies for longer contexts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from jaxrl_llm.models.architecture import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    ModelConfig,
    YarnRopeScaling,
)
from jaxrl_llm.types import Array

Angles = tuple[Array, Array]  # cos and sin


def rotary_frequencies(config: ModelConfig, theta: float | None = None) -> Array:
    """Angles per position, float32 [H / 2]: θ^(-2i/H), scaled as configured; of ``theta``, if given, unscaled.

    Of the scaling `dynamic` these are the frequencies of the first ``max_positions`` positions.
    """
    half = config.head_size // 2
    frequencies = 1.0 / (config.rope_theta if theta is None else theta) ** (jnp.arange(half, dtype=jnp.float32) / half)
    scaling = config.rope_scaling if theta is None else None
    if isinstance(scaling, LinearRopeScaling):
        return frequencies / scaling.factor
    if isinstance(scaling, YarnRopeScaling):
        return _yarn_frequencies(frequencies, config.rope_theta, scaling)
    if isinstance(scaling, Llama3RopeScaling):
        return _llama3_frequencies(frequencies, scaling)
    return frequencies


def _llama3_frequencies(frequencies: Array, scaling: Llama3RopeScaling) -> Array:
    """Wavelengths beyond the original context are stretched by `factor`, short ones kept, those between blended."""
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)  # full turns within the original context
    blend = (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor)
    blend = jnp.clip(blend, 0.0, 1.0)
    return frequencies * (blend + (1.0 - blend) / scaling.factor)


def _yarn_frequencies(frequencies: Array, theta: float, scaling: YarnRopeScaling) -> Array:
    """Blended linearly in the number of the frequency, between those of ``beta_fast`` and of ``beta_slow`` turns.

    Reference: Peng et al., 2023, arXiv 2309.00071, section 3.2, with the bounds as transformers computes them.
    """
    half = len(frequencies)

    def number(turns: float) -> float:
        """Of the frequency with so many turns within the original context."""
        return half * math.log(scaling.original_max_positions / (turns * 2 * math.pi)) / math.log(theta)

    low, high = number(scaling.beta_fast), number(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    if low == high:
        high += 0.001
    divided = jnp.clip((jnp.arange(half, dtype=jnp.float32) - low) / (high - low), 0.0, 1.0)
    return frequencies * (divided / scaling.factor + 1.0 - divided)


def _dynamic_frequencies(config: ModelConfig, scaling: DynamicRopeScaling, positions: Array) -> Array:
    """float32 [..., H / 2]: θ · (factor · n / max_positions - factor + 1)^(H / (H - 2)) is the base of a length n.

    The length that a token follows is its own: its position + 1, or ``max_positions`` if that is more. So it is in
    transformers where it decodes with a cache. There a forward pass over a longer sequence, or over a batch that has
    one, follows the longest position of them all, with which a token would be another one in another batch.
    """
    size = config.head_size
    length = jnp.maximum(positions + 1, config.max_positions).astype(jnp.float32)
    growth = scaling.factor * length / config.max_positions - (scaling.factor - 1)
    base = config.rope_theta * growth ** (size / (size - 2))
    return 1.0 / base[..., None] ** (jnp.arange(size // 2, dtype=jnp.float32) / (size // 2))


def rotary_angles(config: ModelConfig, positions: Array) -> Angles | None:
    """cos and sin, float32 [..., H / 2], for integer positions [...]; None where positions are learned.

    Of layers that are not alike, an axis in front has one entry for each of ``config.ropes``.
    """
    if config.learned_positions:
        return None
    angles_of = functools.partial(_angles, config)
    return jax.lax.platform_dependent(positions, cpu=functools.partial(_apart, angles_of), default=angles_of)


def _apart(run: Callable[..., Any], *args: Any) -> Any:
    """``run(*args)`` as a function of its own in the program.

    XLA fuses angles into what reads them on CPU, and every head of every unrolled layer computes the cosines of its
    tokens anew: 10 of the 58 ms of w1's attention in a forward pass. An optimization barrier is gone before it fuses.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(run)(*args)


def _angles(config: ModelConfig, positions: Array) -> Angles:
    turned = positions[..., None].astype(jnp.float32)
    kinds = []
    for rope in config.ropes:
        scaling, length = config.rope_scaling, 1.0  # of the vector (cos, sin)
        if rope == "none":
            angles = jnp.zeros((*positions.shape, config.head_size // 2), jnp.float32)
        elif rope == "local":
            angles = turned * rotary_frequencies(config, config.local_rope_theta)
        elif isinstance(scaling, DynamicRopeScaling):
            angles = turned * _dynamic_frequencies(config, scaling, positions)
        else:
            angles = turned * rotary_frequencies(config)
            length = scaling.attention_factor if isinstance(scaling, YarnRopeScaling) else 1.0
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        kinds.append((cos, sin) if length == 1.0 else (length * cos, length * sin))
    if len(kinds) == 1:
        return kinds[0]
    cos, sin = zip(*kinds, strict=True)
    return jnp.stack(cos), jnp.stack(sin)


def rotate(x: Array, angles: Angles) -> Array:
    """Rotary embedding of x [..., heads, H]: the two halves of a head are the two coordinates."""
    cos, sin = (a[..., None, :] for a in angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
