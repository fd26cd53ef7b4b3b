"""Laws of the weights and of the policy loss."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algorithm import loss_weights
from jaxrl_llm.types import TrainBatch
from tests.strategies import (
    algorithm,
    differentiate,
    step,
)


def test_each_aggregation_gives_every_token_row_or_prompt_its_share():
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
    prompt_id = jnp.array([6, 2, 2, 6])

    def weights(mode: str, **changes) -> np.ndarray:
        return np.asarray(loss_weights(algorithm(aggregation=mode, **changes), mask, prompt_id, max_tokens=8))

    np.testing.assert_allclose(weights("token_mean"), np.asarray(mask) / 7, rtol=1e-6)
    np.testing.assert_allclose(weights("sequence_mean").sum(1), [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(weights("sequence_sum"), np.asarray(mask) / 3, rtol=1e-6)
    prompts = weights("prompt_mean")
    np.testing.assert_allclose([prompts[[0, 3]].sum(), prompts[[1, 2]].sum()], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(prompts[0, 0], prompts[3, 0])  # tokens of a prompt weigh the same
    np.testing.assert_allclose(weights("constant"), np.asarray(mask) / (8 * 4), rtol=1e-6)
    np.testing.assert_allclose(weights("constant", aggregation_constant=5.0), np.asarray(mask) / (5 * 4), rtol=1e-6)


@pytest.mark.parametrize(
    ("advantage", "ratio", "dual_clip", "gradient", "counted"),
    [
        (1.0, 1.1, None, True, None),
        (1.0, 1.5, None, False, "effect/clip_high"),
        (1.0, 0.5, None, True, None),  # the clip is one-sided
        (-1.0, 0.5, None, False, "effect/clip_low"),
        (-1.0, 1.5, None, True, None),
        (-1.0, 0.9, None, True, None),
        (-1.0, 1.5, 2.0, True, None),
        (-1.0, 2.5, 2.0, False, "effect/dual_clip"),
        (1.0, 2.5, 2.0, False, "effect/clip_high"),
    ],
)
def test_the_clip_takes_the_gradient_on_one_side_only(advantage, ratio, dual_clip, gradient, counted):
    a = algorithm(clip_high=0.28, dual_clip=dual_clip)
    one = jnp.ones((1, 1))
    batch = TrainBatch(
        prompt_tokens=one,
        prompt_length=one,
        tokens=one,
        mask=one > 0,
        advantages=one * advantage,
        old_logprobs=-one,
        sampler_logprobs=-one,
        weights=one,
    )
    logprobs = np.log(ratio) - np.ones((1, 1))
    result = differentiate(a, logprobs, np.ones((1, 1)), batch)
    np.testing.assert_allclose(result.by_logprobs, -advantage * ratio if gradient else 0, rtol=1e-5)
    metrics = result.metrics
    for name in ("effect/clip_low", "effect/clip_high", "effect/dual_clip"):
        assert name not in metrics or metrics[name].value == (name == counted)
    assert metrics["outside_high"].value == (ratio > 1.28)
    assert metrics["outside_low"].value == (ratio < 0.8)


def test_the_dual_clip_bounds_the_loss_of_a_bad_token():
    s = step(5)
    a = algorithm(baseline="batch", dual_clip=2.0)
    batch = dataclasses.replace(s.batch(a), old_logprobs=jnp.asarray(s.logprobs - 6))
    bound = np.sum(2.0 * np.abs(batch.advantages) * np.asarray(batch.weights))
    assert differentiate(a, s.logprobs, s.entropy, batch).loss <= bound
    free = dataclasses.replace(a, dual_clip=None)
    assert differentiate(free, s.logprobs, s.entropy, batch).loss > 10 * bound
