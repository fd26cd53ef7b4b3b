from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrl_llm import algorithm as library
from jaxrl_llm.algorithm import Algorithm, keep_groups, loss_weights, policy_loss, shape_rewards
from jaxrl_llm.types import Metrics, TrainBatch
from tests.oracles import objective as oracle
from tests.strategies import (
    FLOATS,
    LITE_PPO,
    MAX_TOKENS,
    ROWS,
    WIDTH,
    Step,
    algorithm,
    algorithms,
    few,
    rows_of,
    step,
    steps,
)

BASELINES = ["group", "batch", "leave_one_out"]
PAPER_REWARDS = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


class Result(NamedTuple):
    loss: float
    by_logprobs: np.ndarray
    by_entropy: np.ndarray
    metrics: Metrics


def differentiate(a: Algorithm, logprobs, entropy, batch: TrainBatch) -> Result:
    def loss(inputs):
        return policy_loss(a, *inputs, batch)

    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)((jnp.asarray(logprobs), jnp.asarray(entropy)))
    return Result(float(value), np.asarray(gradients[0]), np.asarray(gradients[1]), metrics)


def row_advantages(a: Algorithm, rewards: np.ndarray, prompt_id: np.ndarray) -> np.ndarray:
    """Advantages [B] of rows of one token each."""
    ones = jnp.ones((rewards.size, 1), bool)
    ids, truncated = jnp.asarray(prompt_id), jnp.zeros(rewards.size, bool)
    return np.asarray(
        library.advantages(a, jnp.asarray(rewards), prompt_id=ids, mask=ones, truncated=truncated).values[:, 0]
    )


# --- against the slow oracle ------------------------------------------------------------------------------------------


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
    loss, _ = policy_loss(a, jnp.asarray(s.logprobs), jnp.asarray(s.entropy), batch)
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


# --- what must not matter ---------------------------------------------------------------------------------------------


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
    kl = {"kl": jnp.where(s.mask, s.kl, garbage)} if _needs_kl(a) else {}
    np.testing.assert_array_equal(s.advantages(a, **kl).values, batch.advantages)


@few
@given(algorithms(), steps(), st.permutations(range(ROWS)))
def test_micro_batches_of_any_rows_sum_to_the_loss_the_gradient_and_the_metrics(
    a: Algorithm, s: Step, order: list[int]
):
    batch, rows = s.batch(a), np.array(order)
    whole = differentiate(a, s.logprobs, s.entropy, batch)
    loss, gradient, found = 0.0, np.zeros((ROWS, WIDTH)), []
    for part in (rows[:1], rows[1:4], rows[4:]):
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


# --- laws of the advantages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["none", "group", "batch", "batch_centered"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_equal_rewards_give_exactly_no_advantage_even_with_no_epsilon(baseline: str, scale: str):
    prompt_id = np.array([5, 5, 5, 8, 8, 8, 8, 8, 8, 8])
    for reward in (0.1, 1.0, -3.3, 1e-20, 7e5):  # sums of 0.1 are not multiples of it
        a = algorithm(baseline=baseline, scale=scale, scale_epsilon=0.0)
        assert np.all(row_advantages(a, np.full(10, reward, np.float32), prompt_id) == 0)


def test_equal_rewards_of_a_group_give_exactly_no_advantage_beside_other_groups():
    rewards = np.array([0.1, 0.1, 0.1, 0.7, 0.3, 0.3], np.float32)
    for baseline in ("group", "leave_one_out"):
        for scale in ("none", "group", "batch", "batch_centered"):
            a = algorithm(baseline=baseline, scale=scale, scale_epsilon=0.0)
            values = row_advantages(a, rewards, np.array([5, 5, 5, 8, 8, 8]))
            assert np.all(values[:3] == 0)
            assert np.all(values[3:] != 0)


