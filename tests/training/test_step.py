"""One optimizer step: the same however rows are packed and on every mesh, and on-policy at the start."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_llm.algorithm import needs_reference
from jaxrl_llm.models import prepared
from jaxrl_llm.models import weights as weight_tables
from jaxrl_llm.sampling.generate import generate
from jaxrl_llm.sampling.keys import step_key
from jaxrl_llm.sharding import MeshSettings, make_mesh, row_devices, shard_rows, to_host
from jaxrl_llm.training.batch import make_slicer
from jaxrl_llm.training.layouts import Budget
from jaxrl_llm.training.packing import pack_batch
from jaxrl_llm.training.score import Scorer
from jaxrl_llm.training.step import init_state
from jaxrl_llm.training.update import PolicyUpdate
from tests import policies
from tests.policies import CONFIG, IDS, LENGTHS, MODEL, PAD, PLAIN, PROMPTS, SAMPLES, STOPS

ROWS = len(PROMPTS) * SAMPLES
REWARDS = np.random.default_rng(5).integers(0, 2, ROWS).astype(np.float32)
OPTIMIZER = optax.sgd(1.0)  # the change of a parameter is its gradient: nothing hides a wrong one


@functools.cache
def rollout():
    return jax.device_get(policies.sample(policies.params()))


PADDED = Budget(0, share=False)  # one pass, a row a completion
PACKED = Budget(100)


def passes_of(batch, budget, groups=None):
    return pack_batch(batch, rollout().prompt_id if groups is None else groups, budget)[0]


def scored(params, budget=PADDED):
    return Scorer(MODEL, PLAIN, 10_000)(params, rollout(), passes_of(rollout(), budget))


@functools.cache
def reference_logprobs():
    return scored(policies.params(1)).logprobs


@functools.cache
def one_step(algorithm, budget=PADDED, *, chunk=10_000, shuffled=False):
    """The gradients of a step, and its metrics."""
    taken, start = rollout(), policies.params()
    ref = reference_logprobs() if needs_reference(algorithm) else None
    batch, metrics = policies.batch(algorithm, taken, REWARDS, ref_logprobs=ref)
    order = np.random.default_rng(0).permutation(ROWS) if shuffled else np.arange(ROWS)
    batch = jax.tree.map(lambda x: x[order], batch)
    update = PolicyUpdate(MODEL, algorithm, PLAIN, OPTIMIZER, chunk)
    passes = passes_of(batch, budget, taken.prompt_id[order])
    state, of_update = update(init_state(policies.params(), OPTIMIZER, algorithm), batch, passes)
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), start, state.params), metrics | of_update


def assert_same(got, wanted, *, relative=0.0, absolute=0.0):
    """Leaf by leaf; ``relative`` is to the largest number of the leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        other = functools.reduce(lambda tree, key: tree[key.key], path, got)
        tolerance = relative * np.abs(leaf).max() + absolute
        np.testing.assert_allclose(other, leaf, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))


# A gradient here is a float32 sum of about a thousand terms of either sign, taken in another order: each addition is
# off by up to 6e-8 of the running sum, and a leaf is a difference of two stored numbers besides.
GRADIENT = 1e-5

RECIPES = ["lite_ppo", "grpo"]  # without and with a reference; tests/training/test_update.py has them all


@pytest.mark.parametrize("recipe", RECIPES)
def test_packing_and_chunks_change_neither_loss_nor_update(recipe):
    algorithm = policies.algorithm(recipe)
    whole, metrics = one_step(algorithm)
    parts, of_parts = one_step(algorithm, PACKED, chunk=24)
    assert_same(parts, whole, relative=GRADIENT)
    for name, mean in metrics.items():
        relative = GRADIENT if name == "gradient_norm" else 0  # a norm is known as well as the gradients it is of
        np.testing.assert_allclose(of_parts[name].value, mean.value, rtol=relative, atol=1e-5, err_msg=name)


def test_the_order_of_rows_changes_nothing():
    whole, _ = one_step(policies.algorithm())
    shuffled, _ = one_step(policies.algorithm(), shuffled=True)
    assert_same(shuffled, whole, relative=GRADIENT)


def test_packed_sequences_have_the_scores_of_sequences_one_a_row():
    for params in (policies.params(), policies.params(1)):
        for packed, alone in zip(scored(params, PACKED)[:2], scored(params)[:2], strict=True):
            np.testing.assert_allclose(packed, alone, atol=2e-5)  # float32, of logits of order 10


def test_on_policy_the_ratio_is_1_nothing_is_clipped_and_the_sampler_agrees():
    _, metrics = one_step(policies.algorithm())
    assert float(metrics["ratio"].value) == pytest.approx(1.0, abs=1e-5)
    assert float(metrics["kl_sampler"].value) < 1e-9
    assert metrics["effect/clip_low"].value == metrics["effect/clip_high"].value == 0


def test_on_policy_the_clipped_gradient_is_the_reinforce_gradient():
    clipped, _ = one_step(policies.algorithm())
    plain, _ = one_step(policies.algorithm(surrogate="reinforce", clip_low=None, clip_high=None))
    assert_same(clipped, plain, relative=GRADIENT)


