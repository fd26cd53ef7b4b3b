"""Laws of the advantages, for every baseline with every scale.

The tables of the library are iterated: a new entry is held to the laws without a line here, and to all promises.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algorithm import BASELINES, SCALES, Advantages, Algorithm, keep_groups
from tests.strategies import Step, algorithm, each, stacked, step
from tests.test_laws_loss import allowed

SEEDS = 3
KL = {"kl_placement": "reward", "kl_estimator": "k1", "kl_coefficient": 0.3}
PRODUCT = allowed(
    [{"baseline": baseline, "scale": scale, "scale_epsilon": 0.0} for baseline in BASELINES for scale in SCALES]
)
EXTRAS = [
    {"baseline": "batch", "scale": "batch", "batch_statistics": "source"},
    {"baseline": "group", "scale": "group", "format_coefficient": 0.3, "reward_combination": "separate"},
    {"length_penalty": "group_relative"},
    {"repetition_coefficient": 0.4, "repetition_ngram": 2},
    {"whiten": True, "advantage_clip": 0.8},
    {"discount": 0.9, **KL},
    {"baseline": "critic", "gae_length_alpha": 0.3, "discount": 0.9, **KL},
    {"overlong_filter": True, "group_filter": "zero_variance"},
    {"group_filter": "difficulty"},
]
# What must not matter does so by baseline and by scale apart: each with the plainest of the other, and the group's.
POINTS = [a for a in PRODUCT if a.scale == "none" or a.baseline in ("none", "group")]
POINTS += [algorithm(**changes) for changes in EXTRAS]
BY_COLUMN = ("optimal_token",)  # baselines that compare the same column of several rows


def name_of(a: Algorithm) -> str:
    plain = dataclasses.asdict(algorithm(baseline=a.baseline, scale=a.scale))
    more = [f"{k}={v}" for k, v in dataclasses.asdict(a).items() if v != plain[k] and k != "scale_epsilon"]
    return "-".join([a.baseline, a.scale, *more])


every_point = pytest.mark.parametrize("a", POINTS, ids=name_of)


def steps() -> Step:
    return stacked([step(seed, binary=seed == 0) for seed in range(SEEDS)])


def run(a: Algorithm, s: Step) -> Advantages:
    def of(s: Step) -> Advantages:
        return s.advantages(a)

    return jax.tree.map(np.asarray, each(of, s))


@every_point
def test_garbage_off_the_mask_changes_nothing_and_every_effect_is_a_share(a: Algorithm):
    s = steps()
    garbage = np.array([np.nan, np.inf, -1e30], np.float32)[:, None, None]  # one a step
    dirty = {name: np.where(s.mask, x, garbage) for name, x in vars(s).items() if x.dtype == np.float32 and x.ndim == 3}
    result = run(a, dataclasses.replace(s, **dirty))
    jax.tree.map(np.testing.assert_array_equal, result, run(a, s))
    assert not np.any(result.values[~s.mask]) and not np.any(result.mask[~s.mask])
    for name, mean in result.metrics.items():
        if name.startswith("effect/"):
            assert np.all(mean.total >= 0) and np.all(mean.total <= mean.weight), name


@every_point
def test_the_order_of_the_rows_and_the_width_of_the_padding_change_nothing(a: Algorithm):
    s, order = steps(), np.array([4, 0, 3, 5, 1, 2])
    inverse, width = np.argsort(order), s.mask.shape[-1]

    def moved(x: np.ndarray) -> np.ndarray:
        if x.ndim == 2:
            return x[:, order]
        fill = False if x.dtype == bool else np.nan if x.dtype.kind == "f" else 7
        return np.pad(x[:, order], ((0, 0), (0, 0), (0, 3)), constant_values=fill)

    plain, wide = run(a, s), run(a, Step(**{name: moved(x) for name, x in vars(s).items()}))
    np.testing.assert_allclose(wide.values[:, inverse, :width], plain.values, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(wide.mask[:, inverse, :width], plain.mask)
    assert not np.any(wide.mask[:, :, width:]) and not np.any(wide.values[:, :, width:])


@pytest.mark.parametrize("a", [a for a in POINTS if a.baseline not in BY_COLUMN], ids=name_of)
def test_a_gap_in_a_row_costs_nothing(a: Algorithm):
    s = steps()
    order = np.argsort(~s.mask, axis=-1, kind="stable")
    closed = {
        name: np.take_along_axis(x, order, axis=-1) if x.ndim == 3 else x for name, x in vars(s).items()
    }  # the tokens of a row in order, then what is none
    result, plain = run(a, Step(**closed)), run(a, s)
    moved = np.take_along_axis(np.asarray(plain.values), order, axis=-1)
    np.testing.assert_allclose(result.values, moved, rtol=1e-3, atol=1e-5)


@every_point
def test_a_row_without_a_score_has_no_gradient_and_what_it_holds_is_of_no_consequence_to_the_others(a: Algorithm):
    s, at = steps(), 2
    s.rewards[:, at] = np.nan
    other = {name: x.copy() for name, x in vars(s).items()}
    for name, x in other.items():
        if name not in ("rewards", "prompt_id", "row_id", "source"):
            x[:, at] = ~x[:, at] if x.dtype == bool else x[:, at] * 3 + 1
    plain, changed = run(a, s), run(a, Step(**other))
    rest = np.arange(s.rewards.shape[1]) != at
    np.testing.assert_array_equal(changed.values[:, rest], plain.values[:, rest])
    np.testing.assert_array_equal(changed.mask[:, rest], plain.mask[:, rest])
    for result in (plain, changed):
        assert not np.any(result.mask[:, at]) and not np.any(result.values[:, at])
        assert np.all(np.isfinite(result.values))


def test_a_prompt_whose_greedy_completion_has_no_score_has_no_gradient():
    s = steps()
    s.greedy_rewards[s.prompt_id == 11] = np.nan
    result = run(algorithm(baseline="greedy", scale="batch"), s)
    assert np.all(np.isfinite(result.values))
    assert not np.any(result.mask[s.prompt_id == 11]) and np.any(result.mask[s.prompt_id == 4])


# Baselines that do not take a mean of the rewards at hand: equal rewards still say something beside what they take.
NOT_RELATIVE = ("none", "running", "greedy", "critic", "optimal_token")
# Scales that divide by the spread of the step, and leave nothing where there is none.
OF_SPREAD = ("group", "batch", "batch_centered")


@pytest.mark.parametrize("a", PRODUCT, ids=name_of)
def test_equal_rewards_give_exactly_no_advantage_even_with_no_epsilon(a: Algorithm):
    s = steps()
    # 7 · x / 7 and 11 · x / 11 are not x for every x, as 3 · x / 3 is
    s = Step(**{name: np.concatenate([x, x[:, :-1]], axis=1) for name, x in vars(s).items()})
    values = np.array([0.1, 0.7, 1e-20], np.float32)[:, None]
    rewards = np.broadcast_to(values, s.rewards.shape).copy()
    s = dataclasses.replace(s, rewards=rewards, prompt_id=np.broadcast_to(np.arange(11) // 7, rewards.shape))
    result = run(a, s)
    if a.baseline not in NOT_RELATIVE or a.scale in OF_SPREAD:
        assert not np.any(result.values)
    whitened = run(dataclasses.replace(a, whiten=True), s)
    if a.baseline in ("none", "batch") and a.scale != "running":
        assert not np.any(whitened.values)


class Affine(NamedTuple):
    """What is promised where every reward r becomes factor · r + shift."""

    ignores_shift: bool
    ignores_factor: bool
    follows_factor: bool


def affine(a: Algorithm) -> Affine:
    knows_rewards = a.baseline not in ("running", "critic") and a.scale != "running"
    # the optimal token baseline leaves the reward of a group of one as it is
    relative = a.baseline not in ("none", "running", "critic", "optimal_token")
    return Affine(
        ignores_shift=relative and a.scale not in ("running", "nonzero_share"),
        ignores_factor=knows_rewards and a.scale in OF_SPREAD,
        follows_factor=knows_rewards and a.scale in ("none", "nonzero_share"),
    )


@pytest.mark.parametrize("a", PRODUCT, ids=name_of)
def test_an_affine_map_of_the_reward_does_what_baseline_and_scale_promise(a: Algorithm):
    s, promise = steps(), affine(a)
    maps = [(1.0, 0.0), (1.0, 3.0), (4.0, 0.0)]
    fields = {name: np.concatenate([x] * len(maps)) for name, x in vars(s).items()}  # all maps of all steps at once
    for name in ("rewards", "greedy_rewards"):
        fields[name] = np.concatenate([factor * getattr(s, name) + np.float32(shift) for factor, shift in maps])
    plain, shifted, larger = np.split(np.asarray(run(a, Step(**fields)).values), len(maps))
    assert np.any(plain)
    if promise.ignores_shift:
        np.testing.assert_allclose(shifted, plain, rtol=2e-3, atol=2e-4)
    if promise.ignores_factor or promise.follows_factor:
        want = plain if promise.ignores_factor else 4 * plain
        np.testing.assert_allclose(larger, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("a", PRODUCT, ids=name_of)
def test_rewards_of_any_number_type_are_treated_as_floats(a: Algorithm):
    s = steps()
    rewards = (s.row_id % 2).astype(np.float32)
    want = run(a, dataclasses.replace(s, rewards=rewards)).values
    assert want.dtype == np.float32 and np.any(want)
    of_baseline = a.scale == "none"
    for dtype in (np.int8, np.float16, bool) if of_baseline else (np.int32,):
        got = run(a, dataclasses.replace(s, rewards=rewards.astype(dtype))).values
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


class Effect(NamedTuple):
    """A knob that is on, the changes that take it back, and whether it acts on rows (else on tokens)."""

    knob: str
    on: dict[str, Any]
    off: dict[str, Any]
    of_rows: bool


EFFECTS = [
    *(Effect("scale", {"scale": scale}, {"scale": "none"}, True) for scale in SCALES if scale != "none"),
    *(
        Effect("baseline", {"baseline": baseline}, {"baseline": "none"}, baseline not in ("critic", "optimal_token"))
        for baseline in BASELINES
        if baseline != "none"
    ),
    Effect("baseline", {"baseline": "critic", **KL}, {"baseline": "none"}, False),
    Effect("batch_statistics", {"baseline": "batch", "batch_statistics": "source"}, {"batch_statistics": "step"}, True),
    Effect("reward_clip", {"reward_clip": 0.5}, {"reward_clip": None}, True),
    Effect("discount", {"discount": 0.9}, {"discount": 1.0}, False),
    Effect("whiten", {"whiten": True}, {"whiten": False}, False),
    Effect("advantage_clip", {"advantage_clip": 0.5}, {"advantage_clip": None}, False),
]


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda e: "-".join([e.knob, *(str(v) for v in e.on.values())]))
def test_the_share_that_a_knob_changed_is_that_of_the_advantages_that_differ_without_it(effect: Effect):
    s = dataclasses.replace(steps(), mask=np.ones((SEEDS, 6, 5), bool))  # a row without tokens shows no advantage
    result, without = run(algorithm(**effect.on), s), run(algorithm(**effect.on | effect.off), s)
    changed = result.values != without.values
    if effect.of_rows:
        changed = changed[:, :, 0]
    mean = result.metrics[f"effect/{effect.knob}"]
    np.testing.assert_array_equal(mean.total, changed.reshape(SEEDS, -1).sum(-1))
    np.testing.assert_array_equal(mean.weight, changed[0].size)
    assert np.any(changed)


@pytest.mark.parametrize("changes", [{"overlong_filter": True}, {"group_filter": "zero_variance"}, EXTRAS[-1]])
def test_a_filter_changes_the_mask_alone_and_counts_the_rows_it_took(changes: dict[str, Any]):
    s = steps()
    base = algorithm(baseline="group", scale="batch")
    result, plain = run(dataclasses.replace(algorithm(**changes), baseline="group", scale="batch"), s), run(base, s)
    np.testing.assert_array_equal(result.values, plain.values)
    taken = np.any(plain.mask & ~result.mask, axis=-1)
    assert np.any(taken) and not np.any(result.mask & ~plain.mask)
    np.testing.assert_array_equal(result.mask, plain.mask & ~taken[:, :, None])
    knob = next(name for name in changes if name.endswith("_filter"))
    counted = np.asarray(result.metrics[f"effect/{knob}"].total)
    empty = ~np.any(s.mask, axis=-1)
    assert np.all(taken.sum(-1) <= counted) and np.all(counted <= taken.sum(-1) + empty.sum(-1))


@pytest.mark.parametrize("scale", SCALES)
def test_dynamic_sampling_reads_the_spread_of_the_group_whatever_the_scale_and_the_mean(scale: str):
    rewards = jnp.array([0.5, 0.5, -1.0, 1.0, 0.1, 0.1, 0.1, 5.0], jnp.float32)
    prompt_id = jnp.array([7, 7, 2, 2, 9, 9, 9, 4])  # means of 0.5, 0, 0.1 and 5
    for baseline in ("none", "group"):
        a = algorithm(group_filter="zero_variance", scale=scale, baseline=baseline)
        kept = keep_groups(a, rewards, prompt_id)
        np.testing.assert_array_equal(kept, [False, False, True, True, False, False, False, False])