@few
@given(steps(), st.sampled_from([0.5, 2.0, 10.0]), st.sampled_from([-1.0, 0.0, 3.0]))
def test_normalized_advantages_ignore_an_affine_map_of_the_reward(s: Step, factor: float, shift: float):
    pairs = [("group", "group"), ("batch", "batch"), ("group", "batch"), ("group", "batch_centered")]
    for baseline, scale in [*pairs, ("leave_one_out", "group")]:
        a = algorithm(baseline=baseline, scale=scale, scale_epsilon=0.0)
        mapped = dataclasses.replace(s, rewards=factor * s.rewards + np.float32(shift))
        np.testing.assert_allclose(mapped.advantages(a).values, s.advantages(a).values, rtol=1e-3, atol=1e-4)


@few
@given(steps())
def test_without_a_scale_the_advantage_follows_the_scale_of_the_reward_and_ignores_a_shift(s: Step):
    for baseline in BASELINES:
        a = algorithm(baseline=baseline)
        mapped = dataclasses.replace(s, rewards=2 * s.rewards - 1)
        np.testing.assert_allclose(mapped.advantages(a).values, 2 * s.advantages(a).values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("baseline", "scale", "want"),
    [
        ("group", "group", [[1.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, -1.5], [0] * 4, [0] * 4]),
        ("group", "none", [[0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75], [0] * 4, [0] * 4]),
        ("group", "batch", [[1.4524, -0.4841, -0.4841, -0.4841], [0.4841] * 3 + [-1.4524], [0] * 4, [0] * 4]),
        ("group", "batch_centered", [[2.3717, -0.7906, -0.7906, -0.7906], [0.7906] * 3 + [-2.3717], [0] * 4, [0] * 4]),
        ("batch", "batch", np.where(PAPER_REWARDS == 1, 0.968246, -0.968246)),
        ("none", "none", PAPER_REWARDS),
    ],
)
def test_the_table_of_small_examples_holds(baseline: str, scale: str, want):
    a = algorithm(baseline=baseline, scale=scale)
    values = row_advantages(a, PAPER_REWARDS.reshape(-1), np.repeat([3, 1, 2, 9], 4))
    np.testing.assert_allclose(values.reshape(4, 4), want, atol=1e-4)


def test_integer_and_half_precision_rewards_are_treated_as_floats():
    prompt_id = np.array([0, 0, 0, 1, 1, 1])
    want = row_advantages(LITE_PPO, np.array([1, 0, 0, 1, 1, 0], np.float32), prompt_id)
    assert want.dtype == np.float32
    for dtype in (np.int32, np.int8, np.float16, bool):
        got = row_advantages(LITE_PPO, np.array([1, 0, 0, 1, 1, 0], dtype), prompt_id)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


@few
@given(algorithms(), steps())
def test_a_row_without_a_score_leaves_the_others_as_if_it_were_not_there(a: Algorithm, s: Step):
    rewards = s.rewards.copy()
    rewards[2] = np.nan
    others = np.array([0, 1, 3, 4, 5, 6])
    full = dataclasses.replace(s, rewards=rewards)
    rest = Step(**{field.name: getattr(full, field.name)[others] for field in dataclasses.fields(s)})
    result, without = full.advantages(a), rest.advantages(a)
    np.testing.assert_allclose(np.asarray(result.values)[others], without.values, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(result.mask)[others], without.mask)
    assert not np.any(result.mask[2])
    assert np.all(result.values[2] == 0)


def test_a_group_of_one_scored_row_has_no_advantage():
    rewards = np.array([1.0, np.nan, 0.0, 1.0], np.float32)
    for a in (LITE_PPO, algorithm(baseline="group", scale="group"), algorithm(baseline="leave_one_out")):
        values = row_advantages(a, rewards, np.array([0, 0, 1, 1]))
        assert np.all(values[:2] == 0)
        assert np.all(values[2:] != 0)


