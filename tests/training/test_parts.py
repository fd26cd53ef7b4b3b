"""Prompts that are sampled in parts, a thread each: the texts of one program, compiled once."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxrl_llm.sampling.keys import step_key
from jaxrl_llm.sharding import MeshSettings, make_mesh
from jaxrl_llm.training import parts
from tests import policies
from tests.policies import IDS, LENGTHS, MODEL, PAD, PLAIN, PROMPTS, SAMPLES, STOPS

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.mark.parametrize(
    ("prompts", "samples", "threads", "expected"),
    [
        (16, 8, 2, 2),
        (32, 8, 16, 4),  # more would have fewer rows than LEAST_ROWS
        (16, 16, 3, 2),  # parts are equal
        (15, 16, 4, 3),
        (7, 64, 2, 1),
        (1, 512, 8, 1),  # a group shares its prompt
        (4, 4, 8, 1),
    ],
)
def test_prompts_are_cut_into_equal_parts_of_enough_rows(prompts, samples, threads, expected):
    assert parts.parts_of(prompts, samples, threads) == expected


def sample(cores, monkeypatch, sampling):
    monkeypatch.setattr(parts, "cores", lambda: cores)
    monkeypatch.setattr(parts, "LEAST_ROWS", 1)
    mesh = make_mesh(MeshSettings(1, 1, 1, 1), jax.devices()[:1])
    with jax.set_mesh(mesh):
        prepared = MODEL.prepare(policies.params())
    options = {"samples": SAMPLES, "sampling": sampling, "stop_ids": STOPS, "pad_id": PAD}
    return parts.sample_on(mesh, MODEL, prepared, PROMPTS, LENGTHS, IDS, step_key(0, 0, 0), **options)


def test_parts_sample_what_one_program_samples_and_compile_once(monkeypatch):
    sampling = dataclasses.replace(PLAIN, max_tokens=12)
    whole = sample(1, monkeypatch, sampling)
    compiled = []

    def listen(event, duration_secs, **of):
        compiled.extend([str(of["fun_name"])] if event == COMPILED else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        halves = sample(2, monkeypatch, sampling)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled.count("jit(begin)") == compiled.count("jit(extend)") == 1
    # matrix products of fewer rows may add in another order
    np.testing.assert_allclose(halves.sampler_logprobs, whole.sampler_logprobs, atol=1e-5)
    for field in dataclasses.fields(whole):
        if field.name != "sampler_logprobs":
            np.testing.assert_array_equal(getattr(halves, field.name), getattr(whole, field.name), err_msg=field.name)