def test_a_stop_token_has_a_gradient():
    """Of a rollout whose advantages are 0 but at stop tokens, the stop tokens' own probabilities must rise."""
    taken = rollout()
    last = taken.mask & ~np.pad(taken.mask, ((0, 0), (0, 1)))[:, 1:] & ~taken.truncated[:, None]
    algorithm = policies.algorithm(baseline="none", scale="none")
    batch, _ = policies.batch(algorithm, taken, np.ones(ROWS, np.float32))
    batch = dataclasses.replace(batch, advantages=jnp.where(last, 1.0, 0.0))
    small = optax.sgd(1e-4)  # the policy is steep: a long step overshoots
    update = PolicyUpdate(MODEL, algorithm, PLAIN, small, 10_000)
    state, _ = update(init_state(policies.params(), small, algorithm), batch, passes_of(batch, PACKED))
    before, after = (scored(params).logprobs for params in (policies.params(), state.params))
    assert last.any() and float(jnp.sum((after - before) * last)) > 1e-4


def test_a_slice_has_the_weights_of_its_own_step():
    taken = rollout()
    algorithm = policies.algorithm()
    batch, _ = policies.batch(algorithm, taken, REWARDS)
    part = make_slicer(algorithm, PLAIN.max_tokens)(batch, taken.prompt_id, np.arange(8))
    assert float(part.weights.sum()) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(part.advantages, batch.advantages[:8])


MESHES = [(1, 1, 1, 1), (1, 8, 1, 1), (1, 2, 4, 1), (2, 1, 2, 2)]
NAMES = ["fsdp8", "fsdp2-tensor4", "data2-tensor2-sequence2"]  # of those with several devices


class Trained(NamedTuple):
    """Two steps of sampling and updating on a mesh, and the last update once more.

    Attributes:
      params: after the two steps.
      shapes: that the passes of all three updates had, each once.
      compiled: programs of the gradients, and of the optimizer.
    """

    texts: list[np.ndarray]
    losses: list[float]
    params: Any
    shapes: set[Any]
    compiled: tuple[int, int]


@functools.cache
def trained_on(mesh_sizes: tuple[int, int, int, int]) -> Trained:
    settings = MeshSettings(*mesh_sizes)
    mesh = make_mesh(settings, jax.devices()[: int(np.prod(mesh_sizes))])
    algorithm = policies.algorithm()
    optimizer = optax.adamw(1e-3)
    with jax.set_mesh(mesh):
        weights = jax.device_put(policies.params(), weight_tables.shardings(CONFIG, mesh))
        prepare = jax.jit(MODEL.prepare, out_shardings=prepared.shardings(CONFIG, mesh))
        update = PolicyUpdate(MODEL, algorithm, PLAIN, optimizer, 64)
        state = init_state(weights, optimizer, algorithm)
        texts, losses, shapes = [], [], set()
        for step in range(2):
            taken = generate(
                MODEL,
                prepare(state.params),
                *shard_rows((PROMPTS, LENGTHS, IDS), mesh),
                step_key(0, 0, step),
                samples=SAMPLES,
                sampling=PLAIN,
                stop_ids=STOPS,
                pad_id=PAD,
            )
            taken = shard_rows(jax.device_get(taken), mesh)
            batch, _ = policies.batch(algorithm, taken, REWARDS)
            budget = Budget(200, row_devices(mesh), mesh.shape["sequence"])
            passes = pack_batch(batch, to_host(taken.prompt_id), budget)[0]
            passes = [shard_rows(part, mesh) for part in passes]
            shapes |= {(len(passes) == 1, *map(np.shape, jax.tree.leaves(part))) for part in passes}
            state, metrics = update(state, batch, passes)
            texts.append(np.asarray(taken.tokens))
            losses.append(float(metrics["loss"].value))
        params = jax.device_get(state.params)
        update(state, batch, passes)
        compiled = (update.gradients.program._cache_size(), update.apply._cache_size())  # type: ignore[attr-defined]
    return Trained(texts, losses, params, shapes, compiled)


@pytest.mark.parametrize("sizes", MESHES[1:], ids=NAMES)
def test_a_mesh_of_eight_devices_gives_one_devices_texts_losses_and_parameters(sizes):
    found, wanted = trained_on(sizes), trained_on(MESHES[0])
    for text, other in zip(found.texts, wanted.texts, strict=True):
        np.testing.assert_array_equal(text, other)
    np.testing.assert_allclose(found.losses, wanted.losses, atol=1e-5)
    # Adam divides by the root of the squared gradient: a gradient of float32 noise moves a weight by up to the rate
    assert_same(found.params, wanted.params, absolute=2e-4)


@pytest.mark.parametrize("sizes", MESHES, ids=["one device", *NAMES])
def test_a_step_compiles_nothing_that_the_step_before_it_has_compiled(sizes):
    """What a program returns lies where its arguments lay."""
    found = trained_on(sizes)
    assert found.compiled == (len(found.shapes), 1)
