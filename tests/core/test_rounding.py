"""Stochastic rounding, over every bfloat16 and every draw, without statistics; and the bits that it draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core.rounding import cheap_bits, stochastic_round

EVERY_DRAW = np.arange(2**16, dtype=np.uint32)
EVERY_BFLOAT16 = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
# of both signs, of every size, next to a power of two on either side, and whose low bits are the first and the last
NUMBERS = np.array(
    [1.0000001, 1.9999999, -1.9999999, 3.1415927, -0.1, 1e-30, -7.7e29, 0.9999999, 2.0078124], np.float32
)


def rounded(x, bits) -> np.ndarray:
    return np.asarray(stochastic_round(jnp.asarray(x), jnp.asarray(bits)))


@pytest.mark.parametrize("bits", [0, 1, 0xFFFF, 0xFFFF0000, 0xFFFFFFFF])
def test_a_bfloat16_infinity_and_nan_stay_as_they_are(bits):
    got = rounded(EVERY_BFLOAT16, np.full_like(EVERY_DRAW, bits)).astype(np.float32)
    np.testing.assert_array_equal(got, EVERY_BFLOAT16)
    kept = ~np.isnan(EVERY_BFLOAT16)
    np.testing.assert_array_equal(np.signbit(got[kept]), np.signbit(EVERY_BFLOAT16[kept]))


@pytest.mark.parametrize("x", NUMBERS)
def test_a_number_becomes_one_of_its_two_neighbours_and_is_right_on_average(x):
    got = rounded(np.full(2**16, x), EVERY_DRAW).astype(np.float64)
    below = np.array(x).view(np.uint32) >> 16
    neighbours = (np.array([below, below + 1], np.uint32) << 16).view(np.float32)
    assert sorted(set(got)) == sorted(neighbours.astype(np.float64))
    assert got.mean() == np.float64(x)  # every draw once: sums of 2**16 numbers of 24 bits are exact in float64


def test_larger_numbers_never_become_smaller_ones_under_the_same_draw():
    x = np.sort(np.random.default_rng(0).normal(size=4096)).astype(np.float32)
    for draw in (0, 12345, 0xFFFF):
        assert np.all(np.diff(rounded(x, np.full(x.shape, draw, np.uint32)).astype(np.float32)) >= 0)


def test_the_high_bits_are_not_read():
    x = np.random.default_rng(1).normal(size=2**16).astype(np.float32)
    np.testing.assert_array_equal(rounded(x, EVERY_DRAW), rounded(x, EVERY_DRAW | 0xABCD0000))


def test_a_finite_number_stays_finite_and_nan_with_low_bits_alone_stays_nan():
    largest = np.finfo(np.float32).max
    got = rounded([largest, -largest], [0xFFFF, 0xFFFF]).astype(np.float32)
    np.testing.assert_array_equal(got, [jnp.finfo(jnp.bfloat16).max, jnp.finfo(jnp.bfloat16).min])
    assert np.isnan(rounded(np.array([0x7F800001], np.uint32).view(np.float32), [0])).all()  # cut, it were infinite


def mixed(x: int) -> int:
    """MurmurHash3's finalizer, in Python's integers."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = (x ^ x >> shift) * factor % 2**32
    return x


def test_a_bit_pattern_follows_from_the_key_and_the_place_alone():
    key, shape = jax.random.key(3), (3, 4, 5)
    first, second = map(int, jax.random.bits(key, (2,), jnp.uint32))
    wanted = [mixed(mixed((first + 0x9E3779B9 * place) % 2**32) ^ second) for place in range(60)]
    np.testing.assert_array_equal(cheap_bits(key, shape).reshape(-1), wanted)
    assert int(cheap_bits(key, ())) == wanted[0]


def test_drawn_bits_are_all_different_uniform_and_know_nothing_of_each_other():
    count = 2**16
    drawn = [np.asarray(cheap_bits(jax.random.key(seed), (256, 256))) for seed in range(2)]
    assert len(np.unique(drawn[0])) == count  # both steps of the formula are one to one
    halves = {(seed, half): bits >> 16 * half & 0xFFFF for seed, bits in enumerate(drawn) for half in range(2)}
    for numbers in halves.values():
        found = np.bincount(numbers.reshape(-1) >> 8, minlength=256)
        chi_squared = ((found - count / 256) ** 2 / (count / 256)).sum()
        assert abs(chi_squared - 255) < 4 * np.sqrt(2 * 255)  # mean and deviation of χ² with 255 degrees of freedom
    low, high, other = halves[0, 0], halves[0, 1], halves[1, 0]
    for one, two in ((low, high), (low, other), (low[1:], low[:-1]), (low[:, 1:], low[:, :-1])):
        # the correlation of independent numbers has a deviation of 1 / √count
        assert abs(np.corrcoef(one.reshape(-1), two.reshape(-1))[0, 1]) < 4 / np.sqrt(count)
