from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core import masks

MASK = jnp.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]], bool)


def test_the_last_token_of_a_row_is_found_behind_gaps_and_missing_in_an_empty_row():
    want = [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(masks.last_token(MASK), want)


def test_a_mean_over_nothing_is_zero_with_gradient_zero():
    values = jnp.full((4, 4), jnp.nan).at[1].set(jnp.arange(4.0)).at[0].set(2.0).at[3, 3].set(7.0)
    np.testing.assert_array_equal(masks.masked_mean(values, MASK, axis=1), [2.0, 1.5, 0.0, 7.0])
    gradient = jax.grad(lambda x: jnp.sum(masks.masked_mean(x, MASK, axis=1)))(values)
    np.testing.assert_array_equal(gradient, [[0.5, 0, 0.5, 0], [0.25] * 4, [0] * 4, [0, 0, 0, 1]])
    assert masks.masked_mean(values, jnp.zeros_like(MASK)) == 0


def test_integers_booleans_and_half_precision_become_single_floats():
    for dtype in (jnp.int32, jnp.bool_, jnp.bfloat16, jnp.float16, jnp.float32):
        assert masks.as_float(jnp.ones(2, dtype)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert masks.as_float(jnp.ones(2, jnp.float64)).dtype == jnp.float64
        assert masks.as_float(jnp.ones(2, jnp.int64)).dtype == jnp.float64


def test_a_division_by_zero_is_zero_with_gradient_zero():
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(masks.divide(x, jnp.array([0.0, 2.0]))))(jnp.ones(2))
    assert value == 0.5
    np.testing.assert_array_equal(gradient, [0, 0.5])
