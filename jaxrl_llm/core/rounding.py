"""Rounding at random: numbers of low precision that are right on average."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxrl_llm.types import Array

# Of a float32's pattern. A bfloat16 is its upper half: sign, exponent and the first bits of the fraction.
_LOW_BITS = 16
_LOW = 0x0000FFFF
_SIGN = 0x80000000
_INFINITY = 0x7F800000
_LARGEST = 0x7F7FFFFF  # the largest bfloat16 and all that is above it
_QUIET = 0x00400000  # the bit of a nan that its upper half must keep, or it were an infinity
_GAMMA = 0x9E3779B9  # 2³² over the golden ratio


def stochastic_round(x: Array, bits: Array) -> Array:
    """One of the two bfloat16 numbers a ≤ |x| ≤ b next to each number, with the sign of x: E[round(x)] = x.

    P(b) = (|x| - a) / (b - a), which is the share of x's low 16 bits in 2¹⁶: they are added to 16 random bits, and the
    carry decides. A number that a bfloat16 can hold stays as it is, and so do infinities and nan. A finite number stays
    finite: beyond the largest bfloat16 it becomes that one.

    Args:
      x: float32.
      bits: uint32 of x's shape; the low 16 bits decide and must be uniform, the high ones are not read.

    Returns:
      bfloat16.

    Reference:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, 2015, arXiv 1502.02551, section 3.2.
    """
    pattern = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    # Integers throughout: arithmetic on floats would flush the smallest ones to 0.
    size = pattern & ~jnp.uint32(_SIGN)
    carried = jnp.minimum(size + (bits & _LOW), _LARGEST)  # the carry moves into the exponent where it must
    special = jnp.where(size > _INFINITY, size | _QUIET, size)
    rounded = jnp.where(size < _INFINITY, carried, special) | (pattern & jnp.uint32(_SIGN))
    return jax.lax.bitcast_convert_type((rounded >> _LOW_BITS).astype(jnp.uint16), jnp.bfloat16)


def cheap_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """Random bits for rounding: h(k₂ ⊕ h(k₁ + γ i)) of the place i of a number, with h the finalizer of MurmurHash3.

    On a CPU they cost half of what Adam itself takes for a parameter; those of `jax.random.bits` cost three times it.
    The number at a place depends on key and place alone, so every sharding gives the same bits.

    Args:
      key: of `jax.random`; k₁ and k₂ are drawn from it.
      shape: of the result; beyond 2³² numbers they repeat.

    Returns:
      uint32.

    Reference:
      Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators", OOPSLA, section 3: a counter times
      the odd γ, and this finalizer.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    place = jnp.full(shape, first)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) * _GAMMA % 2**32)
        place = place + stride * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return _mixed(_mixed(place) ^ second)


def _mixed(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
