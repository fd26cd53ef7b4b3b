"""Norms, cosines, noise and affected tokens against direct computations."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrl_llm.microscope.statistics import Gram, affected, by_number

RNG = np.random.default_rng(0)
GRADIENTS = RNG.normal(size=(3, 6, 40)) + 0.5  # losses, prompts, numbers


def test_norms_and_cosines_are_those_of_the_summed_gradients():
    gram, sums = Gram.of(GRADIENTS), GRADIENTS.sum(axis=1)
    lengths = np.linalg.norm(sums, axis=1)
    np.testing.assert_allclose(gram.norms(), lengths, rtol=1e-12)
    want = sums @ sums[0] / lengths / lengths[0]
    cosines = gram.cosines()
    np.testing.assert_allclose([c.value for c in cosines], want, rtol=1e-12)
    assert cosines[0].low == pytest.approx(1) and cosines[0].high == pytest.approx(1)
    assert all(-1 <= c.low < c.value < c.high <= 1 for c in cosines[1:])


def test_noise_is_the_spread_of_sums_over_prompts_drawn_again():
    gram = Gram.of(GRADIENTS)
    draws = RNG.integers(0, 6, (20_000, 6))
    sums = GRADIENTS[1][draws].sum(axis=1)
    spread = np.sqrt(np.var(sums, axis=0).sum()) / np.linalg.norm(GRADIENTS[1].sum(axis=0))
    assert gram.noise()[1] == pytest.approx(spread, rel=0.02)  # 20,000 draws: about 1 / √20,000 of itself, and less


def test_the_interval_of_a_cosine_is_that_of_prompts_drawn_again():
    gram = Gram.of(GRADIENTS)
    draws = RNG.integers(0, 6, (20_000, 6))
    first, second = GRADIENTS[0][draws].sum(axis=1), GRADIENTS[2][draws].sum(axis=1)
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    found = gram.cosines()[2]
    reach = 1.96 * cosine.std()
    # a standard deviation of 1,000 draws is itself within about 1 / √2,000 of its value, twice over
    assert found.value - found.low == pytest.approx(reach, rel=0.07)
    assert found.high - found.value == pytest.approx(min(reach, 1 - found.value), rel=0.07)


def test_a_loss_without_gradient_has_norm_zero_and_no_cosine():
    gradients = GRADIENTS.copy()
    gradients[1] = 0
    gram = Gram.of(gradients)
    assert gram.norms()[1] == 0
    assert np.isnan(gram.noise()[1]) and np.isnan(gram.cosines()[1].value)


def test_a_loss_that_only_scales_another_affects_no_token_and_a_clip_affects_those_it_stops():
    mask = RNG.random((5, 7)) < 0.8
    gradient = RNG.normal(size=mask.shape)
    assert not affected(3 * gradient, gradient, mask).any()
    clipped = gradient.copy()
    at = np.argwhere(mask)[3]
    clipped[tuple(at)] = 0
    found = affected(clipped, gradient, mask)
    assert found[tuple(at)] and not found[~mask].any()
    assert found.sum() == 1
    assert affected(gradient, np.zeros_like(gradient), mask).sum() == mask.sum()  # nothing scales to it


def test_bins_hold_every_token_once_and_the_share_of_hits_in_each():
    mask = RNG.random((20, 30)) < 0.7
    position = np.cumsum(mask, axis=1)
    where = position > 10
    bins = by_number(where, position, mask, bins=4)
    assert bins.tokens.sum() == mask.sum()
    assert (bins.values * bins.tokens).sum() == pytest.approx((where & mask).sum())
    for low, high, value in zip(bins.edges[:-2], bins.edges[1:-1], bins.values, strict=False):
        inside = mask & (position >= low) & (position < high)
        assert value == pytest.approx((where & inside).sum() / inside.sum())


def test_bins_of_one_number_and_of_no_token_are_fine():
    mask = np.ones((2, 3), bool)
    one = by_number(mask, np.full((2, 3), 5), mask)
    assert one.tokens.tolist() == [6] and one.values.tolist() == [1.0]
    assert by_number(mask, np.full((2, 3), 5), ~mask).values.size == 0