def test_filters_act_on_the_mask_and_leave_the_statistics_alone():
    s = dataclasses.replace(step(1, binary=True), truncated=np.arange(ROWS) % 2 == 0)
    plain = s.advantages(LITE_PPO)
    for changes in ({"overlong_filter": True}, {"group_filter": "zero_variance"}):
        filtered = s.advantages(dataclasses.replace(LITE_PPO, **changes))
        np.testing.assert_array_equal(filtered.values, plain.values)
    filtered = s.advantages(dataclasses.replace(LITE_PPO, overlong_filter=True))
    np.testing.assert_array_equal(filtered.mask, s.mask & ~s.truncated[:, None])
    assert filtered.metrics["overlong_filtered"].value == np.float32(4 / 7)


def test_whitened_advantages_have_mean_zero_and_std_one_over_tokens():
    s = step(3)
    values = np.asarray(s.advantages(algorithm(whiten=True, scale_epsilon=0.0)).values)[s.mask]
    np.testing.assert_allclose([values.mean(), values.std(ddof=1)], [0, 1], atol=1e-6)


def test_a_clipped_advantage_says_how_many_tokens_were_clipped():
    s = step(3)
    free, held = s.advantages(algorithm()), s.advantages(algorithm(advantage_clip=0.5))
    np.testing.assert_array_equal(held.values, np.clip(free.values, -0.5, 0.5))
    share = np.mean(np.abs(np.asarray(free.values))[s.mask] > 0.5)
    np.testing.assert_allclose(held.metrics["advantage_clipped"].value, share, rtol=1e-6)


def test_kl_goes_into_the_reward_exactly_when_the_knob_says_so():
    s = step(0)
    with pytest.raises(ValueError, match="kl_placement = 'none' but kl is given"):
        s.advantages(LITE_PPO, kl=s.kl)
    a = dataclasses.replace(LITE_PPO, kl_placement="reward", kl_coefficient=0.1, kl_estimator="k1")
    named = {name: jnp.asarray(getattr(s, name)) for name in ("prompt_id", "mask", "truncated")}
    with pytest.raises(ValueError, match="kl_placement = 'reward' but kl is None"):
        library.advantages(a, jnp.asarray(s.rewards), **named)
    b = dataclasses.replace(LITE_PPO, kl_placement="loss", kl_coefficient=0.1)
    batch = dataclasses.replace(s.batch(b), ref_logprobs=None)
    with pytest.raises(ValueError, match="ref_logprobs is None"):
        policy_loss(b, jnp.asarray(s.logprobs), jnp.asarray(s.entropy), batch)


# --- groups and rewards -----------------------------------------------------------------------------------------------


def test_dynamic_sampling_keeps_the_groups_whose_own_rewards_differ():
    rewards = jnp.array([0.1, 1, 0.1, 0, 0.1, 1, np.nan, 5])
    prompt_id = jnp.array([7, 2, 7, 2, 7, 9, 9, 4])
    keep = keep_groups(algorithm(group_filter="zero_variance"), rewards, prompt_id)
    np.testing.assert_array_equal(keep, [False, True, False, True, False, False, False, False])
    assert np.all(keep_groups(algorithm(), rewards, prompt_id))


