"""The sampling layout of a policy with an adapter: merged in float32, beside the weights in bfloat16."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.models import decoder, lora
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
