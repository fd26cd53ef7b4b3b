"""Mean and variance of all values seen so far, merged batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxrl_llm.core import groups
from jaxrl_llm.core.masks import as_float, divide, keep
from jaxrl_llm.types import Array


class Moments(NamedTuple):
    """What is known of the values so far; scalars.

    Attributes:
      mean: their mean.
      variance: their variance, divided by the count (ddof 0).
      count: how many they are; a fraction of one for a start that soon weighs nothing.
    """

    mean: Array
    variance: Array
    count: Array


def initial(count: float) -> Moments:
    """Mean 0 and variance 1, that weigh as ``count`` values would."""
    number = jnp.asarray(count, jnp.result_type(float))
    return Moments(jnp.zeros_like(number), jnp.ones_like(number), number)


def merge(moments: Moments, values: Array, where: Array) -> Moments:
    """The moments of what was seen before and of the values [B] with ``where``, as if they had come at once.

    With n values of mean μ and variance s, and Δ = μ - mean: mean + Δ n / (count + n), and
    (n s + count · variance + Δ² count n / (count + n)) / (count + n).

    Reference: Chan, Golub and LeVeque, 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances", eq. 2.1.
    """
    values = keep(as_float(values), where)
    everyone = groups.whole_batch(where)[:1]
    number = groups.size(everyone)[0].astype(values.dtype)
    delta = keep(groups.mean(values, everyone)[0] - moments.mean, number > 0)
    total = moments.count + number
    squares = number * groups.variance(values, everyone, ddof=0)[0] + moments.count * moments.variance
    squares = squares + jnp.square(delta) * divide(moments.count * number, total)
    mean = moments.mean + delta * divide(number, total)
    return Moments(mean, divide(squares, total), total)


def std(moments: Moments) -> Array:
    """√(variance · count / (count - 1)), a scalar; √variance where the count is not above 1."""
    above_one = moments.count > 1
    correction = jnp.where(above_one, moments.count / jnp.where(above_one, moments.count - 1, 1), 1)
    return jnp.sqrt(moments.variance * correction)
