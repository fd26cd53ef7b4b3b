"""Laws of the policy loss, for every surrogate at every level of the ratio and under every aggregation.

The tables of the library are iterated: a new entry is held to the laws without a line here. A case is a random step,
with an advantage of its own for each token, under one aggregation.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algorithm import (
    AGGREGATIONS,
    RATIOS,
    SURROGATES,
    Algorithm,
    choose_tokens,
    correct_gap,
    loss_weights,
    policy_loss,
)
from jaxrl_llm.types import Array, Metrics, TrainBatch
from tests.strategies import MAX_TOKENS, ROWS, Step, algorithm, controls, each, stacked, step

SEEDS = 2
NAMED = {"kl_placement": "loss", "kl_coefficient": 0.3}
EXTRAS: list[dict[str, Any]] = [
    {"dual_clip": 1.5},
    {"ratio_cap": 1.5},
    {"surrogate": "cispo", "drop_clipped": True},
    {"surrogate": "dppo", "dppo_by_sign": False},
    {"top_entropy_share": 0.4},
    {"bad_row_threshold": 0.02},
    {"positive_nll_coefficient": 0.3},
    {
        "old_logprobs": "trainer",
        "correction": "truncate",
        "correction_level": "segment",
        "correction_normalize": "rows",
    },
    {"entropy_coefficient": 0.02},
    {"entropy_target": 1.0, "entropy_step": 0.01},
    NAMED | {"kl_estimator": "k1", "kl_importance": True},
    NAMED | {"kl_estimator": "k2", "kl_target": 0.1, "kl_horizon": 10},
    NAMED | {"kl_estimator": "k3"},
    NAMED | {"kl_estimator": "absolute"},
    NAMED | {"kl_estimator": "exact"},
]


def allowed(grid: list[dict[str, Any]]) -> list[Algorithm]:
    """The points that the rules allow."""
    result = []
    for changes in grid:
        try:
            result.append(algorithm(**changes))
        except ValueError:
            continue
    return result


PRODUCT = allowed([{"surrogate": surrogate, "ratio": ratio} for surrogate in SURROGATES for ratio in RATIOS])
POINTS = PRODUCT + [algorithm(**changes) for changes in EXTRAS]


def name_of(a: Algorithm) -> str:
    plain = dataclasses.asdict(algorithm(surrogate=a.surrogate, ratio=a.ratio))
    more = [f"{k}={v}" for k, v in dataclasses.asdict(a).items() if v != plain[k]]
    return "-".join([a.surrogate, a.ratio, *more])


every_point = pytest.mark.parametrize("a", POINTS, ids=name_of)


class Cases(NamedTuple):
    """[C, B, T] each; ``batch`` is stacked along its first axis too."""

    logprobs: Array
    entropy: Array
    exact_kl: Array
    batch: TrainBatch


class Losses(NamedTuple):
    loss: np.ndarray
    gradients: dict[str, np.ndarray]
    metrics: Metrics


def steps() -> Step:
    return stacked([step(seed) for seed in range(SEEDS)])


def token_advantages(s: Step) -> Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=s.logprobs.shape).astype(np.float32))


def cases(a: Algorithm, s: Step, advantages: Any) -> Cases:
    """Every step under every aggregation; choice, correction and weights are computed from the whole step."""

    def prepared(s: Step, advantages: Array) -> TrainBatch:
        batch = s.train_batch(s.mask, advantages)
        if a.correction != "none":
            gap = correct_gap(a, batch.old_logprobs, batch.sampler_logprobs, batch.mask)
            batch = dataclasses.replace(batch, correction=gap.weights)
        choice = choose_tokens(a, jnp.asarray(s.logprobs), jnp.asarray(s.entropy), batch)
        return dataclasses.replace(batch, choice=choice)

    batch, parts = each(prepared, s, advantages), []
    for name in AGGREGATIONS:
        by = dataclasses.replace(a, aggregation=name)
        weights = jax.vmap(lambda mask, ids, by=by: loss_weights(by, mask, ids, max_tokens=MAX_TOKENS))
        weighed = dataclasses.replace(batch, weights=weights(batch.mask, jnp.asarray(s.prompt_id)))
        parts.append(Cases(jnp.asarray(s.logprobs), jnp.asarray(s.entropy), jnp.asarray(s.exact_kl), weighed))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def losses(a: Algorithm, c: Cases) -> Losses:
    """Loss, gradients and metrics of every case; the gradient by the weights is the loss of each token."""

    def loss(wanted: dict[str, Array], batch: TrainBatch) -> tuple[Array, Metrics]:
        batch = dataclasses.replace(batch, weights=wanted["weights"])
        exact_kl = wanted["exact_kl"] if a.kl_estimator == "exact" else None
        return policy_loss(a, wanted["logprobs"], wanted["entropy"], batch, controls=controls(), exact_kl=exact_kl)

    wanted = {"logprobs": c.logprobs, "entropy": c.entropy, "exact_kl": c.exact_kl, "weights": c.batch.weights}
    (value, metrics), gradients = jax.vmap(jax.value_and_grad(loss, has_aux=True))(wanted, c.batch)
    return Losses(np.asarray(value), {name: np.asarray(g) for name, g in gradients.items()}, metrics)


class Plain(NamedTuple):
    """The steps that several laws change, with what is computed of them as they are."""

    step: Step
    advantages: np.ndarray
    cases: Cases
    losses: Losses


@functools.cache
def plain(a: Algorithm) -> Plain:
    s = steps()
    advantages = token_advantages(s)
    c = cases(a, s, advantages)
    return Plain(s, np.asarray(advantages), c, losses(a, c))


@every_point
def test_garbage_off_the_mask_changes_nothing_and_every_effect_is_a_share(a: Algorithm):
    s, advantages, _, clean = plain(a)
    garbage = np.array([np.nan, np.inf], np.float32)[:, None, None]  # one a step
    spoilt = {
        name: np.where(s.mask, x, garbage) for name, x in vars(s).items() if x.dtype == np.float32 and x.ndim == 3
    }
    dirty_cases = cases(a, dataclasses.replace(s, **spoilt), jnp.where(s.mask, advantages, garbage))
    dirty = losses(a, dirty_cases)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    for gradient in dirty.gradients.values():
        assert not np.any(gradient[~np.asarray(dirty_cases.batch.mask)])
    for name, mean in dirty.metrics.items():
        if name.startswith("effect/"):
            assert np.all(np.asarray(mean.total) >= 0) and np.all(mean.total <= mean.weight), name


@every_point
def test_micro_batches_of_any_rows_sum_to_the_loss_the_gradient_and_the_metrics(a: Algorithm):
    _, _, c, whole = plain(a)
    order = np.array([4, 0, 3, 5, 1, 2])
    inverse = np.argsort(order)

    def split(x: Array) -> Array:
        return x[:, order].reshape(-1, 2, *x.shape[2:])  # three parts of two rows, each a case

    parts = losses(a, jax.tree.map(split, c))
    np.testing.assert_allclose(parts.loss.reshape(-1, 3).sum(1), whole.loss, rtol=1e-4, atol=1e-5)
    for name, gradient in parts.gradients.items():
        joined = gradient.reshape(-1, ROWS, gradient.shape[-1])[:, inverse]
        np.testing.assert_allclose(joined, whole.gradients[name], rtol=1e-4, atol=1e-6, err_msg=name)
    for name, want in whole.metrics.items():
        got = parts.metrics[name]
        np.testing.assert_allclose(got.total.reshape(-1, 3).sum(1), want.total, rtol=1e-4, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(got.weight.reshape(-1, 3).sum(1), want.weight, err_msg=name)


@every_point
def test_the_order_of_the_rows_and_the_width_of_the_padding_change_nothing(a: Algorithm):
    s, advantages, _, unmoved = plain(a)
    order = np.array([4, 0, 3, 5, 1, 2])
    inverse = np.argsort(order)

    def moved(x: np.ndarray) -> np.ndarray:
        if x.ndim == 2:
            return x[:, order]
        fill = False if x.dtype == bool else np.nan if x.dtype.kind == "f" else 7
        return np.pad(x[:, order], ((0, 0), (0, 0), (0, 3)), constant_values=fill)

    wide = losses(a, cases(a, Step(**{name: moved(x) for name, x in vars(s).items()}), jnp.asarray(moved(advantages))))
    np.testing.assert_allclose(wide.loss, unmoved.loss, rtol=1e-4, atol=1e-5)
    for name, gradient in wide.gradients.items():
        np.testing.assert_allclose(
            gradient[:, inverse, : s.mask.shape[-1]], unmoved.gradients[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
        assert not np.any(gradient[:, :, s.mask.shape[-1] :])


@every_point
def test_a_step_without_a_token_has_loss_zero_and_gradient_zero(a: Algorithm):
    s = steps()
    s = dataclasses.replace(s, mask=np.zeros_like(s.mask))
    result = losses(a, cases(a, s, token_advantages(s)))
    assert not np.any(result.loss)
    for gradient in result.gradients.values():
        assert not np.any(gradient)


# What stands in the place of A in REINFORCE's gradient on-policy; a surrogate that is not named promises A itself.
FACTORS = {
    "gmpo": lambda a, c: (  # the row's mean
        _row_sum(c, c.batch.advantages) / np.maximum(_row_sum(c, jnp.ones_like(c.logprobs)), 1)
    ),
    "topr": lambda a, c: (
        c.batch.advantages * np.where((c.batch.rewards > 0)[:, :, None], a.topr_weight_positive, a.topr_weight_negative)
    ),
    "clip_cov": lambda a, c: c.batch.advantages * ~c.batch.choice.covariance,
}
WEIGHT_ONLY = ("cispo", "topr")  # the ratio weighs and carries no gradient: its level is of no consequence on-policy


# A distance to a reference that is the policy itself pulls nowhere, but for k1, which does so on average only.
ON_POLICY = [
    *PRODUCT,
    algorithm(clip_low=0.0, clip_high=0.0),
    algorithm(dual_clip=1.01),
    *(algorithm(**NAMED, kl_estimator=level) for level in ("k2", "k3", "absolute")),
]


def _row_sum(c: Cases, x: Array) -> np.ndarray:
    return np.sum(np.where(c.batch.mask, x, 0), axis=-1, keepdims=True)


def promised(a: Algorithm, c: Cases) -> np.ndarray:
    """The gradient by log π that the surrogate promises where the policy is the one that sampled."""
    factor = FACTORS.get(a.surrogate, lambda a, c: c.batch.advantages)(a, c)
    gradient = -np.asarray(c.batch.weights) * np.asarray(factor)
    if a.ratio in ("sequence", "sequence_product") and a.surrogate not in WEIGHT_ONLY:
        of_row = np.where(c.batch.mask, gradient, 0).sum(-1, keepdims=True)  # each token has a share in all of them
        tokens = np.maximum(np.asarray(c.batch.mask).sum(-1, keepdims=True), 1)
        gradient = np.broadcast_to(of_row / (tokens if a.ratio == "sequence" else 1), gradient.shape)
    return np.where(c.batch.mask, gradient, 0)


@pytest.mark.parametrize("a", ON_POLICY, ids=name_of)
def test_on_policy_the_gradient_is_that_of_reinforce_and_no_clip_binds(a: Algorithm):
    s = steps()
    s = dataclasses.replace(s, old_logprobs=s.logprobs, sampler_logprobs=s.logprobs, ref_logprobs=s.logprobs)
    c = cases(a, s, token_advantages(s))
    result = losses(a, c)
    np.testing.assert_allclose(result.gradients["logprobs"], promised(a, c), rtol=1e-4, atol=1e-7)
    metrics = {name: np.asarray(mean.value) for name, mean in result.metrics.items()}
    assert np.all(metrics["ratio"] == 1)
    for name in metrics:
        if name.startswith(("effect/", "outside", "kl_")) and name != "effect/cov_share":
            assert np.all(metrics[name] == 0), name


class Effect(NamedTuple):
    """A knob that is on, and the changes that take it back."""

    knob: str
    on: dict[str, Any]
    off: dict[str, Any]


_CLIPS = [
    Effect(knob, {"surrogate": surrogate}, {knob: neutral})
    for surrogate in ("ppo_clip", "cispo", "dppo", "clip_cov")
    for knob, neutral in (("clip_low", 1.0), ("clip_high", 1e9))
]
EFFECTS = [
    *_CLIPS,
    Effect("dual_clip", {"dual_clip": 1.2}, {"dual_clip": None}),
    Effect("ratio_cap", {"ratio_cap": 1.4}, {"ratio_cap": None}),
    Effect("ratio_cap", {"ratio_cap": 1.1}, {"ratio_cap": None}),  # inside of the clip
    Effect("drop_clipped", {"surrogate": "cispo", "drop_clipped": True}, {"drop_clipped": False}),
    Effect("square_coefficient", {"surrogate": "kimi"}, {"square_coefficient": 0.0}),
    Effect("square_coefficient", {"surrogate": "dppo"}, {"square_coefficient": 0.0}),
    Effect("cov_share", {"surrogate": "kl_cov"}, {"kl_cov_coefficient": 0.0}),
    Effect("cov_share", {"surrogate": "clip_cov"}, {"surrogate": "ppo_clip"}),
    Effect("ratio", {"surrogate": "sapo", "ratio": "sequence"}, {"ratio": "token"}),
    Effect("top_entropy_share", {"top_entropy_share": 0.4}, {"top_entropy_share": None}),
    Effect("positive_nll_coefficient", {"positive_nll_coefficient": 0.3}, {"positive_nll_coefficient": 0.0}),
    Effect("kl_placement", NAMED, {"kl_placement": "none", "kl_coefficient": 0.0}),
    Effect("kl_importance", NAMED | {"kl_importance": True}, {"kl_importance": False}),
]


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda e: f"{e.knob}-{e.on.get('surrogate', '')}")
def test_the_share_of_tokens_that_a_knob_changed_is_that_of_the_losses_that_differ_without_it(effect: Effect):
    a, off = algorithm(**effect.on), algorithm(**effect.on | effect.off)
    s = steps()
    c = cases(a, s, token_advantages(s))
    result, without = losses(a, c), losses(off, c)
    changed = np.abs(result.gradients["weights"] - without.gradients["weights"]) > 0
    mean = result.metrics[f"effect/{effect.knob}"]
    np.testing.assert_array_equal(mean.total, changed.sum((1, 2)))
    np.testing.assert_array_equal(mean.weight, np.asarray(c.batch.mask).sum((1, 2)))
    assert np.any(changed)


def test_rows_left_out_by_the_bad_row_threshold_are_counted():
    a = algorithm(bad_row_threshold=0.02)
    s = steps()
    c = cases(a, s, jnp.broadcast_to(jnp.where(jnp.arange(ROWS) % 2 == 0, -1.0, 1.0)[:, None], s.logprobs.shape))
    result, without = losses(a, c), losses(algorithm(), c)
    changed = np.any(result.gradients["logprobs"] != without.gradients["logprobs"], axis=-1).sum(-1)
    assert changed.sum() > 0
    np.testing.assert_array_equal(result.metrics["effect/bad_row_threshold"].total, changed)


@pytest.mark.parametrize("a", [algorithm(surrogate=name) for name in ("ppo_clip", "clip_cov", "dppo")], ids=name_of)
def test_the_clip_takes_the_gradient_on_the_side_of_the_advantage_alone(a: Algorithm):
    s = steps()
    c = cases(a, s, token_advantages(s))
    if a.surrogate == "clip_cov":
        assert c.batch.choice is not None
        nothing = jnp.zeros_like(c.batch.mask)
        c = c._replace(batch=dataclasses.replace(c.batch, choice=c.batch.choice._replace(covariance=nothing)))
    square = None if a.square_coefficient is None else 0.0
    a = dataclasses.replace(a, square_coefficient=square, clip_low=0.15, clip_high=0.35)
    gradient = losses(a, c).gradients["logprobs"]
    ratio = np.exp(np.asarray(c.logprobs) - np.asarray(c.batch.old_logprobs))
    if a.surrogate == "dppo":
        ratio = 1 + np.exp(np.asarray(c.logprobs)) - np.exp(np.asarray(c.batch.old_logprobs))
    assert a.clip_low is not None and a.clip_high is not None
    good, mask = np.asarray(c.batch.advantages) > 0, np.asarray(c.batch.mask)
    binds = np.where(good, ratio > 1 + a.clip_high, ratio < 1 - a.clip_low)
    assert np.any(binds & mask) and np.any(mask & ~binds)
    np.testing.assert_array_equal(gradient[mask] == 0, binds[mask])


@pytest.mark.parametrize(
    ("knob", "on"),
    [
        ("kl_coefficient", NAMED),
        ("kl_coefficient", NAMED | {"kl_estimator": "exact"}),
        ("entropy_coefficient", {}),
        ("positive_nll_coefficient", {}),
        ("square_coefficient", {"surrogate": "kimi"}),
        ("kl_cov_coefficient", {"surrogate": "kl_cov"}),
    ],
)
def test_what_a_coefficient_adds_to_the_loss_and_the_gradient_is_in_proportion_to_it(knob: str, on: dict[str, Any]):
    s = steps()

    def found(coefficient: float) -> Losses:
        a = algorithm(**on | {knob: coefficient})
        return losses(a, cases(a, s, token_advantages(s)))

    small, one, two = found(1e-6), found(0.5), found(1.0)
    assert np.any(np.abs(two.loss - small.loss) > 1e-3)
    np.testing.assert_allclose(two.loss - small.loss, 2 * (one.loss - small.loss), rtol=1e-3, atol=1e-5)
    for name, gradient in two.gradients.items():
        if name != "weights":
            first = small.gradients[name]
            np.testing.assert_allclose(gradient - first, 2 * (one.gradients[name] - first), rtol=1e-3, atol=1e-5)
