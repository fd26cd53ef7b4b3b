"""A mixture of experts: against a loop over tokens and experts, over devices, and its auxiliary loss."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.models import decoder, experts
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.sharding import MeshSettings, make_mesh
from jaxrl_llm.types import Routing
from tests.models import tiny

CONFIG = from_hf(tiny.hf_config("qwen3_moe"), "test")


def one_by_one(config, weights, x):
    """[T, D], in float64."""
    out = np.zeros_like(x)
    for t, token in enumerate(x):
        logits = token @ weights["router"]["kernel"]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        chosen = np.argsort(-probabilities)[: config.experts_per_token]
        total = probabilities[chosen].sum() if config.renormalized_router else 1.0
        for e in chosen:
            gate, up, down = (weights[name]["kernel"][e] for name in ("gate", "up", "down"))
            hidden = token @ gate / (1 + np.exp(-token @ gate)) * (token @ up)
            out[t] += probabilities[e] / total * hidden @ down
    return out


@pytest.mark.parametrize("renormalized", [True, False])
def test_each_token_gets_the_weighted_sum_of_its_likeliest_experts(renormalized):
    config = dataclasses.replace(CONFIG, renormalized_router=renormalized)
    module, x = (
        experts.Experts(config, jnp.dtype(jnp.float32)),
        jax.random.normal(jax.random.key(0), (2, 7, config.width)),
    )
    params = module.init(jax.random.key(1), x)["params"]
    params = {
        **params,
        "router": jax.tree.map(lambda x: x * jnp.arange(config.experts), params["router"]),
    }  # unbalanced
    found, routing = jax.jit(module.apply)({"params": params}, x)
    assert routing is None
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = one_by_one(config, wide, np.asarray(x, np.float64).reshape(-1, config.width))
    # Float32 products of 32 and 24 numbers.
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_mesh_changes_neither_hidden_states_nor_gradients():
    config = dataclasses.replace(CONFIG, layers=1)
    model, tokens = decoder.functions(config), jnp.asarray(tiny.tokens()[:2])
    positions = jnp.broadcast_to(jnp.arange(tiny.WIDTH), tokens.shape)
    params = jax.jit(model.init)(jax.random.key(0))

    def loss(params):
        hidden = model.apply(params, tokens, positions, jnp.ones_like(tokens))
        return jnp.sum(jnp.sin(hidden)), hidden

    gradient, hidden = jax.jit(jax.grad(loss, has_aux=True))(params)
    with jax.set_mesh(make_mesh(MeshSettings(1, 2, 2, 2))):
        on_mesh, found = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(found, hidden, rtol=0, atol=1e-5 * np.abs(hidden).max())
    for one, other in zip(jax.tree.leaves(on_mesh), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())


def loss_of(logits: np.ndarray, chosen: int, mask: np.ndarray) -> float:
    """Of the logits [L, T, E] of all layers."""
    config = dataclasses.replace(CONFIG, experts=logits.shape[-1], experts_per_token=chosen)

    def of_layer(logits):
        return experts.route(config, logits, experts.choose(config, logits)[1], jnp.asarray(mask, jnp.int32))

    step = jax.vmap(of_layer)(jnp.asarray(logits))
    return float(experts.load_balancing_loss(step, step.likely))


def test_a_balanced_router_has_the_loss_of_its_choices_and_padding_does_not_count():
    logits = np.random.default_rng(0).standard_normal((2, 9, 6)).astype(np.float32)
    mask = np.arange(9) < 6
    found = loss_of(logits, 3, mask)
    logits[:, ~mask] = 50.0
    assert loss_of(logits, 3, mask) == found
    uniform = np.tile(1e-4 * np.eye(6, dtype=np.float32), (2, 1, 1))  # each expert is as often the likeliest
    assert loss_of(uniform, 1, np.ones(6, bool)) == pytest.approx(1.0, abs=1e-3)


def test_the_load_of_the_busiest_expert_is_1_of_a_balanced_layer_and_all_experts_over_the_chosen_of_the_worst():
    balanced, worst = np.full((1, 6), 4, np.int32), np.array([[8, 8, 8, 0, 0, 0]], np.int32)  # 8 tokens, 3 choices
    for chosen, expected in ((balanced, 1.0), (worst, 2.0), (np.concatenate([balanced, worst]), 2.0)):
        step = Routing(jnp.asarray(chosen), jnp.zeros(chosen.shape), jnp.full(len(chosen), 8))
        assert float(experts.busiest_load(step)) == expected


if tiny.HAVE_TRANSFORMERS:

    def test_the_auxiliary_loss_is_that_of_transformers():
        import torch
        from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

        logits = np.random.default_rng(0).standard_normal((3, 2 * 9, 6)).astype(np.float32)
        mask = np.arange(9) < np.array([9, 4])[:, None]
        layers = tuple(torch.tensor(layer) for layer in logits)
        expected = float(load_balancing_loss_func(layers, 6, 3, torch.tensor(mask)))  # type: ignore[arg-type]
        assert loss_of(logits, 3, mask.ravel()) == pytest.approx(expected, rel=1e-5)
