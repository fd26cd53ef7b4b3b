from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core.logprobs import log_prob_and_entropy, sum_pi_squared

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(5, 7))).astype(np.float32)
LABELS = RNG.integers(0, 7, 5)


def slow(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = []
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        with np.errstate(divide="ignore"):
            rows.append((np.log(p[label]), -sum(v * np.log(v) for v in p if v > 0)))
    log_prob, entropy = zip(*rows, strict=True)
    return np.array(log_prob), np.array(entropy)


def test_log_probability_and_entropy_are_those_of_the_softmax():
    got = log_prob_and_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    for one, want in zip(got, slow(LOGITS, LABELS), strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-6)


def test_a_shift_of_the_logits_changes_nothing_even_a_huge_one():
    got = log_prob_and_entropy(jnp.asarray(LOGITS) + 4096, jnp.asarray(LABELS))
    for one, want in zip(got, slow(LOGITS + np.float32(4096), LABELS), strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-5)


def test_tokens_that_were_filtered_out_add_nothing_and_have_gradient_zero():
    kept = LOGITS.copy()
    kept[:, [1, 4]] = -np.inf
    labels = np.array([0, 2, 3, 1, 6])  # row 3's own label was filtered out
    for one, want in zip(log_prob_and_entropy(jnp.asarray(kept), jnp.asarray(labels)), slow(kept, labels), strict=True):
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-6)

    for output in (0, 1):
        gradient = jax.grad(lambda z, o=output: jnp.sum(log_prob_and_entropy(z, jnp.asarray(labels))[o][:3]))(kept)
        assert np.all(np.isfinite(gradient))
        assert not np.any(np.asarray(gradient)[:, [1, 4]])
    unlucky = jax.grad(lambda z: jnp.sum(log_prob_and_entropy(z, jnp.asarray(labels))[0]))(jnp.asarray(kept))
    assert np.all(np.isfinite(unlucky))


def test_a_single_token_that_is_left_has_probability_one_and_no_entropy():
    logits = jnp.full((1, 7), -jnp.inf).at[0, 3].set(2.0)
    log_prob, entropy = log_prob_and_entropy(logits, jnp.array([3]))
    assert log_prob[0] == entropy[0] == 0


def test_half_precision_logits_are_summed_in_single_precision():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    got = log_prob_and_entropy(half, jnp.asarray(LABELS))
    want = log_prob_and_entropy(half.astype(jnp.float32), jnp.asarray(LABELS))
    for one, other in zip(got, want, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)


def test_the_sum_of_squared_probabilities_is_the_chance_that_two_draws_agree():
    logits = np.array([[0, 0, 0, 0], [0, 0, -np.inf, -np.inf], [1e4, 0, 0, 0], [0, 0, 1, 2]], np.float32)
    p = np.exp(logits[3]) / np.exp(logits[3]).sum()
    np.testing.assert_allclose(sum_pi_squared(jnp.asarray(logits)), [0.25, 0.5, 1.0, np.sum(p**2)], rtol=1e-6)
    assert sum_pi_squared(jnp.asarray(logits, jnp.bfloat16)).dtype == jnp.float32
