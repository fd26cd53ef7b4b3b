"""An optimizer step of every recipe: the same however its rows are packed; tokens are chosen once for the step.

The policy is a table: the logits of a token depend on the token before it alone. It compiles in no time, and what is
tested here does not look inside of a model.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_llm.algorithm import (
    Algorithm,
    choose_tokens,
    initial_controls,
    needs_choice,
    needs_critic,
    needs_exact_kl,
    needs_greedy,
    needs_reference,
    policy_loss,
    rows_with_gradient,
)
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.training.layouts import Budget
from jaxrl_llm.training.packing import Packing, Saved, pack_batch
from jaxrl_llm.training.score import Scores, score
from jaxrl_llm.training.step import init_state
from jaxrl_llm.training.update import CriticUpdate, PolicyUpdate
from jaxrl_llm.types import Critic, Model, Rollout, TrainBatch
from tests import policies
from tests.policies import CONFIGS

VOCABULARY, WIDTH, ROWS, TOKENS = 12, 6, 16, 7
FILTERED = Sampling(max_tokens=TOKENS, temperature=0.9, top_k=8, top_p=0.95, min_p=0.0, stop=())


def table(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {"table": (VOCABULARY, WIDTH), "head": (WIDTH, VOCABULARY), "value": (WIDTH,)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def hidden_of(params, tokens, positions, segments, prompt, lanes, segments_per_lane):
    return params["table"][tokens] + 0.01 * positions[..., None]


MODEL = Model(
    **dict.fromkeys(Model._fields)  # type: ignore[arg-type]
    | {"apply": hidden_of, "head": lambda params: params, "unembed": lambda params, hidden: hidden @ params["head"]}
)
CRITIC = Critic(
    lambda params: jax.tree.map(jnp.copy, params), hidden_of, lambda params, hidden: hidden @ params["value"]
)


def rollout() -> Rollout:
    """Four groups of four rows with gaps and an empty row, sampled by a policy a little off the one that learns."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, VOCABULARY, (ROWS, TOKENS)).astype(np.int32)
    mask = (np.arange(TOKENS) < rng.integers(2, TOKENS + 1, (ROWS, 1))) & (rng.random((ROWS, TOKENS)) < 0.9)
    mask[5] = False
    arrays = {
        "prompt_tokens": np.repeat(rng.integers(0, VOCABULARY, (4, 3)).astype(np.int32), 4, axis=0),
        "prompt_length": np.repeat(rng.integers(1, 4, 4).astype(np.int32), 4),
        "tokens": tokens,
        "mask": mask,
        "truncated": rng.random(ROWS) < 0.3,
        "prompt_id": np.repeat(np.arange(4, dtype=np.int32), 4),
        "sampler_logprobs": np.zeros((ROWS, TOKENS), np.float32),
    }
    taken = Rollout(**arrays)  # type: ignore[arg-type]
    exact = score(MODEL, table(), taken, FILTERED, chunk=10_000).logprobs
    noisy = np.where(mask, np.asarray(exact) + rng.normal(size=mask.shape) * 0.3, 0).astype(np.float32)
    return dataclasses.replace(taken, sampler_logprobs=noisy)  # type: ignore[arg-type]


ROLLOUT = rollout()
REWARDS = np.random.default_rng(2).integers(0, 2, ROWS).astype(np.float32)
REWARDS[8:12] = 1  # nothing to tell the rows of the third group apart by
RNG = np.random.default_rng(3)
NOISE = {name: np.where(ROLLOUT.mask, RNG.normal(size=(ROWS, TOKENS)) * 0.2, 0).astype(np.float32) for name in "abcd"}


def batch_of(algorithm: Algorithm):
    """A batch with everything that some recipe reads."""
    concentration = np.full((ROWS, TOKENS), 0.3, np.float32)
    given = {
        "old_logprobs": ROLLOUT.sampler_logprobs + NOISE["a"],
        "policy": Scores(ROLLOUT.sampler_logprobs + NOISE["b"], NOISE["b"], concentration, np.abs(NOISE["b"])),  # type: ignore[arg-type]
        "ref_logprobs": ROLLOUT.sampler_logprobs + NOISE["c"] if needs_reference(algorithm) else None,
        "values": NOISE["d"] if needs_critic(algorithm) else None,
    }
    greedy = np.repeat(np.array([1, 0, 1, 0], np.float32), 4) if needs_greedy(algorithm) else None
    return policies.batch(algorithm, ROLLOUT, REWARDS, greedy_rewards=greedy, **given)[0]


