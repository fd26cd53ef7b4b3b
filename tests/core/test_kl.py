"""Expectations over a small vocabulary, in closed form: what each estimator is an estimate of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core import kl

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=6), jnp.float32)
REFERENCE = jax.nn.log_softmax(jnp.asarray(np.random.default_rng(1).normal(size=6), jnp.float32))


def expected(estimator, logits: jax.Array) -> jax.Array:
    """Σ_v p_v · estimate_v with p held, as a sampler holds it: its gradient is the mean gradient of a sampled loss."""
    logprobs = jax.nn.log_softmax(logits)
    return jnp.sum(jax.lax.stop_gradient(jnp.exp(logprobs)) * estimator(logprobs, REFERENCE))


def exact(logits: jax.Array) -> jax.Array:
    return kl.exact(jax.nn.log_softmax(logits), REFERENCE)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    for estimator in (kl.k1, kl.k3):
        np.testing.assert_allclose(expected(estimator, LOGITS), exact(LOGITS), rtol=1e-5)
    assert np.all(kl.k3(jax.nn.log_softmax(LOGITS), REFERENCE) >= 0)


def test_as_a_loss_only_k2_has_the_gradient_of_the_kl_and_k1_has_none():
    want = jax.grad(exact)(LOGITS)
    np.testing.assert_allclose(jax.grad(lambda z: expected(kl.k2, z))(LOGITS), want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda z: expected(kl.k1, z))(LOGITS), 0, atol=1e-6)
    assert not np.allclose(jax.grad(lambda z: expected(kl.k3, z))(LOGITS), want, rtol=0.05)


@pytest.mark.parametrize("estimator", [kl.k1, kl.k2, kl.k3, kl.absolute])
def test_equal_policies_are_at_distance_zero(estimator):
    assert not np.any(estimator(REFERENCE, REFERENCE))


@pytest.mark.parametrize("estimator", [kl.k1, kl.k2, kl.k3, kl.absolute])
def test_the_clamps_hold_value_and_gradient_even_at_minus_infinity(estimator):
    logprobs = jnp.array([-1e4, -jnp.inf, -30.0, 0.0])
    reference = jnp.array([-1.0, -1.0, -1.0, -1e4])

    def total(x):
        return jnp.sum(estimator(x, reference, log_ratio_clamp=20.0, clamp=10.0))

    assert np.all(np.abs(estimator(logprobs, reference, log_ratio_clamp=20.0, clamp=10.0)) <= 10)
    np.testing.assert_array_equal(jax.grad(total)(logprobs), 0)


def test_small_differences_keep_their_precision():
    gap = np.float32(1e-3)
    np.testing.assert_allclose(kl.k3(jnp.float32(-1.0) + gap, jnp.float32(-1.0)), 5e-7, rtol=1e-2)


def test_the_adaptive_coefficient_rises_with_too_much_kl_and_by_a_bounded_step():
    settings = {"rows": 100, "target": 0.1, "horizon": 1000.0, "error_clip": 0.2}
    coefficient = jnp.asarray(0.5)
    np.testing.assert_allclose(kl.adapted_coefficient(coefficient, jnp.asarray(0.11), **settings), 0.505, rtol=1e-5)
    np.testing.assert_allclose(kl.adapted_coefficient(coefficient, jnp.asarray(9.0), **settings), 0.51, rtol=1e-5)
    np.testing.assert_allclose(kl.adapted_coefficient(coefficient, jnp.asarray(0.0), **settings), 0.49, rtol=1e-5)


def test_the_exact_kl_is_the_sum_over_the_vocabulary_and_zero_between_equals():
    logprobs = jax.nn.log_softmax(LOGITS)
    want = sum(np.exp(p) * (p - q) for p, q in zip(logprobs.tolist(), REFERENCE.tolist(), strict=True))
    np.testing.assert_allclose(kl.exact(logprobs, REFERENCE), want, rtol=1e-5)
    assert want > 0 and kl.exact(REFERENCE, REFERENCE) == 0
    batch = jnp.stack([logprobs, REFERENCE])[None]
    np.testing.assert_allclose(kl.exact(batch, jnp.broadcast_to(REFERENCE, batch.shape)), [[want, 0]], rtol=1e-5)


@pytest.mark.parametrize("reference_can", [True, False])
def test_a_token_that_was_filtered_out_adds_nothing_to_the_exact_kl_and_has_no_gradient(reference_can: bool):
    filtered = jax.nn.log_softmax(LOGITS.at[2].set(-jnp.inf))
    reference = REFERENCE if reference_can else jax.nn.log_softmax(REFERENCE.at[2].set(-jnp.inf))
    rest = np.array([0, 1, 3, 4, 5])
    value, gradient = jax.value_and_grad(lambda x: kl.exact(x, reference))(filtered)
    np.testing.assert_allclose(value, kl.exact(filtered[rest], reference[rest]), rtol=1e-6)
    assert gradient[2] == 0 and np.all(np.isfinite(gradient))


def test_a_token_that_only_the_reference_filters_out_makes_the_exact_kl_infinite():
    assert kl.exact(jax.nn.log_softmax(LOGITS), REFERENCE.at[2].set(-jnp.inf)) == jnp.inf


def test_a_clamped_k3_has_no_gradient_where_its_exponential_overflows():
    value, gradient = jax.value_and_grad(lambda x: kl.k3(x, jnp.float32(0), clamp=10.0))(jnp.float32(-1e4))
    assert (value, gradient) == (10, 0)
