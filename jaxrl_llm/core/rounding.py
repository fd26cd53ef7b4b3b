"""Rounding at random: numbers of low precision that are right on average."""

from __future__ import annotations

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
