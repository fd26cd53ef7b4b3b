"""Whole algorithms at random points of the product of their knobs, against loops over rows and tokens."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm import algorithm as library
from jaxrl_llm.algorithm import BASELINES, SURROGATES, Algorithm, policy_loss, value_loss
from jaxrl_llm.types import TrainBatch
from tests.oracles import objective as oracle
from tests.oracles import policy
from tests.strategies import MAX_TOKENS, Step, algorithm, controls, differentiate, random_algorithm, step

POINTS = 6  # random algorithms of each baseline, and of each surrogate
MOMENTS = oracle.Moments(*(float(x) for x in jax.tree.leaves(controls())[2:]))


def double(s: Step) -> Step:
    """The step in float64: the loops and the library then differ by rounding of 1e-16 alone."""
    fields = {field.name: getattr(s, field.name) for field in dataclasses.fields(s)}
    return Step(**{k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in fields.items()})


def coefficients(a: Algorithm) -> dict[str, Any]:
    now = controls()
    return {
        "kl_coefficient": a.kl_coefficient if a.kl_target is None else float(now.kl_coefficient),
        "entropy_coefficient": a.entropy_coefficient if a.entropy_target is None else float(now.entropy_coefficient),
    }


def draws(name: str, level: str) -> list[tuple[Algorithm, Step]]:
    rng = np.random.default_rng(zlib.crc32(level.encode()))  # the same draws for a level whatever others there are
    points = []
    for at in range(POINTS):
        a = random_algorithm(rng, **{name: level})
        points.append((a, double(step(int(rng.integers(10_000)), binary=at % 3 == 0, unscored=at % 2 == 0))))
    return points


@pytest.mark.parametrize("baseline", BASELINES)
def test_advantages_mask_returns_and_moments_are_those_of_the_loops(baseline: str):
    with jax.enable_x64(True):
        for a, s in draws("baseline", baseline):
            want = oracle.advantages(
                a, s, max_tokens=MAX_TOKENS, moments=MOMENTS, kl_coefficient=coefficients(a)["kl_coefficient"]
            )
            result = s.advantages(a)
            # λ of a length is computed in float32
            np.testing.assert_allclose(result.values, want.values, rtol=1e-5, atol=1e-7, err_msg=str(a))
            np.testing.assert_array_equal(result.mask, want.mask, err_msg=str(a))
            assert (result.returns is None) == (want.returns is None)
            if want.returns is not None and result.returns is not None:
                np.testing.assert_allclose(result.returns, want.returns, rtol=1e-6, atol=1e-7)
            assert result.controls is not None
            np.testing.assert_allclose(jax.tree.leaves(result.controls)[2:], list(want.moments), rtol=1e-6)


def arrays_of(batch: TrainBatch, s: Step) -> policy.Batch:
    fields: dict[str, Any] = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name != "choice"}
    assert batch.choice is not None
    fields |= batch.choice._asdict() | {"exact_kl": s.exact_kl}
    return {name: None if x is None else np.asarray(x) for name, x in fields.items()}


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_weights_corrections_loss_and_gradient_are_those_of_the_loops(surrogate: str):
    with jax.enable_x64(True):
        for a, s in draws("surrogate", surrogate):
            batch = s.batch(a)
            arrays = arrays_of(batch, s)
            mask = np.asarray(s.advantages(a).mask)
            if a.old_logprobs == "trainer":
                weights, mask = oracle.correction(a, s, mask)
                if batch.correction is not None:
                    np.testing.assert_allclose(arrays["correction"], weights, rtol=1e-9, err_msg=str(a))
            np.testing.assert_array_equal(arrays["mask"], mask, err_msg=str(a))
            want = oracle.weights(a, mask, s.prompt_id, MAX_TOKENS)
            np.testing.assert_allclose(arrays["weights"], want, rtol=1e-9, err_msg=str(a))
            assert_gradient_of_the_loops(a, s, batch, arrays)


def assert_gradient_of_the_loops(a: Algorithm, s: Step, batch: TrainBatch, arrays: policy.Batch) -> None:
    now = coefficients(a)
    result = differentiate(a, s.logprobs, s.entropy, batch, s.exact_kl)
    loss = policy.policy_loss(a, s.logprobs, s.entropy, arrays, **now)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-7, atol=1e-9, err_msg=str(a))
    want = np.zeros_like(s.logprobs)
    for at in zip(*np.nonzero(arrays["mask"]), strict=True):
        shift = np.zeros_like(want)
        shift[at] = 1e-6
        above, below = (
            policy.policy_loss(
                a, s.logprobs + sign * shift, s.entropy, arrays, frozen=s.logprobs, only=int(at[0]), **now
            )
            for sign in (1, -1)
        )
        want[at] = (above - below) / 2e-6
    np.testing.assert_allclose(result.by_logprobs, want, rtol=1e-5, atol=1e-8, err_msg=str(a))
    np.testing.assert_allclose(result.by_entropy, -now["entropy_coefficient"] * arrays["weights"], rtol=1e-9)
    in_loss = a.kl_placement == "loss" and a.kl_estimator == "exact"
    by_exact_kl = now["kl_coefficient"] * arrays["weights"] if in_loss else np.zeros_like(want)
    np.testing.assert_allclose(result.by_exact_kl, by_exact_kl, rtol=1e-9)


@pytest.mark.parametrize("surrogate", ["clip_cov", "kl_cov"])
def test_tokens_chosen_by_covariance_are_those_of_the_loops(surrogate: str):
    with jax.enable_x64(True):
        for seed in range(6):
            a = algorithm(surrogate=surrogate, cov_share=(0.05, 0.3)[seed % 2], baseline="batch")
            s = double(step(seed))
            batch = s.batch(a)
            assert batch.choice is not None and batch.choice.covariance is not None
            found = set(zip(*(axis.tolist() for axis in np.nonzero(batch.choice.covariance)), strict=True))
            candidates, number, ordered = policy.covariance_choice(a, s.logprobs, arrays_of(batch, s), s.mask)
            if surrogate == "kl_cov":
                assert found == set(ordered[:number])
            else:
                assert found <= candidates and len(found) == min(number, len(candidates))


def test_clip_cov_draws_by_row_and_step_and_not_by_position():
    a, s = algorithm(surrogate="clip_cov", cov_low=0.0, cov_high=1e9, cov_share=0.05, baseline="batch"), step(3)
    batch = s.batch(a)

    def chosen(batch: TrainBatch, rows: np.ndarray, number: int) -> np.ndarray:
        given = jax.tree.map(lambda x: x[rows], batch)
        choice = library.choose_tokens(
            a, jnp.asarray(s.logprobs[rows]), jnp.asarray(s.entropy[rows]), given, step=number
        )
        return np.asarray(choice.covariance)

    rows = np.array([4, 2, 0, 5, 1, 3])
    first = chosen(batch, np.arange(6), 0)
    np.testing.assert_array_equal(chosen(batch, rows, 0), first[rows])
    assert any(np.any(chosen(batch, np.arange(6), number) != first) for number in range(1, 5))


def test_tokens_chosen_by_entropy_are_those_of_the_loops():
    with jax.enable_x64(True):
        for seed in range(6):
            a, s = algorithm(top_entropy_share=(0.2, 0.5, 0.9)[seed % 3]), double(step(seed))
            choice = s.batch(a).choice
            assert choice is not None
            np.testing.assert_array_equal(choice.high_entropy, policy.high_entropy(a, s.entropy, s.mask))


@pytest.mark.parametrize("value_clip", [None, 0.2])
def test_the_loss_of_the_critic_and_its_gradient_are_those_of_the_loops(value_clip: float | None):
    with jax.enable_x64(True):
        a, s = algorithm(baseline="critic", value_clip=value_clip), double(step(1))
        batch = s.batch(a)
        arrays = arrays_of(batch, s)
        values = s.values + 0.3 * s.logprobs
        (loss, metrics), gradient = jax.value_and_grad(lambda v: value_loss(a, v, batch), has_aux=True)(
            jnp.asarray(values)
        )
        np.testing.assert_allclose(loss, policy.value_loss(a, values, arrays), rtol=1e-9)
        for at in np.ndindex(values.shape):
            shift = np.zeros_like(values)
            shift[at] = 1e-6
            above, below = (policy.value_loss(a, values + sign * shift, arrays) for sign in (1, -1))
            np.testing.assert_allclose(gradient[at], (above - below) / 2e-6, rtol=1e-5, atol=1e-8)
        squares = np.square(values - arrays["returns"])[arrays["mask"]]
        np.testing.assert_allclose(metrics["value_error"].value, squares.mean(), rtol=1e-6)
        if value_clip is not None:
            plain = dataclasses.replace(a, value_clip=None)
            changed = [
                abs(
                    policy.value_loss(a, values, arrays | {"weights": one})
                    - policy.value_loss(plain, values, arrays | {"weights": one})
                )
                > 1e-12
                for one in np.eye(values.size).reshape(-1, *values.shape)[arrays["mask"].ravel()]
            ]
            assert 0 < np.mean(changed) < 1
            np.testing.assert_allclose(metrics["effect/value_clip"].value, np.mean(changed), rtol=1e-6)


def test_a_critic_without_values_or_returns_is_refused():
    s = step(0)
    batch = dataclasses.replace(s.batch(algorithm(baseline="critic")), returns=None)
    with pytest.raises(ValueError, match=r"batch\.values or batch\.returns is None"):
        value_loss(algorithm(baseline="critic"), jnp.asarray(s.values), batch)


@pytest.mark.parametrize(
    ("changes", "field", "named"),
    [
        ({"kl_placement": "loss", "kl_coefficient": 0.1}, "ref_logprobs", "kl_placement = 'loss'"),
        ({"old_logprobs": "trainer", "correction": "truncate"}, "correction", "correction = 'truncate'"),
        ({"surrogate": "kl_cov"}, "choice", "cov_share = 0.2"),
        ({"top_entropy_share": 0.5}, "choice", "top_entropy_share = 0.5"),
        ({"positive_nll_coefficient": 0.5}, "rewards", "positive_nll_coefficient = 0.5"),
        ({"surrogate": "topr"}, "rewards", "surrogate = 'topr'"),
    ],
)
def test_a_loss_without_what_a_knob_reads_is_refused_by_the_knobs_name(changes, field: str, named: str):
    a, s = algorithm(**changes), step(0)
    batch = dataclasses.replace(s.batch(a), **{field: None})
    with pytest.raises(ValueError, match=rf"algorithm\.{named}.* is None"):
        policy_loss(a, jnp.asarray(s.logprobs), jnp.asarray(s.entropy), batch, controls=controls())


def test_an_adaptive_coefficient_or_an_exact_kl_that_is_not_given_is_refused():
    s = step(0)
    for changes, named in (
        ({"kl_target": 0.1, "kl_horizon": 10, "kl_placement": "loss", "kl_coefficient": 0.1}, "kl_target = 0.1"),
        ({"entropy_target": 0.1, "entropy_step": 0.01}, "entropy_target = 0.1"),
        ({"kl_placement": "loss", "kl_coefficient": 0.1, "kl_estimator": "exact"}, "kl_estimator = 'exact'"),
    ):
        a = algorithm(**changes)
        with pytest.raises(ValueError, match=rf"algorithm\.{named} but .* is None"):
            policy_loss(a, jnp.asarray(s.logprobs), jnp.asarray(s.entropy), s.batch(a))


def test_an_exact_kl_that_no_knob_reads_changes_nothing():
    s = step(0)
    a = algorithm(kl_placement="loss", kl_coefficient=0.3, kl_estimator="k2")
    given = (jnp.asarray(s.logprobs), jnp.asarray(s.entropy), s.batch(a))
    with_it = policy_loss(a, *given, exact_kl=jnp.asarray(s.exact_kl))
    jax.tree.map(np.testing.assert_array_equal, with_it, policy_loss(a, *given))


def test_adaptive_coefficients_follow_what_was_measured():
    a = algorithm(
        kl_placement="loss", kl_coefficient=0.4, kl_target=0.1, kl_horizon=100, entropy_target=1.0, entropy_step=0.005
    )
    now = dataclasses.replace(library.initial_controls(a), entropy_coefficient=jnp.asarray(0.004))
    assert float(now.kl_coefficient) == np.float32(0.4)
    for kl, entropy, want_kl, want_entropy in (
        (0.11, 2.0, 0.4 * (1 + 0.1 * 8 / 100), 0.0),  # a coefficient of the entropy is never below 0
        (9.0, 0.5, 0.4 * (1 + 0.2 * 8 / 100), 0.009),
        (0.0, 1.0, 0.4 * (1 - 0.2 * 8 / 100), 0.0),
    ):
        after, metrics = library.next_controls(a, now, kl=jnp.asarray(kl), entropy=jnp.asarray(entropy), rows=8)
        np.testing.assert_allclose([after.kl_coefficient, after.entropy_coefficient], [want_kl, want_entropy], 1e-5)
        assert metrics["effect/kl_target"].value == metrics["effect/entropy_target"].value == 1
    on_target, metrics = library.next_controls(a, now, kl=jnp.float32(0.1), entropy=jnp.ones(()), rows=8)
    assert on_target.kl_coefficient == now.kl_coefficient and metrics["effect/kl_target"].value == 0
    plain, metrics = library.next_controls(algorithm(), now, kl=None, entropy=jnp.ones(()), rows=8)
    assert plain == now and not metrics
    with pytest.raises(ValueError, match=r"kl_target = 0\.1 but kl is None"):
        library.next_controls(a, now, kl=None, entropy=jnp.ones(()), rows=8)


def test_log_probabilities_that_are_far_apart_or_minus_infinity_leave_the_gradient_finite():
    s = step(0)
    in_loss = {"kl_placement": "loss", "kl_coefficient": 1.0}
    points = [{"surrogate": level} for level in SURROGATES] + [
        {"ratio": "sequence"}, {"ratio": "sequence_token"}, {"ratio": "sequence_product"}, {"dual_clip": 3.0},
        in_loss, in_loss | {"kl_estimator": "k2"}, in_loss | {"kl_estimator": "k1", "kl_importance": True},
    ]  # fmt: skip
    for changes in points:
        a = algorithm(baseline="group", **changes)
        clean = s.batch(a)
        for gap in (-1e4, np.inf, -np.inf) if changes == {"dual_clip": 3.0} else (np.inf, -np.inf):
            batch = dataclasses.replace(clean, old_logprobs=jnp.full(s.mask.shape, -5.0 - gap))
            batch = dataclasses.replace(batch, ref_logprobs=batch.old_logprobs)
            result = differentiate(a, np.full(s.mask.shape, -5.0, np.float32), s.entropy, batch)
            assert np.isfinite(result.loss), changes
            assert np.all(np.isfinite(result.by_logprobs)), changes


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
    exact = algorithm(kl_placement="loss", kl_estimator="exact", kl_coefficient=0.1)
    for needs, those, others in (
        (library.needs_reference, [placed, exact], [algorithm()]),
        (library.needs_exact_kl, [exact], [placed, algorithm()]),
        (library.needs_critic, [algorithm(baseline="critic")], [algorithm()]),
        (library.needs_choice, [algorithm(surrogate="kl_cov"), algorithm(top_entropy_share=0.2)], [algorithm()]),
        (library.needs_greedy, [algorithm(baseline="greedy")], [algorithm()]),
        (library.needs_sum_pi_squared, [algorithm(baseline="optimal_token")], [algorithm(baseline="critic")]),
    ):
        assert all(needs(a) for a in those) and not any(needs(a) for a in others)
    estimate = library.kl_estimate(placed, jnp.array([-1.0, -50.0]), jnp.array([-1.5, -1.0]))
    np.testing.assert_allclose(estimate, [0.5, -10.0])  # held within 10 nats
