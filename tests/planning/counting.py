"""FLOPs of matrix products, counted in a traced program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax


def product_flops(jaxpr: Any, trips: Iterator[int]) -> float:
    """2 · (entries of the result) · (entries that each sums over), of every product, as often as it runs.

    Args:
      trips: of the while loops, in their order.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
            continue
        if equation.primitive.name == "ragged_dot_general":
            total += 2.0 * _ragged_terms(equation)
            continue
        times = 1
        if equation.primitive.name == "while":
            times = next(trips)
        elif equation.primitive.name == "scan":
            times = equation.params["length"]
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                total += times * product_flops(getattr(inner, "jaxpr", inner), trips)
    return total


def _ragged_terms(equation: Any) -> float:
    """Each row of the ragged side meets one group's matrix, whether the groups share the result or cut the sum."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    rows, summed = equation.invars[0].aval.shape, math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    (ragged,) = numbers.lhs_ragged_dimensions
    result = equation.outvars[0].aval
    return rows[ragged] * result.size / result.shape[0] if ragged in contracted else result.size * summed


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
