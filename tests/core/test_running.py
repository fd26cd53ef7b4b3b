from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core import running

BATCHES = [5 + 2 * np.random.default_rng(seed).normal(size=6).astype(np.float32) for seed in range(4)]
EVERYONE = jnp.ones(6, bool)


def after(batches: list[np.ndarray], start: float = 0.0) -> running.Moments:
    moments = running.initial(start)
    for batch in batches:
        moments = running.merge(moments, jnp.asarray(batch), EVERYONE)
    return moments


def test_merged_batches_have_the_moments_of_all_values_at_once():
    moments, everything = after(BATCHES), np.concatenate(BATCHES)
    np.testing.assert_allclose(moments.mean, everything.mean(), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, everything.var(), rtol=1e-5)
    np.testing.assert_allclose(running.std(moments), everything.std(ddof=1), rtol=1e-5)
    assert moments.count == 24


def test_the_start_weighs_as_many_values_of_mean_zero_and_variance_one():
    moments = after(BATCHES[:1], start=2.0)
    with_start = np.concatenate([BATCHES[0], [1.0, -1.0]])  # two values of mean 0 and variance 1
    np.testing.assert_allclose(moments.mean, with_start.mean(), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, with_start.var(), rtol=1e-5)


def test_values_that_do_not_count_change_nothing_even_if_they_are_not_numbers():
    start = after(BATCHES[:2], start=1e-4)
    where = jnp.array([1, 0, 1, 1, 0, 1], bool)
    noisy = jnp.where(where, jnp.asarray(BATCHES[2]), jnp.nan)
    merged = running.merge(start, noisy, where)
    kept = running.merge(start, jnp.asarray(BATCHES[2][np.asarray(where)]), jnp.ones(4, bool))
    unchanged = running.merge(start, noisy, jnp.zeros(6, bool))
    np.testing.assert_allclose(jnp.stack(merged), jnp.stack(kept), rtol=1e-6)
    np.testing.assert_allclose(jnp.stack(unchanged), jnp.stack(start), rtol=1e-6)


def test_nothing_merged_into_nothing_stays_finite():
    moments = running.merge(running.initial(0.0), jnp.full(6, jnp.nan), jnp.zeros(6, bool))
    assert np.all(np.isfinite(jnp.stack([*moments, running.std(moments)])))


def test_the_standard_deviation_is_corrected_only_where_there_is_a_degree_of_freedom():
    one, two = (running.Moments(jnp.zeros(()), jnp.asarray(4.0), jnp.asarray(n)) for n in (1.0, 2.0))
    np.testing.assert_allclose([running.std(one), running.std(two)], [2.0, np.sqrt(8.0)], rtol=1e-6)
