"""Rotary angles: computed once a program, and not by every layer that turns its heads by them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxrl_llm.models.decoder import UNROLLED_LAYERS, functions
from tests.policies import CONFIG


@pytest.mark.parametrize("differentiated", [False, True])
def test_a_program_has_one_cosine_however_many_layers_read_it(differentiated):
    assert 1 < CONFIG.layers <= UNROLLED_LAYERS, "as many bodies as layers"
    model, tokens = functions(CONFIG, remat="none"), jax.ShapeDtypeStruct((2, 16), jnp.int32)

    def total(params, tokens):
        return jnp.sum(jnp.square(model.apply(params, tokens, tokens, tokens)))

    run = jax.grad(total) if differentiated else total
    params = jax.eval_shape(model.init, jax.random.key(0))
    program = jax.jit(run).lower(params, tokens).compile().as_text()
    assert program is not None
    assert program.count("cosine(") == program.count("sine(") - program.count("cosine(") == 1
