from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core import diagnostics, mismatch

X = jnp.array([[0.5, -0.5, 1.0, 2.0], [0.1, 0.2, 0.3, jnp.nan], [jnp.nan] * 4])
MASK = jnp.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)


def test_sums_means_and_the_largest_are_of_the_rows_tokens():
    np.testing.assert_allclose(mismatch.sequence_sums(X, MASK)[:, 0], [2.0, 0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(mismatch.sequence_means(X, MASK)[:, 0], [2 / 3, 0.2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(mismatch.sequence_largest(X, MASK)[:, 0], [2.0, 0.3, -np.inf])


def test_a_segment_is_an_unbroken_run_of_tokens():
    want = [[0, 0, 0, 2.0], [0.2, 0.2, 0.2, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(mismatch.segment_means(X, MASK), want, rtol=1e-6, atol=1e-7)


def test_weights_outside_the_bounds_are_cut_or_dropped():
    weights = jnp.array([0.1, 0.5, 1.0, 2.0, 7.0])
    np.testing.assert_allclose(mismatch.truncate_weights(weights, low=None, high=2.0), [0.1, 0.5, 1, 2, 2])
    np.testing.assert_allclose(mismatch.drop_weights(weights, low=0.5, high=2.0), [0, 0.5, 1, 2, 0])
    np.testing.assert_allclose(mismatch.importance_weights(jnp.array([100.0]), log_ratio_clamp=2.0), np.exp([2.0]))


def test_normalized_weights_have_mean_one_over_what_they_are_normalized_over():
    weights = jnp.exp(jnp.where(MASK, X, 50.0))
    by_token = np.asarray(mismatch.mean_one_over_tokens(weights, MASK))
    np.testing.assert_allclose(by_token[np.asarray(MASK)].mean(), 1, rtol=1e-6)
    rows = mismatch.mean_one_over_rows(jnp.array([[2.0], [6.0], [100.0]]), MASK)
    np.testing.assert_allclose(rows[:2, 0], [0.5, 1.5])
    np.testing.assert_allclose(mismatch.effective_sample_share(jnp.ones((3, 1)), MASK, highest=2.0), 1)


def test_a_sampler_that_agrees_with_the_trainer_is_at_no_distance():
    logprobs = jnp.where(MASK, -jnp.abs(jnp.nan_to_num(X)) - 0.1, jnp.nan)
    gap = diagnostics.policy_gap(logprobs, logprobs, MASK, log_ratio_clamp=20.0)
    for name, value in gap.items():
        want = {"ppl_ratio": 1.0}.get(name, 0.0)
        if "ppl" not in name or "diff" in name or name == "ppl_ratio":
            assert value == want, name
    np.testing.assert_allclose(gap["training_ppl"], np.mean(np.exp([1.1, 0.3])), rtol=1e-5)


def test_good_rows_are_kept_however_far_the_sampler_is():
    advantages = jnp.array([1.0, -1.0, -1.0])
    far = jnp.where(MASK, -5.0, 0)
    np.testing.assert_array_equal(
        mismatch.keep_bad_rows_near_policy(advantages, far, MASK, threshold=0.1), [True, False, True]
    )


def test_the_share_of_tokens_with_high_entropy_is_of_the_masks_tokens():
    entropy = jnp.where(MASK, jnp.arange(12.0).reshape(3, 4), jnp.nan)
    keep = mismatch.keep_high_entropy(entropy, MASK, share=0.34)
    np.testing.assert_array_equal(keep, [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