def without_needless_scores(algorithm: Algorithm, batch: TrainBatch) -> TrainBatch:
    """NaN in place of the scores that the rows without gradient would have."""
    kept = rows_with_gradient(algorithm, batch)[:, None]
    scores = {name: getattr(batch, name) for name in ("old_logprobs", "ref_logprobs", "correction")}
    found = {name: jnp.where(kept, score, jnp.nan) for name, score in scores.items() if score is not None}
    return dataclasses.replace(batch, **found)


PADDED = Budget(0, share=False)  # one pass, a row a completion
PACKED = Budget(24)
SMALL = Budget(20, devices=2, share=False)  # eight passes of two rows


def passes_of(batch, budget: Budget, algorithm: Algorithm | None = None) -> tuple[list[Packing], Saved]:
    """All rows, or those in which the policy of ``algorithm`` finds a gradient."""
    return pack_batch(batch, ROLLOUT.prompt_id, budget, algorithm)  # type: ignore[arg-type]


def stepped(algorithm: Algorithm, budget: Budget, *, chunk: int = 10_000, skip: bool = False):
    """(parameters after a step of size 1, metrics); of the critic too where there is one.

    Args:
      skip: whether the rows without gradient are left out, of the scores too.
    """
    optimizer, batch = optax.sgd(1.0), batch_of(algorithm)
    if skip:
        batch = without_needless_scores(algorithm, batch)
    critic = {"critic": CRITIC, "critic_optimizer": optimizer} if needs_critic(algorithm) else {}
    state = init_state(table(), optimizer, algorithm, **critic)
    update = PolicyUpdate(MODEL, algorithm, FILTERED, optimizer, chunk)
    reference = table(7) if needs_exact_kl(algorithm) else None
    state, metrics = update(state, batch, passes_of(batch, budget, algorithm if skip else None)[0], reference)
    if critic:
        of_critic = CriticUpdate(CRITIC, algorithm, optimizer)
        state, more = of_critic(state, batch, passes_of(batch, budget)[0])
        metrics = metrics | more
    return (state.params, state.critic_params), metrics


NOT_RECIPES = ("base", "gsm8k", "quickstart", "quickstart_real")  # settings of a run, not another algorithm
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem not in NOT_RECIPES)
COVARIANCE = {"cov_share": 0.2}
CASES: dict[str, tuple[str, dict]] = {name: (name, {}) for name in RECIPES} | {
    "clip_cov": ("lite_ppo", {"surrogate": "clip_cov", "cov_low": 0.0, "cov_high": 9.0} | COVARIANCE),
    "kl_cov": (
        "lite_ppo",
        {"surrogate": "kl_cov", "clip_low": None, "clip_high": None, "kl_cov_coefficient": 1.0} | COVARIANCE,
    ),
    "top_entropy": ("lite_ppo", {"top_entropy_share": 0.4}),
    "exact_kl": ("grpo", {"kl_estimator": "exact", "kl_coefficient": 0.5}),
    "adaptive": ("grpo", {"kl_target": 0.1, "kl_horizon": 10, "entropy_target": 1.0, "entropy_step": 0.1}),
    "corrected": (
        "lite_ppo",
        {"old_logprobs": "trainer", "correction": "truncate", "correction_level": "token", "correction_high": 1.1}
        | {"rejection": "k3", "rejection_level": "token", "rejection_high": 0.2, "bad_row_threshold": 0.01},
    ),
}


def assert_same_step(got, wanted):
    for leaf, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(leaf, other, atol=2e-6)  # float32 sums of a few hundred numbers of order 0.1


@pytest.mark.parametrize("name", CASES)
def test_packing_passes_and_skipped_rows_change_neither_loss_nor_update(name):
    recipe, changes = CASES[name]
    algorithm = policies.algorithm(recipe, **changes)
    whole, metrics = stepped(algorithm, PADDED)
    packed, of_packed = stepped(algorithm, PACKED, chunk=8)
    skipped, of_skipped = stepped(algorithm, PACKED, skip=True)
    assert_same_step(packed, whole)
    assert_same_step(skipped, whole)
    assert metrics.keys() == of_packed.keys() == of_skipped.keys()
    for key, mean in metrics.items():
        np.testing.assert_allclose(of_packed[key].value, mean.value, rtol=1e-6, atol=1e-6, err_msg=key)
    np.testing.assert_allclose(of_skipped["loss"].value, metrics["loss"].value, rtol=1e-6, atol=1e-6)