def test_zero_variance_groups_are_counted_once_each_whatever_their_size():
    rewards, prompt_id = np.array([1, 1, 1, 1, 1, 0, 2, 2], np.float32), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    ones = jnp.ones((8, 1), bool)
    result = library.advantages(
        LITE_PPO, jnp.asarray(rewards), prompt_id=jnp.asarray(prompt_id), mask=ones, truncated=jnp.zeros(8, bool)
    )
    np.testing.assert_allclose(result.metrics["zero_variance_groups"].value, 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(result.metrics["reward_std_group"].value, 0.5 / 3, rtol=1e-6)
    np.testing.assert_allclose(result.metrics["reward_std_batch"].value, rewards.std(), rtol=1e-6)


def test_the_soft_penalty_is_zero_before_the_buffer_and_full_at_the_limit():
    a = algorithm(overlong_buffer=20, overlong_penalty=0.5)
    length = jnp.array([0, 80, 81, 90, 100, 130])
    shaped = shape_rewards(a, jnp.array([1, 1, 1, 1, 1, 0]), length, max_tokens=100)
    np.testing.assert_allclose(shaped, [1, 1, 0.975, 0.75, 0.5, -0.5], rtol=1e-6)
    np.testing.assert_array_equal(shape_rewards(algorithm(), jnp.ones(6), length, max_tokens=100), np.ones(6))
    assert np.isnan(shape_rewards(a, jnp.array([np.nan]), jnp.array([90]), max_tokens=100))[0]


# --- weights ----------------------------------------------------------------------------------------------------------


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


# --- laws of the loss -------------------------------------------------------------------------------------------------


@few
@given(steps(), st.sampled_from(["token_mean", "sequence_mean"]))
def test_on_policy_the_ratio_is_one_and_the_ppo_gradient_is_that_of_reinforce(s: Step, aggregation: str):
    s = dataclasses.replace(s, old_logprobs=s.logprobs, sampler_logprobs=s.logprobs)
    changes = {"baseline": "batch", "aggregation": aggregation}
    reinforce = algorithm(surrogate="reinforce", **changes)
    want = differentiate(reinforce, s.logprobs, s.entropy, s.batch(reinforce)).by_logprobs
    for more in ({}, {"clip_low": 0.0, "clip_high": 0.0}, {"ratio": "sequence"}, {"dual_clip": 1.5}):
        a = algorithm(**changes, **more)
        result = differentiate(a, s.logprobs, s.entropy, s.batch(a))
        np.testing.assert_allclose(result.by_logprobs, want, rtol=1e-5, atol=1e-7)
        metrics = result.metrics
        assert metrics["ratio"].value == 1
        assert metrics["kl_old"].value == 0
        assert metrics["kl_sampler"].value == 0
        assert metrics["clip_fraction_low"].value == metrics["clip_fraction_high"].value == 0
        assert metrics["outside_low"].value == metrics["outside_high"].value == 0


@pytest.mark.parametrize(
    ("advantage", "ratio", "dual_clip", "gradient", "counted"),
    [
        (1.0, 1.1, None, True, None),
        (1.0, 1.5, None, False, "clip_fraction_high"),
        (1.0, 0.5, None, True, None),  # the clip is one-sided
        (-1.0, 0.5, None, False, "clip_fraction_low"),
        (-1.0, 1.5, None, True, None),
        (-1.0, 0.9, None, True, None),
        (-1.0, 1.5, 2.0, True, None),
        (-1.0, 2.5, 2.0, False, "dual_clip_fraction"),
        (1.0, 2.5, 2.0, False, "clip_fraction_high"),
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
    for name in ("clip_fraction_low", "clip_fraction_high", "dual_clip_fraction"):
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


def test_an_algorithm_is_a_static_argument_and_compiles_to_what_it_computes_eagerly():
    a = algorithm(baseline="leave_one_out", scale="group", whiten=True, group_filter="zero_variance", dual_clip=3.0)
    s = step(2)
    batch = s.batch(a)
    named = {name: jnp.asarray(getattr(s, name)) for name in ("prompt_id", "mask", "truncated")}
    result = jax.jit(library.advantages, static_argnums=0)(a, jnp.asarray(s.rewards), **named)
    np.testing.assert_allclose(result.values, batch.advantages, rtol=1e-5, atol=1e-6)
    compiled = jax.jit(policy_loss, static_argnums=0)(a, jnp.asarray(s.logprobs), jnp.asarray(s.entropy), batch)
    np.testing.assert_allclose(compiled[0], differentiate(a, s.logprobs, s.entropy, batch).loss, rtol=1e-5)


def test_what_an_algorithm_needs_follows_from_its_knobs():
    placed = algorithm(kl_placement="reward", kl_estimator="k1", kl_coefficient=0.1)
    assert library.needs_reference(placed)
    assert not library.needs_reference(algorithm())
    assert library.needs_entropy(algorithm(entropy_coefficient=0.1))
    assert not library.needs_entropy(algorithm())
    estimate = library.kl_estimate(placed, jnp.array([-1.0, -50.0]), jnp.array([-1.5, -1.0]))
    np.testing.assert_allclose(estimate, [0.5, -10.0])  # held within 10 nats
