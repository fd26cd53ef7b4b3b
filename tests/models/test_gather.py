"""The weights of a layer are gathered along fsdp once forward and once backward, whatever the backward pass keeps."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from jaxrl_llm.models import weights
from jaxrl_llm.models.decoder import REMAT_POLICIES, UNROLLED_LAYERS, functions
from jaxrl_llm.sharding import MeshSettings, make_mesh
from tests import policies

MATRICES = 7  # query, key, value, output, gate, up, down


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_no_remat_policy_keeps_the_gathered_weights_of_a_layer(remat):
    config = dataclasses.replace(policies.CONFIG, layers=UNROLLED_LAYERS + 1)  # two loops over layers, each of one body
    model, mesh = functions(config, remat=remat), make_mesh(MeshSettings(1, 8, 1, 1), jax.devices()[:8])

    def total(params, tokens):
        return jnp.sum(jnp.square(model.apply(params, tokens, tokens, tokens)))

    with jax.set_mesh(mesh):
        shapes, shardings = weights.abstract_params(config), weights.shardings(config, mesh)
        params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        compiled = jax.jit(jax.grad(total)).lower(params, jax.ShapeDtypeStruct((8, 16), jnp.int32)).compile()
    text = compiled.as_text()
    assert text is not None and len(re.findall(r"= \S+ all-gather\(", text)) == 2 * MATRICES + 1  # and the embedding
