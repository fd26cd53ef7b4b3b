from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.core import covariance, losses, ratios
from jaxrl_llm.core.masks import masked_mean

RNG = np.random.default_rng(0)
SHAPE = (4, 5)
LOGPROBS, OLD, ADVANTAGES = (jnp.asarray(RNG.normal(size=SHAPE), jnp.float32) for _ in range(3))
MASK = jnp.asarray(RNG.random(SHAPE) < 0.7)


def test_the_weight_of_a_weighted_reinforce_loss_carries_no_gradient():
    def loss(logprobs):
        ratio = jnp.exp(logprobs - OLD)
        return jnp.sum(losses.weighted_reinforce(logprobs, ratio, ADVANTAGES, ratio_min=0.5, ratio_max=1.3))

    weight = np.clip(np.exp(LOGPROBS - OLD), 0.5, 1.3)
    np.testing.assert_allclose(jax.grad(loss)(LOGPROBS), -weight * ADVANTAGES, rtol=1e-5)


def test_the_token_form_of_the_sequence_ratio_has_its_value_and_each_tokens_own_gradient():
    d = ratios.log_ratio(LOGPROBS, OLD, MASK)
    sequence = ratios.sequence_ratio(d, MASK)
    np.testing.assert_allclose(ratios.sequence_ratio_of_token(LOGPROBS, d, MASK), sequence, rtol=1e-6)
    np.testing.assert_allclose(sequence[:, 0], np.exp(masked_mean(d, MASK, axis=1)), rtol=1e-6)

    def total(logprobs, form):
        d = ratios.log_ratio(logprobs, OLD, MASK)
        ratio = ratios.sequence_ratio(d, MASK) if form == "sequence" else None
        ratio = ratios.sequence_ratio_of_token(logprobs, d, MASK) if ratio is None else ratio
        return jnp.sum(jnp.where(MASK, ADVANTAGES * ratio, 0))

    own = jax.grad(lambda x: total(x, "token"))(LOGPROBS)
    np.testing.assert_allclose(own, np.where(MASK, ADVANTAGES * sequence, 0), rtol=1e-5)
    shared = jax.grad(lambda x: total(x, "sequence"))(LOGPROBS)
    mean_advantage = masked_mean(ADVANTAGES, MASK, axis=1)[:, None]
    np.testing.assert_allclose(shared, np.where(MASK, mean_advantage * sequence, 0), rtol=1e-5, atol=1e-6)


def test_the_soft_gate_has_the_gradient_of_reinforce_at_ratio_one_and_almost_none_far_away():
    def gradient(log_ratio):
        def loss(d):
            sides = {"temperature_positive": 1.0, "temperature_negative": 1.05}
            return jnp.sum(losses.soft_gate(jnp.exp(d), jnp.array([1.0, -1.0]), **sides))

        return jax.grad(loss)(jnp.full(2, log_ratio))

    np.testing.assert_allclose(gradient(0.0), [-1, 1], rtol=1e-6)
    assert np.all(np.abs(gradient(3.0)) < 1e-3)


def test_a_value_inside_the_clip_has_the_plain_square():
    values, returns = jnp.array([1.0, 1.05, 3.0, -3.0]), jnp.array([0.0, 2.0, 2.0, 2.0])
    old = jnp.ones(4)
    loss = losses.value_loss(values, old, returns, clip=0.1)
    np.testing.assert_allclose(loss, [1.0, 0.9025, 1.0, 25.0], rtol=1e-6)
    loss = losses.value_loss(jnp.array([3.0]), jnp.array([1.0]), jnp.array([3.0]), clip=0.1)
    np.testing.assert_allclose(loss, [1.9**2], rtol=1e-6)  # far from its old value, though right: no gradient


def test_clip_cov_chooses_at_most_its_budget_of_the_candidates_and_the_scores_decide_which():
    mask = jnp.ones((4, 25), bool)
    cov = jnp.asarray(RNG.normal(size=(4, 25)), jnp.float32)
    binds = jnp.asarray(RNG.random((4, 25)) < 0.1)
    candidates = np.asarray((cov > 0.1) & (cov < 5) & ~binds)
    picks = []
    for seed in (0, 1):
        scores = np.random.default_rng(seed).random((4, 25)).astype(np.float32)
        bounds = {"lowest": 0.1, "highest": 5.0, "budget": 0.1}
        chosen = np.asarray(covariance.clip_cov_tokens(cov, mask, binds, jnp.asarray(scores), **bounds))
        assert chosen.sum() == 10
        assert np.all(candidates[chosen])
        assert scores[chosen].min() > scores[candidates & ~chosen].max()
        picks.append(chosen)
    assert np.any(picks[0] != picks[1])


def test_kl_cov_penalizes_the_tokens_of_largest_covariance_alone():
    cov = jnp.arange(20.0).reshape(4, 5)
    d = jnp.full((4, 5), -0.5)
    zero = jnp.zeros((4, 5))
    chosen = covariance.kl_cov_tokens(cov, jnp.ones((4, 5), bool), share=0.15)
    loss = covariance.kl_cov_loss(d, zero, chosen, kl_coefficient=2.0)
    np.testing.assert_allclose(loss.ravel(), [0] * 17 + [1.0] * 3)
