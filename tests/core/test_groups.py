from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core import groups

PROMPT_ID = np.array([9, 2, 9, 2_000_000_000, 2, 9, 2, -1])
WHERE = np.array([True, True, True, True, False, True, True, False])
VALUES = np.array([1.0, 5.0, 2.0, 7.0, 100.0, 6.0, 3.0, 50.0], np.float32)


def of_group(row: int) -> np.ndarray:
    return VALUES[(PROMPT_ID[row] == PROMPT_ID) & WHERE]


def test_statistics_of_uneven_groups_in_any_order_are_those_of_each_group_by_itself():
    member = groups.members(jnp.asarray(PROMPT_ID), jnp.asarray(WHERE))
    for row in range(7):
        own = of_group(row)
        assert groups.size(member)[row] == len(own)
        np.testing.assert_allclose(groups.total(jnp.asarray(VALUES), member)[row], own.sum())
        np.testing.assert_allclose(groups.mean(jnp.asarray(VALUES), member)[row], own.mean())
        for ddof in (0, 1):
            want = own.var(ddof=ddof) if len(own) > ddof else 0
            np.testing.assert_allclose(groups.variance(jnp.asarray(VALUES), member, ddof=ddof)[row], want, rtol=1e-6)


def test_a_group_without_a_row_has_mean_and_variance_zero():
    member = groups.members(jnp.asarray(PROMPT_ID), jnp.asarray(WHERE))
    assert groups.size(member)[7] == groups.mean(jnp.asarray(VALUES), member)[7] == 0
    assert groups.variance(jnp.asarray(VALUES), member, ddof=1)[7] == 0


def test_the_mean_of_equal_numbers_is_that_number_to_the_last_bit():
    numbers = np.array([0.1, 0.7, 1e-8, 3.3e5], np.float32)
    for number in numbers:
        for rows in (3, 7, 11):
            member = groups.whole_batch(jnp.ones(rows, bool))
            assert np.all(np.asarray(groups.mean(jnp.full(rows, number), member)) == number)
