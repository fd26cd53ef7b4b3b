"""Scores by blocks of the vocabulary are those of all logits at once, on every mesh, and hold less."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.core.logprobs import log_prob_and_entropy
from jaxrl_llm.models import weights
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.sharding import MeshSettings, make_mesh, shard_rows
from jaxrl_llm.training import chunks
from jaxrl_llm.training import score as of_scores
from jaxrl_llm.training.chunks import Chunks, chunks_of
from jaxrl_llm.training.score import score
from jaxrl_llm.training.vocabulary import Blocks, score_by_vocabulary
from jaxrl_llm.types import Rollout
from tests import policies

TOKENS, WIDTH, SIZE, BLOCK = 24, 16, 1000, 128  # the last block has had 24 of its entries
RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.normal(size=(TOKENS, WIDTH)), jnp.float32)
HEAD = jnp.asarray(RNG.normal(size=(SIZE, WIDTH)), jnp.float32)
# at both ends, at the last block's own entries and at those that it shares with the block before it
LABELS = jnp.asarray([0, SIZE - 1, 7 * BLOCK, 7 * BLOCK - 1, SIZE - BLOCK, *RNG.integers(0, SIZE, TOKENS - 5)])
WEIGHTS = RNG.normal(size=(2, TOKENS)).astype(np.float32)
SCALES = {"small": 0.1, "plain": 1.0, "peaked": 30.0}


def logits_of(head, hidden, scale=1.0):
    """With a soft cap of 200, as a head may have one."""
    return 200 * jnp.tanh(scale * hidden @ head["rows"].T / 200)


def whole(scale):
    return lambda head, hidden, labels: log_prob_and_entropy(logits_of(head, hidden, scale), labels)


def by_blocks(scale, entropy_gradient=True, block=BLOCK):
    blocks = Blocks({"rows": 0}, SIZE, block)
    return score_by_vocabulary(functools.partial(logits_of, scale=scale), blocks, entropy_gradient=entropy_gradient)


def gradients(scores, which=(0, 1)):
    def total(head, hidden):
        return sum(jnp.sum(WEIGHTS[i] * x) for i, x in enumerate(scores({"rows": head}, hidden, LABELS)))

    return jax.grad(total, which)(HEAD, HIDDEN)


@pytest.mark.parametrize(("scale", "block"), [*((scale, BLOCK) for scale in SCALES.values()), (1.0, 500), (1.0, SIZE)])
def test_blocks_give_the_values_of_all_logits(scale, block):
    got, want = (f({"rows": HEAD}, HIDDEN, LABELS) for f in (by_blocks(scale, block=block), whole(scale)))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)  # sums of 1,000 terms in another order


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_blocks_give_the_gradients_of_all_logits(scale):
    for one, other in zip(gradients(by_blocks(scale)), gradients(whole(scale)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(jnp.abs(other).max()))


def test_an_entropy_without_gradient_adds_nothing_to_it():
    def without(head, hidden, labels):
        log_prob, entropy = whole(1.0)(head, hidden, labels)
        return log_prob, jax.lax.stop_gradient(entropy)

    def blocks(head, hidden, labels):
        log_prob, entropy = by_blocks(1.0, entropy_gradient=False)(head, hidden, labels)
        return log_prob, jax.lax.stop_gradient(entropy)

    for one, other in zip(gradients(blocks), gradients(without), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def flops(function) -> float:
    cost = jax.jit(function).lower().compile().cost_analysis()
    assert cost is not None
    return cost["flops"]


def test_a_frozen_head_costs_no_product_for_its_gradient():
    """Of the three products of the backward pass two are left, and the one of the forward pass."""
    of_both, of_states = (flops(lambda w=which: gradients(by_blocks(1.0), w)) for which in ((0, 1), 1))
    product = 2 * TOKENS * WIDTH * BLOCK  # XLA counts the body of a loop once
    assert of_both - of_states == pytest.approx(product, rel=0.15)


def test_the_gradient_of_the_head_is_made_where_it_stays():
    """By blocks of the vocabulary nothing of the size of the head is held but its gradient."""
    size, width, tokens = 20_000, 64, 32
    shapes = (jnp.zeros(s, t) for s, t in (((size, width), "f4"), ((tokens, width), "f4"), ((tokens,), "i4")))
    blocks = Blocks({"rows": 0}, size, 1024)
    scores = score_by_vocabulary(logits_of, blocks, entropy_gradient=True)

    def total(head, hidden, labels):
        return sum(jnp.sum(x) for x in scores({"rows": head}, hidden, labels))

    held = jax.jit(jax.grad(total, (0, 1))).lower(*shapes).compile().memory_analysis()
    assert held is not None and held.output_size_in_bytes >= 4 * size * width
    assert held.temp_size_in_bytes < size * width  # a quarter of the head


# The head of a decoder, whose layers stay out: a sum of scores, by the way that the chunks say.

ROWS, LENGTH = 8, 10
SHAPE = (policies.VOCABULARY, policies.CONFIG.width)
HEADS = {
    "embed": {"embedding": RNG.normal(size=SHAPE).astype(np.float32)},
    "head": {"kernel": RNG.normal(size=SHAPE[::-1]).astype(np.float32)},
}


def rollout() -> Rollout:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, LENGTH + 1, ROWS)
    return Rollout(
        prompt_tokens=rng.integers(0, policies.VOCABULARY, (ROWS, 6)).astype(np.int32),  # type: ignore[arg-type]
        prompt_length=rng.integers(1, 7, ROWS).astype(np.int32),  # type: ignore[arg-type]
        tokens=rng.integers(0, policies.VOCABULARY, (ROWS, LENGTH)).astype(np.int32),  # type: ignore[arg-type]
        mask=np.arange(LENGTH) < lengths[:, None],  # type: ignore[arg-type]
        truncated=np.zeros(ROWS, bool),  # type: ignore[arg-type]
        prompt_id=np.arange(ROWS, dtype=np.int32),  # type: ignore[arg-type]
        sampler_logprobs=np.zeros((ROWS, LENGTH), np.float32),  # type: ignore[arg-type]
    )


def hidden_of(params, tokens, positions, *_):
    return params["embed"]["embedding"][tokens] + 0.01 * positions[..., None]


def scored(sizes, tied: bool, chunk: int):
    """(log-probabilities and entropies, gradients by parameters) on a mesh."""
    config = dataclasses.replace(policies.CONFIG, tied=tied)
    model = functions(config)._replace(apply=hidden_of)
    mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: int(np.prod(sizes))])

    def total(params, batch):
        found = score(model, params, batch, policies.PLAIN, chunk=chunk)
        return jnp.sum(found.logprobs * 0.3 + found.entropy), found

    with jax.set_mesh(mesh):
        shardings = weights.shardings(config, mesh)
        params = {name: jax.device_put(HEADS[name], shardings[name]) for name in ("embed", "head")[: 2 - tied]}
        of_params, found = jax.jit(jax.grad(total, has_aux=True))(params, shard_rows(rollout(), mesh))
    return jax.device_get((found.logprobs, found.entropy)), jax.device_get(of_params)


@functools.cache
def scored_at_once(tied: bool):
    return scored((1, 1, 1, 1), tied, 10_000)


@pytest.mark.parametrize(
    ("sizes", "tied"), [((1, 1, 1, 1), True), ((1, 1, 1, 1), False), ((2, 2, 1, 2), True), ((1, 4, 2, 1), False)]
)
def test_a_head_that_scores_by_blocks_has_one_products_scores_and_gradients(sizes, tied, monkeypatch):
    want = scored_at_once(tied)
    made: list[Blocks] = []
    monkeypatch.setattr(of_scores, "Blocks", lambda *of: made.append(Blocks(*of)) or made[-1])
    monkeypatch.setattr(chunks, "KEPT_LOGITS", 0)
    got = scored(sizes, tied, 10)
    assert [blocks.width for blocks in made] == ([] if sizes[2] > 1 else [128])  # a head that is split goes by columns
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * max(1.0, float(np.abs(other).max())))


def test_chunks_go_by_entries_where_tokens_are_fewer_than_the_vocabulary(monkeypatch):
    monkeypatch.setattr(chunks, "KEPT_LOGITS", 0)
    assert chunks_of(4, 256, 151_936, 128, by_entry=True) == Chunks(256, 19_072, 8, False)
    assert chunks_of(4, 256, 151_936, 128, by_entry=False) == Chunks(32, 151_936, 8, False)
    assert chunks_of(4, 256, 1024, 128, by_entry=True) == Chunks(32, 1024, 8, False)
    assert chunks_of(4, 256, 151_936, 1024, by_entry=True) == Chunks(256, 151_936, 1, True)
    # blocks of 128 entries are the least
    assert chunks_of(1, 50, 120, 1, by_entry=True) == Chunks(1, 120, 50, False)
