"""Scores before an update: of which rows they are, and that a step is the same without those that nothing reads.

Policy and rollout are those of test_update.py; here the rows are scored as a run scores them.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.algorithm import (
    Algorithm,
    correct_gap,
    initial_controls,
    needs_exact_kl,
    needs_reference,
    policy_loss,
    rows_with_gradient,
    scores_in_loss_alone,
)
from jaxrl_llm.training.batch import Judged, make_completer
from jaxrl_llm.training.packing import pack_batch
from jaxrl_llm.training.score import Scorer
from jaxrl_llm.training.scoring import score_and_weigh
from jaxrl_llm.types import Rollout, TrainBatch
from tests import policies
from tests.training.test_update import FILTERED, MODEL, PACKED, REWARDS, ROLLOUT, ROWS, TOKENS, table

WITH_TOKENS = ROLLOUT.mask.any(axis=1)
SCORER = Scorer(MODEL, FILTERED, 10_000)
NOISE = np.random.default_rng(5).normal(size=(2, ROWS, TOKENS))


def scored_rows(passes) -> np.ndarray:
    """bool [B]."""
    targets = np.concatenate([np.asarray(part.target).reshape(-1) for part in passes])
    return np.isin(np.arange(ROWS), targets[targets < ROWS * TOKENS] // TOKENS)


@functools.cache
def weighed(algorithm: Algorithm, *, skips: bool, whole: bool = False):
    """(scores, batch, metrics of the batch, rows of each call for passes)."""
    of_calls = []

    def passes_of(batch: Rollout | TrainBatch, policy: Algorithm | None):
        passes = pack_batch(batch, ROLLOUT.prompt_id, PACKED, policy)[0]  # type: ignore[arg-type]
        of_calls.append(scored_rows(passes))
        return passes

    batcher, completer = policies.batcher(algorithm, TOKENS), make_completer(algorithm)
    programs: Any = types.SimpleNamespace(score=SCORER, batch=batcher, complete=completer, critic=None)
    state: Any = types.SimpleNamespace(policy=table(), controls=initial_controls(algorithm))
    right = REWARDS > 0
    judged = Judged(REWARDS, right, np.ones_like(right))
    reference = table(7) if needs_reference(algorithm) else None
    scored, batch, _, metrics = score_and_weigh(
        algorithm, programs, state, reference, ROLLOUT, judged, passes_of, skips=skips, whole=whole
    )
    return scored, batch, metrics, of_calls


def loss_and_gradients(algorithm: Algorithm, batch: TrainBatch):
    """The loss of the rows that an update computes, and its gradients by log-probabilities, entropies and exact KLs."""
    computed = batch.mask & rows_with_gradient(algorithm, batch)[:, None]
    batch = dataclasses.replace(batch, mask=computed)
    logprobs = jnp.where(batch.mask, ROLLOUT.sampler_logprobs + 0.2 * NOISE[0], 0).astype(jnp.float32)
    entropy = jnp.asarray(1 + np.abs(NOISE[1]), jnp.float32)

    def loss(logprobs, entropy, kl):
        exact = kl if needs_exact_kl(algorithm) and algorithm.kl_placement == "loss" else None
        return policy_loss(algorithm, logprobs, entropy, batch, controls=initial_controls(algorithm), exact_kl=exact)[0]

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(logprobs, entropy, entropy)


TRAINER = {"old_logprobs": "trainer"}
CORRECTED = TRAINER | {"correction": "truncate", "correction_level": "sequence", "correction_high": 1.1}
NORMALIZED = CORRECTED | {"correction_normalize": "rows"}
REJECTED = {"rejection": "k3", "rejection_level": "token", "rejection_high": 9.0}
# name -> recipe, changes; test_update.py takes a step of every recipe without the scores of rows without gradient
SCORED: dict[str, tuple[str, dict]] = {
    "truncated importance": ("lite_ppo", CORRECTED),
    "KL in the loss, filtered groups and rows": (
        "grpo",
        CORRECTED | {"group_filter": "zero_variance", "overlong_filter": True, "correction_level": "token"},
    ),
}


def algorithm_of(name: str) -> Algorithm:
    recipe, changes = SCORED[name]
    return policies.algorithm(recipe, **changes)


@pytest.mark.parametrize("name", SCORED)
def test_a_step_is_the_same_when_only_the_rows_that_it_computes_are_scored(name):
    algorithm = algorithm_of(name)
    _, all_rows, of_all, (every,) = weighed(algorithm, skips=False)
    _, batch, metrics, (scored,) = weighed(algorithm, skips=True)
    np.testing.assert_array_equal(every, WITH_TOKENS)
    for made in (batch, all_rows):
        np.testing.assert_array_equal(rows_with_gradient(algorithm, made), scored)
    assert 0 < scored.sum() < every.sum()
    for field in ("mask", "weights", "advantages"):
        np.testing.assert_array_equal(getattr(batch, field), getattr(all_rows, field), err_msg=field)
    found, expected = loss_and_gradients(algorithm, batch), loss_and_gradients(algorithm, all_rows)
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)  # scores of order 3 in float32, packed otherwise
    assert metrics.keys() == of_all.keys()
    for key in metrics:
        if not key.startswith(("gap/", "effect/correction")):
            np.testing.assert_array_equal(metrics[key].value, of_all[key].value, err_msg=key)


@pytest.mark.parametrize(
    ("recipe", "changes", "alone"),
    [
        *((recipe, changes, True) for recipe, changes in SCORED.values()),
        ("lite_ppo", NORMALIZED, False),
        ("lite_ppo", CORRECTED | {"correction_normalize": "tokens"}, False),
        ("lite_ppo", TRAINER | REJECTED, False),
        ("lite_ppo", TRAINER | {"baseline": "optimal_token", "scale": "none"}, False),
        ("rloo", TRAINER, False),  # a KL in the reward
        ("lite_ppo", {"kl_placement": "reward", "kl_estimator": "exact", "kl_coefficient": 0.1}, False),
        ("ppo", TRAINER, False),
        ("lite_ppo", {}, False),  # nothing is scored: the ratio is against what the sampler recorded
    ],
)
def test_scores_that_reach_an_advantage_or_the_weight_of_another_row_are_of_all_rows(recipe, changes, alone):
    assert scores_in_loss_alone(policies.algorithm(recipe, **changes)) == alone


@pytest.mark.parametrize(("changes", "wanted"), [(NORMALIZED, [WITH_TOKENS]), ({}, [])])
def test_all_rows_are_scored_where_they_are_compared_and_none_where_nothing_reads_the_scores(changes, wanted):
    np.testing.assert_array_equal(weighed(policies.algorithm("lite_ppo", **changes), skips=True)[3], wanted)


def test_the_gap_between_trainer_and_sampler_is_measured_on_the_rows_that_are_computed():
    algorithm = algorithm_of("truncated importance")
    scored, _, _, _ = weighed(algorithm, skips=False)
    _, batch, metrics, (computed,) = weighed(algorithm, skips=True)
    mask = ROLLOUT.mask & computed[:, None]
    wanted = correct_gap(algorithm, scored.old_logprobs, ROLLOUT.sampler_logprobs, jnp.asarray(mask))
    assert wanted.metrics["effect/correction_high"].value > 0
    for key, mean in wanted.metrics.items():
        np.testing.assert_allclose(metrics[key].value, mean.value, rtol=1e-5, atol=1e-6, err_msg=key)
    assert batch.correction is not None and wanted.weights is not None
    np.testing.assert_allclose(batch.correction, wanted.weights, rtol=1e-5)


def test_a_rollout_that_is_saved_has_all_scores_and_the_step_that_it_has_when_it_is_not():
    algorithm = algorithm_of("KL in the loss, filtered groups and rows")
    every, _, _, _ = weighed(algorithm, skips=False)
    _, batch, metrics, (computed,) = weighed(algorithm, skips=True)
    scored, of_saved, of_metrics, of_calls = weighed(algorithm, skips=True, whole=True)
    np.testing.assert_array_equal(of_calls, [computed, WITH_TOKENS & ~computed])
    for got, wanted in zip(jax.tree.leaves(scored), jax.tree.leaves(every), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert (np.asarray(scored.ref_logprobs)[ROLLOUT.mask] < 0).all(), "a log-probability of a token that was not scored"
    for got, wanted in zip(*(jax.tree.leaves(x) for x in ((of_saved, of_metrics), (batch, metrics))), strict=True):
        np.testing.assert_array_equal(got, wanted)
