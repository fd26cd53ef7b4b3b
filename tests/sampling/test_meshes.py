"""Rollouts on a mesh: what one device samples, with rows over every axis that does not split the weights."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.models import decoder, prepared
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.planning.hlo import census
from jaxrl_llm.sampling.generate import generate
from jaxrl_llm.sampling.keys import step_key
from jaxrl_llm.sharding import MESH_AXES, MeshSettings, make_mesh, shard_rows
from jaxrl_llm.types import Rollout
from tests.models import tiny
from tests.policies import IDS, LENGTHS, PAD, PLAIN, PROMPTS, SAMPLES

# Experts say themselves where their tokens lie; tests/training/test_step.py samples from a dense model on meshes.
CONFIG = dataclasses.replace(from_hf(tiny.hf_config("qwen3_moe"), "test"), layers=1)
MODEL = decoder.functions(CONFIG)
TOKENS = np.pad(PROMPTS % CONFIG.vocab_size, ((0, 0), (0, 1)))  # columns that devices could cut among them
SHORT = dataclasses.replace(PLAIN, max_tokens=6)  # one loop
TRIPS = 7.0  # of the decode loop, whose end the count of collectives cannot know

# mesh by axis (data, fsdp, tensor, sequence), prompts, samples, rows of a device
CASES = {
    "whole groups": ((1, 2, 2, 2), 4, 4, 4),
    "half a group": ((1, 2, 1, 4), 4, 4, 2),
    "not over sequence": ((1, 2, 1, 4), 2, 3, 3),
}


@functools.cache
def parameters():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes)


@functools.cache
def sampled(shape, prompts, samples) -> tuple[Rollout, Any]:
    """A rollout on a mesh of this shape, and the text of its program."""
    mesh = make_mesh(MeshSettings(*shape), jax.devices()[: math.prod(shape)])
    with jax.set_mesh(mesh):
        layout = jax.device_put(MODEL.prepare(parameters()), prepared.shardings(CONFIG, mesh))
        rows = TOKENS[:prompts], LENGTHS[:prompts], IDS[:prompts]
        arguments = layout, *shard_rows(rows, mesh), step_key(0, 0, 0)
        options = {"samples": samples, "sampling": SHORT, "stop_ids": tuple(range(1, 9)), "pad_id": PAD}
        program = generate.lower(MODEL, *arguments, **options).compile()
        return program(*arguments), program.as_text()


@pytest.mark.parametrize("case", CASES)
def test_a_mesh_samples_what_one_device_samples_with_fewer_rows_on_each(case):
    shape, prompts, samples, own = CASES[case]
    found, text = sampled(shape, prompts, samples)
    wanted, _ = sampled((1, 1, 1, 1), len(IDS), SAMPLES)
    # Fewer samples are the first of more, and so are fewer prompts.
    wanted = jax.tree.map(lambda x: np.asarray(x).reshape(len(IDS), SAMPLES, -1)[:prompts, :samples], wanted)
    # Sums in another order: a few float32 steps of logits below 10.
    for name, tolerance in {"tokens": 0, "mask": 0, "sampler_logprobs": 1e-5}.items():
        array = getattr(found, name)
        assert array.addressable_shards[0].data.shape == (own, SHORT.max_tokens)
        of_device = getattr(wanted, name).reshape(array.shape)
        np.testing.assert_allclose(array, of_device, rtol=0, atol=tolerance, err_msg=name)
    heads = CONFIG.kv_heads // shape[2]
    assert f"f32[{own},{heads},{SHORT.max_tokens},{CONFIG.head_size}]" in text  # the values that a device keeps


@pytest.mark.parametrize("case", CASES)
def test_decoding_receives_nothing_along_sequence_but_whether_all_rows_have_ended(case):
    shape, prompts, samples, _ = CASES[case]
    _, text = sampled(shape, prompts, samples)
    mesh: dict[str, int] = dict(zip(MESH_AXES, shape, strict=True))
    in_loop = [one for one in census(text, mesh, unknown_trips=TRIPS) if one.trips == TRIPS]
    assert all(one.axes != "?" for one in in_loop)
    along = sum(one.bytes for one in in_loop if "sequence" in one.axes)
    # The sum of a byte takes less than two. Top-k, here of a router of experts, is whole on every CPU; not so on TPUs.
    assert along <= TRIPS * (2 + prompts * samples * CONFIG.experts * 4)
    assert bool(along) == (case != "not over sequence")
