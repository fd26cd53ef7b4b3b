"""Whole algorithms: against loops over tokens, and what must never matter."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxrl_llm import algorithm as library
from jaxrl_llm.algorithm import Algorithm, policy_loss
from tests.oracles import objective as oracle
from tests.strategies import (
    FLOATS,
    MAX_TOKENS,
    ROWS,
    WIDTH,
    Step,
    algorithm,
    algorithms,
    differentiate,
    few,
    rows_of,
    step,
    steps,
)


@few
@given(algorithms(), steps())
def test_advantages_and_mask_are_those_of_the_loops(a: Algorithm, s: Step):
    values, mask = oracle.advantages(a, s.rewards, s.prompt_id, s.mask, s.truncated, s.kl if _needs_kl(a) else None)
    result = s.advantages(a)
    np.testing.assert_allclose(result.values, values, rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(result.mask, mask)


def _needs_kl(a: Algorithm) -> bool:
    return a.kl_placement == "reward"


@few
@given(algorithms(), steps())
def test_weights_and_loss_are_those_of_the_loops(a: Algorithm, s: Step):
    batch = s.batch(a)
    np.testing.assert_allclose(
        batch.weights, oracle.weights(a, np.asarray(batch.mask), s.prompt_id, MAX_TOKENS), rtol=1e-6
    )
    arrays = {name: np.asarray(getattr(batch, name), np.float64) for name in FLOATS} | {"mask": np.asarray(batch.mask)}
    want = oracle.policy_loss(a, s.logprobs.astype(np.float64), s.entropy.astype(np.float64), arrays)
    loss = differentiate(a, s.logprobs, s.entropy, batch).loss
    np.testing.assert_allclose(loss, want, rtol=1e-4, atol=1e-5)


@few
@given(algorithms(), steps())
def test_the_gradient_is_that_of_the_loops_differences(a: Algorithm, s: Step):
    batch = s.batch(a)
    arrays = {name: np.asarray(getattr(batch, name), np.float64) for name in FLOATS} | {"mask": np.asarray(batch.mask)}
    logprobs, entropy = s.logprobs.astype(np.float64), s.entropy.astype(np.float64)
    want = np.zeros((ROWS, WIDTH))
    for at in np.ndindex(ROWS, WIDTH):
        shift = np.zeros((ROWS, WIDTH))
        shift[at] = 1e-6
        above, below = (oracle.policy_loss(a, logprobs + sign * shift, entropy, arrays) for sign in (1, -1))
        want[at] = (above - below) / 2e-6
    result = differentiate(a, s.logprobs, s.entropy, batch)
    np.testing.assert_allclose(result.by_logprobs, want, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.by_entropy, -a.entropy_coefficient * np.asarray(batch.weights), rtol=1e-6)


@few
@given(algorithms(), steps(), st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_what_stands_off_the_mask_changes_neither_loss_nor_gradient(a: Algorithm, s: Step, garbage: float):
    batch = s.batch(a)

    def spoil(x):
        return jnp.where(batch.mask, x, garbage)

    spoilt = dataclasses.replace(batch, **{name: spoil(getattr(batch, name)) for name in FLOATS})
    clean = differentiate(a, s.logprobs, s.entropy, batch)
    dirty = differentiate(a, spoil(s.logprobs), spoil(s.entropy), spoilt)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert np.all(dirty.by_logprobs[~np.asarray(batch.mask)] == 0)
    kl = jnp.where(s.mask, s.kl, garbage) if _needs_kl(a) else None
    np.testing.assert_array_equal(s.advantages(a, kl).values, batch.advantages)


@few
@given(algorithms(), steps(), st.permutations(range(ROWS)))
def test_micro_batches_of_any_rows_sum_to_the_loss_the_gradient_and_the_metrics(
    a: Algorithm, s: Step, order: list[int]
):
    batch, rows = s.batch(a), np.array(order)
    whole = differentiate(a, s.logprobs, s.entropy, batch)
    loss, gradient, found = 0.0, np.zeros((ROWS, WIDTH)), []
    for part in (rows[:2], rows[2:4], rows[4:]):
        result = differentiate(a, s.logprobs[part], s.entropy[part], rows_of(batch, part))
        loss += result.loss
        gradient[part] += result.by_logprobs
        found.append(result.metrics)
    np.testing.assert_allclose(loss, whole.loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, whole.by_logprobs, rtol=1e-5, atol=1e-7)
    for name, want in whole.metrics.items():
        got = found[0][name] + found[1][name] + found[2][name]
        np.testing.assert_allclose(got.total, want.total, rtol=1e-4, atol=1e-5, err_msg=name)
        assert got.weight == want.weight, name


@few
@given(algorithms(), steps(), st.permutations(range(ROWS)))
def test_the_order_of_the_rows_and_the_width_of_the_padding_change_nothing(a: Algorithm, s: Step, order: list[int]):
    rows = np.array(order)

    def pad(x: np.ndarray) -> np.ndarray:
        if x.ndim == 1:
            return x[rows]
        return np.pad(x[rows], ((0, 0), (0, 3)), constant_values=False if x.dtype == bool else np.nan)

    moved = Step(**{field.name: pad(getattr(s, field.name)) for field in dataclasses.fields(s)})
    result, padded = s.advantages(a), moved.advantages(a)
    np.testing.assert_allclose(padded.values[:, :WIDTH], np.asarray(result.values)[rows], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(padded.mask[:, :WIDTH], np.asarray(result.mask)[rows])
    weights, wide = s.batch(a).weights, moved.batch(a).weights
    np.testing.assert_allclose(wide[:, :WIDTH], np.asarray(weights)[rows], rtol=1e-6)
    assert not np.any(padded.mask[:, WIDTH:])
    assert not np.any(wide[:, WIDTH:])
    assert not np.any(padded.values[:, WIDTH:])


@few
@given(algorithms(), steps())
def test_a_step_without_a_token_has_loss_zero_and_gradient_zero(a: Algorithm, s: Step):
    empty = dataclasses.replace(s, mask=np.zeros_like(s.mask))
    batch = empty.batch(a)
    assert not np.any(batch.weights)
    assert not np.any(batch.advantages)
    result = differentiate(a, s.logprobs, s.entropy, batch)
    assert result.loss == 0
    assert not np.any(result.by_logprobs)
    assert not np.any(result.by_entropy)


def test_log_probabilities_that_are_far_apart_or_minus_infinity_leave_the_gradient_finite():
    s = step(0)
    for gap in (1e4, -1e4, np.inf, -np.inf):
        for changes in ({}, {"ratio": "sequence"}, {"kl_placement": "loss", "kl_coefficient": 1.0}):
            a = algorithm(baseline="group", dual_clip=3.0, **changes)
            batch = dataclasses.replace(s.batch(a), old_logprobs=jnp.full((ROWS, WIDTH), -5.0 - gap))
            batch = dataclasses.replace(batch, ref_logprobs=batch.old_logprobs)
            result = differentiate(a, np.full((ROWS, WIDTH), -5.0), s.entropy, batch)
            assert np.isfinite(result.loss)
            assert np.all(np.isfinite(result.by_logprobs))


def test_an_algorithm_is_a_static_argument_and_compiles_to_what_it_computes_eagerly():
    a = algorithm(baseline="leave_one_out", scale="group", whiten=True, group_filter="zero_variance", dual_clip=3.0)
    s = step(2)
    batch = s.batch(a)
    named = {name: jnp.asarray(getattr(s, name)) for name in ("prompt_id", "mask", "truncated")}
    result = jax.jit(library.advantages, static_argnums=0)(a, jnp.asarray(s.rewards), **named)
    np.testing.assert_allclose(result.values, batch.advantages, rtol=1e-5, atol=1e-6)
    compiled = jax.jit(policy_loss, static_argnums=0)(a, jnp.asarray(s.logprobs), jnp.asarray(s.entropy), batch)
    eager = differentiate(a, s.logprobs, s.entropy, batch)
    np.testing.assert_allclose(compiled[0], eager.loss, rtol=1e-5)
    assert compiled[1].keys() == eager.metrics.keys()


def test_what_an_algorithm_needs_follows_from_its_knobs():
    placed = algorithm(kl_placement="reward", kl_estimator="k1", kl_coefficient=0.1)
    assert library.needs_reference(placed)
    assert not library.needs_reference(algorithm())
    estimate = library.kl_estimate(placed, jnp.array([-1.0, -50.0]), jnp.array([-1.5, -1.0]))
    np.testing.assert_allclose(estimate, [0.5, -10.0])  # held within 10 nats
