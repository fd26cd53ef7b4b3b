"""The decode loop: equal to full forwards, stops where it should, and the same text whatever the batch."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.training.score import score
from tests import policies
from tests.policies import LENGTHS, MODEL, PAD, PLAIN, PROMPTS, SAMPLES, STOPS

FILTERED = dataclasses.replace(PLAIN, temperature=0.9, top_k=20, top_p=0.9, min_p=0.01)


@pytest.fixture(scope="module")
def weights():
    return policies.params()


@pytest.fixture(scope="module")
def rollout(weights):
    return jax.device_get(policies.sample(weights))


def test_greedy_text_is_that_of_full_forwards_without_a_cache(weights):
    greedy = dataclasses.replace(PLAIN, temperature=0.0)
    got = jax.device_get(policies.sample(weights, greedy, stops=(), samples=1))
    forward = jax.jit(lambda *a: MODEL.unembed(weights, MODEL.apply(weights, *a)))
    width = PROMPTS.shape[1] + PLAIN.max_tokens
    for row, length in enumerate(LENGTHS):
        text = np.zeros((1, width), np.int32)
        text[0, :length] = PROMPTS[row, :length]
        positions = np.arange(width)[None]
        for t in range(PLAIN.max_tokens):
            segments = (positions < length + t).astype(np.int32)
            text[0, length + t] = int(np.argmax(forward(text, positions, segments)[0, length + t - 1]))
        np.testing.assert_array_equal(got.tokens[row], text[0, length : length + PLAIN.max_tokens])
    assert (got.sampler_logprobs == 0).all() and got.truncated.all()


@pytest.mark.parametrize("sampling", [PLAIN, FILTERED], ids=["plain", "filtered"])
@pytest.mark.parametrize("chunk", [100_000, 50])
def test_sampler_logprobs_equal_the_scorers(weights, sampling, chunk):
    rollout = policies.sample(weights, sampling)
    scores = jax.jit(lambda r: score(MODEL, weights, r, sampling, chunk=chunk))(rollout)
    # float32 through two different orders of summation; the bound of the issue is 1e-4
    np.testing.assert_allclose(scores.logprobs, rollout.sampler_logprobs, atol=2e-5)
    assert (np.asarray(scores.entropy)[np.asarray(rollout.mask)] >= 0).all()


def test_a_row_ends_with_its_first_stop_token_which_is_inside_the_mask(rollout):
    assert not rollout.truncated.all() and rollout.mask.any(axis=1).all()
    for tokens, mask, truncated in zip(rollout.tokens, rollout.mask, rollout.truncated, strict=True):
        length = mask.sum()
        assert mask[:length].all()
        stops = np.isin(tokens[:length], STOPS)
        assert stops.sum() == (0 if truncated else 1) and stops[-1] == (not truncated)
        assert (tokens[length:] == PAD).all()
        assert truncated == (length == PLAIN.max_tokens and not stops[-1])


def test_a_pad_token_that_is_sampled_counts_like_any_other(weights):
    rollout = jax.device_get(policies.sample(weights, stops=()))
    assert rollout.mask.all() and (rollout.tokens == PAD).any()


@pytest.mark.parametrize("prompts", [[1], [3, 1]])
def test_the_text_of_a_completion_does_not_depend_on_the_batch(weights, rollout, prompts):
    alone = jax.device_get(policies.sample(weights, prompts=np.array(prompts)))
    for i, prompt in enumerate(prompts):
        rows = slice(prompt * SAMPLES, (prompt + 1) * SAMPLES)
        np.testing.assert_array_equal(alone.tokens[i * SAMPLES : (i + 1) * SAMPLES], rollout.tokens[rows])


def test_fewer_samples_are_the_first_of_more(weights, rollout):
    fewer = jax.device_get(policies.sample(weights, samples=2))
    np.testing.assert_array_equal(fewer.tokens.reshape(4, 2, -1), rollout.tokens.reshape(4, SAMPLES, -1)[:, :2])


def test_every_step_and_every_sample_has_its_own_text(weights, rollout):
    other = jax.device_get(policies.sample(weights, step=1))
    assert (other.tokens != rollout.tokens).any(axis=1).mean() > 0.8
    texts = [tuple(tokens[mask]) for tokens, mask in zip(rollout.tokens, rollout.mask, strict=True)]
    long = [text for text in texts if len(text) > 3]  # two of the shortest may be the same by chance
    assert len(long) > 10 and len(set(long)) == len(long)


def test_sampled_frequencies_are_those_of_the_model(weights):
    """First tokens of many samples of one prompt, against its distribution: χ² over the likelier tokens."""
    short = dataclasses.replace(PLAIN, max_tokens=1)
    count = 4000
    tokens = jax.device_get(policies.sample(weights, short, prompts=np.array([0]), samples=count)).tokens[:, 0]
    positions = np.arange(7)[None]
    logits = MODEL.unembed(weights, MODEL.apply(weights, PROMPTS[:1], positions, np.ones((1, 7), np.int32)))[0, -1]
    expected = np.asarray(jax.nn.softmax(logits)) * count
    likely = expected > 10
    observed = np.bincount(tokens, minlength=len(expected))
    chi2 = ((observed - expected) ** 2 / expected)[likely].sum()
    degrees = likely.sum()
    assert degrees > 20 and abs(chi2 - degrees) < 5 * np.sqrt(2 * degrees)


def test_scores_do_not_depend_on_the_padding(weights, rollout):
    def widen(x, columns):
        return np.pad(x, ((0, 0), (0, columns)), constant_values=7)

    wide = dataclasses.replace(
        rollout,
        prompt_tokens=widen(rollout.prompt_tokens, 5),
        tokens=widen(rollout.tokens, 9),
        mask=np.pad(rollout.mask, ((0, 0), (0, 9))),
    )
    scorer = jax.jit(lambda r: score(MODEL, weights, r, PLAIN, chunk=10_000).logprobs)
    width = rollout.tokens.shape[1]
    np.testing.assert_allclose(scorer(wide)[:, :width], scorer(rollout), atol=1e-5)
    assert not jnp.any(scorer(wide)[:, width:])