def gradient_by_row(algorithm: Algorithm) -> np.ndarray:
    """float [B]: the largest gradient of the loss by a log-probability, an entropy or an exact KL of the row."""
    batch, rng = batch_of(algorithm), np.random.default_rng(4)
    shape = batch.mask.shape
    logprobs, entropy, kl = (jnp.asarray(rng.normal(size=shape) - 1, jnp.float32) for _ in range(3))
    if needs_choice(algorithm):
        batch = dataclasses.replace(batch, choice=choose_tokens(algorithm, logprobs, entropy, batch))

    def loss(logprobs, entropy, kl):
        exact = kl if needs_exact_kl(algorithm) else None
        return policy_loss(algorithm, logprobs, entropy, batch, controls=initial_controls(algorithm), exact_kl=exact)[0]

    found = jax.grad(loss, argnums=(0, 1, 2))(logprobs, entropy, kl)
    return np.max([np.abs(x).max(axis=1) for x in found], axis=0)


@pytest.mark.parametrize("name", CASES)
def test_a_row_that_is_skipped_has_no_gradient(name):
    recipe, changes = CASES[name]
    algorithm = policies.algorithm(recipe, **changes)
    kept = np.asarray(rows_with_gradient(algorithm, batch_of(algorithm)))
    assert kept.any()
    assert (gradient_by_row(algorithm)[~kept] == 0).all()


def test_rows_without_advantage_are_skipped_and_counted():
    """The third group's rewards are all equal; row 5 is empty."""
    algorithm = policies.algorithm("lite_ppo")
    batch = policies.batch(algorithm, ROLLOUT, REWARDS)[0]
    kept = np.asarray(rows_with_gradient(algorithm, batch))
    spread = np.repeat([len(set(REWARDS[i : i + 4])) > 1 for i in range(0, ROWS, 4)], 4)
    np.testing.assert_array_equal(kept, spread & ROLLOUT.mask.any(axis=1))
    assert not kept[8:12].any() and not kept[5]
    _, saved = passes_of(batch, PACKED, algorithm)
    assert saved.shares()["rows"] == (~kept).mean()


@pytest.mark.parametrize("placement", ["loss", "reward"])
def test_a_coefficient_that_adapts_to_the_kl_sees_every_row(placement):
    adaptive = {"kl_placement": placement, "kl_estimator": "k1" if placement == "reward" else "k3"}
    changes = adaptive | {"kl_coefficient": 0.1, "kl_target": 0.1, "kl_horizon": 10}
    algorithm = policies.algorithm("lite_ppo", **changes)
    batch = dataclasses.replace(batch_of(algorithm), advantages=jnp.zeros(ROLLOUT.mask.shape))
    np.testing.assert_array_equal(rows_with_gradient(algorithm, batch), ROLLOUT.mask.any(axis=1))


def test_a_step_without_any_gradient_is_still_a_step():
    algorithm, optimizer = policies.algorithm("lite_ppo"), optax.adamw(0.1, weight_decay=0.1)
    batch = policies.batch(algorithm, ROLLOUT, np.ones(ROWS, np.float32))[0]
    update = PolicyUpdate(MODEL, algorithm, FILTERED, optimizer, 100)
    passes, saved = passes_of(batch, PACKED, algorithm)
    state, metrics = update(init_state(table(), optimizer, algorithm), batch, passes)
    assert saved.shares()["rows"] == 1 and int(state.step) == 1
    assert float(metrics["loss"].value) == float(metrics["gradient_norm"].value) == 0
    for leaf, before in zip(jax.tree.leaves(state.params), jax.tree.leaves(table()), strict=True):
        np.testing.assert_allclose(leaf, before * (1 - 0.1 * 0.1), rtol=1e-6)  # the weight decay alone


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov", "top_entropy"])
def test_tokens_are_compared_over_the_whole_step(name):
    """Each quarter of the rows by itself would choose others: what is chosen has the share of all tokens."""
    recipe, changes = CASES[name]
    algorithm = policies.algorithm(recipe, **changes)
    _, metrics = stepped(algorithm, SMALL)
    kept, effect = batch_of(algorithm).mask.sum(), metrics[f"effect/{'top_entropy' if 'top' in name else 'cov'}_share"]
    assert float(effect.weight) == float(kept)
    if name == "kl_cov":
        assert float(effect.total) == max(1, int(0.2 * kept))
    assert 0 < float(effect.value) < 1


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


