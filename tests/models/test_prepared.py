"""The sampling layout of a policy with an adapter: merged in float32, beside the weights in bfloat16."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.models import decoder, lora, prepared, weights
from jaxrl_llm.models.projection import transposed_product
from jaxrl_llm.sharding import MeshSettings, make_mesh
from tests.models import tiny
from tests.models.test_lora import SETTINGS, adapter_of, assert_close, base_of, config_of, rows


def test_the_sampling_layout_holds_the_merged_weights_before_their_own_dtype_rounds_them():
    config = config_of("gpt2")
    halves, adapter = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), base_of(config)), adapter_of(config)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float32), halves)

    @jax.jit
    def run(halves: Any, wide: Any) -> tuple[Any, Any]:
        beside, plain = decoder.functions(config, lora=SETTINGS), decoder.functions(config)
        merged = lora.merge(config, SETTINGS, wide | {"lora": adapter})
        return beside.prepare(halves | {"lora": adapter}), plain.prepare(merged)

    found, expected = run(halves, wide)
    assert_close(found, expected, 1e-6)  # float32 sums of four products; bfloat16 is 4e-3 of a number


def test_in_bfloat16_the_sampler_computes_the_adapter_beside_the_weights_as_the_update_does():
    config, length = config_of("qwen3"), jnp.asarray(tiny.PROMPT_LENGTHS)
    base, adapter = base_of(config), adapter_of(config)
    model, tokens = decoder.functions(config, dtype=jnp.bfloat16, lora=SETTINGS), jnp.asarray(tiny.tokens())
    _, positions, _ = rows()
    segments = (positions < length[:, None]).astype(jnp.int32)

    @jax.jit
    def run(params: Any) -> tuple[Any, jax.Array, jax.Array]:
        prepared = model.prepare(params)
        sampled, _ = model.prefill(prepared, tokens, length)
        scored = model.apply(params, tokens, positions, segments)
        return prepared, sampled, scored[jnp.arange(len(length)), length - 1]

    layout, sampled, scored = jax.device_get(run(base | {"lora": adapter}))
    without, unadapted, _ = jax.device_get(run(base))
    assert layout.pop("lora")
    jax.tree.map(np.testing.assert_array_equal, layout, without)
    assert_close(sampled.astype(np.float32), scored.astype(np.float32), 2**-6)  # two steps of bfloat16
    assert np.abs(sampled - unadapted).max() > 0.1 * np.abs(scored).max()


@pytest.mark.parametrize("case", ["llama_biases", "qwen3", "qwen3_moe", "gemma2", "gpt2"])
def test_transposed_matrices_give_the_same_hidden_states_and_logits(case):
    config, length = config_of(case), jnp.asarray(tiny.LENGTHS)
    base, tokens, mesh = (
        base_of(config),
        jnp.asarray(tiny.tokens()),
        make_mesh(MeshSettings(1, 1, 1, 1), jax.devices()[:1]),
    )

    def run(transposed: bool) -> tuple[Any, Any]:
        model = decoder.functions(config, transposed=transposed)
        placed = prepared.shardings(config, mesh, transposed=transposed)
        layout = jax.jit(model.prepare, out_shardings=placed)(base)

        @jax.jit
        def steps(layout: Any) -> Any:
            hidden, prompt = model.prefill(layout, tokens, length)
            next_hidden, cache = model.decode(
                layout, tokens[:, 0], length, prompt, length, model.empty_cache(len(length), 2), jnp.int32(0)
            )
            return model.unembed_prepared(layout, jnp.stack([hidden, next_hidden])), cache

        return layout, jax.device_get(steps(layout))

    (plain, expected), (turned, found) = run(False), run(True)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-5), found, expected)  # another order
    names = {path[-1].key for path, _ in jax.tree.leaves_with_path(turned["layers"])}
    assert "transposed" in names and ("kernel" in names) == (case == "qwen3_moe")
    assert ("head" in turned) == (not config.tied) and "head" in plain


@pytest.mark.parametrize(
    ("changes", "dtype", "devices", "avx512", "expected"),
    [
        ({}, "float32", 1, True, True),
        ({}, "float32", 1, False, False),
        ({}, "bfloat16", 1, True, False),
        ({}, "float32", 2, True, False),
        ({"layers": 1}, "float32", 1, True, False),
    ],
)
def test_only_large_models_on_a_cpu_with_avx512_are_transposed(monkeypatch, changes, dtype, devices, avx512, expected):
    config, mesh = config_of("qwen3"), make_mesh(MeshSettings(devices, 1, 1, 1), jax.devices()[:devices])
    parameters = sum(x.size for x in jax.tree.leaves(weights.abstract_params(config)))
    monkeypatch.setattr(prepared, "LEAST_TRANSPOSED", 4 * parameters)
    monkeypatch.setattr(prepared, "has_avx512", lambda: avx512)
    changed = dataclasses.replace(config, **changes)
    assert prepared.transposes(changed, jnp.dtype(dtype), mesh) is expected


def test_in_a_product_with_a_transposed_matrix_the_matrix_stands_first_in_the_compiled_program():
    x, matrix = np.arange(256.0).reshape(2, 2, 64) / 256, np.arange(6144.0).reshape(96, 64) / 6144
    program = jax.jit(transposed_product).lower(jnp.asarray(x), jnp.asarray(matrix)).compile()
    text = program.as_text() or ""
    assert re.search(r"f32\[96,4\]\S* dot\(", text), "XLA reads its first operand faster than its second"
    assert_close(program(jnp.asarray(x), jnp.asarray(matrix)), x @ matrix.T, 1e-6)