@pytest.mark.parametrize("chunk", [10_000, 20])
@pytest.mark.parametrize("filters", [{}, {"top_k": 0, "top_p": 1.0}], ids=["filtered", "whole vocabulary"])
def test_the_exact_kl_is_the_sum_over_the_tokens_that_the_policy_can_choose(filters, chunk):
    sampling = dataclasses.replace(FILTERED, **filters)
    taken, params, reference = ROLLOUT, table(), table(7)

    def kl_of(params, reference=reference):
        kl = score(MODEL, params, taken, sampling, chunk=chunk, reference=reference).exact_kl
        assert kl is not None
        return kl

    got = np.asarray(kl_of(params))
    for row, column in zip(*np.nonzero(taken.mask), strict=True):
        length = int(taken.prompt_length[row])
        before = taken.tokens[row, column - 1] if column else taken.prompt_tokens[row, length - 1]
        position = length + column - 1
        logits, of_reference = (
            np.asarray((p["table"][before] + 0.01 * position) @ p["head"], np.float64) / sampling.temperature
            for p in (params, reference)
        )
        order = np.argsort(-logits)
        if sampling.top_k:
            order = order[: sampling.top_k]
        mass = np.exp(log_softmax(logits[order]))
        kept = set(order[np.cumsum(mass) - mass < sampling.top_p].tolist())
        support = sorted(kept | {int(taken.tokens[row, column])})
        p, q = log_softmax(logits[support]), log_softmax(of_reference[support])
        np.testing.assert_allclose(got[row, column], np.sum(np.exp(p) * (p - q)), rtol=2e-4, atol=1e-6)
    assert (got[~taken.mask] == 0).all() and (got >= -1e-6).all()
    gradient = jax.grad(lambda params: jnp.sum(kl_of(params)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["head"]).max() > 0
    np.testing.assert_allclose(kl_of(params, params), 0, atol=1e-6)


def test_the_sum_of_squared_probabilities_is_that_of_the_distribution_that_is_sampled_from():
    greedy_like = dataclasses.replace(FILTERED, top_k=1, top_p=1.0)
    most_likely = score(MODEL, table(), ROLLOUT, greedy_like, chunk=20, concentration=True)
    assert most_likely.sum_pi_squared is not None
    spread = np.asarray(most_likely.sum_pi_squared)[ROLLOUT.mask]
    assert ((spread > 0.5 - 1e-6) & (spread <= 1 + 1e-6)).all(), "at most the likeliest token and the sampled one"
    assert score(MODEL, table(), ROLLOUT, FILTERED, chunk=20).sum_pi_squared is None


def test_the_loss_refuses_an_exact_kl_without_the_reference():
    algorithm = policies.algorithm(*CASES["exact_kl"][:1], **CASES["exact_kl"][1])
    optimizer = optax.sgd(1.0)
    update, batch = PolicyUpdate(MODEL, algorithm, FILTERED, optimizer, 100), batch_of(algorithm)
    with pytest.raises(ValueError, match="kl_estimator = 'exact' but reference is None"):
        update(init_state(table(), optimizer, algorithm), batch, passes_of(batch, PADDED)[0], None)


def test_a_step_of_the_critic_leaves_every_byte_of_the_policy():
    algorithm, optimizer = policies.algorithm("ppo"), optax.adam(0.1)
    state = init_state(table(), optimizer, algorithm, critic=CRITIC, critic_optimizer=optimizer)
    before = jax.tree.map(np.array, state)
    update, batch = CriticUpdate(CRITIC, algorithm, optimizer), batch_of(algorithm)
    after, metrics = update(state, batch, passes_of(batch, PADDED)[0])
    for kept in ("step", "params", "opt_state", "controls"):
        for leaf, wanted in zip(*map(jax.tree.leaves, (getattr(after, kept), getattr(before, kept))), strict=True):
            np.testing.assert_array_equal(leaf, wanted, err_msg=kept)
    assert float(metrics["critic_gradient_norm"].value) > 0
    assert (np.asarray(after.critic_params["value"]) != before.critic_params["value"]).all()
