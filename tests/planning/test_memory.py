"""Bytes by formula against the shapes and shardings that training uses."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from jaxrl_llm.models import decoder, lora, weights
from jaxrl_llm.models import prepared as prepared_layout
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.planning import memory, traffic
from jaxrl_llm.planning.models import PUBLIC, architecture
from jaxrl_llm.planning.programs import PROGRAMS
from jaxrl_llm.planning.work import Work, meshes, work_of
from jaxrl_llm.sharding import MeshSettings, make_mesh
from jaxrl_llm.types import join_policy
from tests.models.public import CONFIGS as PUBLISHED
from tests.models.tiny import CASES
from tests.planning.test_flops import LORA, setting

MESHES = [(1, 8, 1, 1), (2, 2, 2, 1), (1, 1, 8, 1), (1, 2, 2, 2)]


def work(mesh: tuple[int, ...] = (1, 4, 2, 1), *overrides: str, family: str = "qwen3") -> Work:
    return work_of(setting("lite_ppo", *overrides), from_hf(CASES[family], family), mesh, platform="cpu")


def on_a_device(shapes, shardings) -> int:
    sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, shapes, shardings)
    return sum(jax.tree.leaves(sizes))


@pytest.mark.parametrize(("family", "param_dtype"), [("llama", "float32"), ("qwen2", "bfloat16")])
@pytest.mark.parametrize("shape", MESHES)
def test_parameters_and_the_sampling_layout_take_what_their_shardings_say(shape, family, param_dtype):
    config, mesh = from_hf(CASES[family], family), make_mesh(MeshSettings(*shape))
    of = work(shape, "model.dtype=bfloat16", f"model.param_dtype={param_dtype}", family=family)
    params = weights.abstract_params(config, param_dtype)
    assert memory.parameter_bytes(of) == on_a_device(params, weights.shardings(config, mesh))
    adapter = LoraSettings(rank=4, alpha=8.0, targets="all-linear", rank_stabilized=False)
    model = decoder.functions(config, dtype=jnp.bfloat16, lora=adapter)
    # Biases are in the compute dtype too: all of the layout but the norms.
    prepared = jax.eval_shape(model.prepare, params)
    assert memory.sampling_bytes(of) == on_a_device(prepared, prepared_layout.shardings(config, mesh))
    beside = jax.eval_shape(model.prepare, join_policy(lora.abstract(config, adapter), params))
    of = dataclasses.replace(of, lora=adapter)
    assert memory.sampling_bytes(of) == on_a_device(beside, prepared_layout.shardings(config, mesh, adapter))


def test_the_cache_holds_a_prompt_once_and_every_row_at_full_width():
    of = work((1, 1, 1, 1))
    model = decoder.functions(of.config)
    shapes = jax.eval_shape(
        lambda: (model.empty_cache(of.prompts, of.prompt_width), model.empty_cache(of.rows, of.width))
    )
    assert memory.cache_bytes(of) == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def test_rows_and_heads_split_the_cache_and_what_does_not_divide_lies_whole():
    whole = memory.cache_bytes(work((1, 1, 1, 1)))
    assert memory.cache_bytes(work((1, 4, 2, 1))) == whole / 8  # 4 prompts, 2 key/value heads
    assert memory.cache_bytes(work((1, 2, 1, 2))) == whole / 4  # along sequence too
    assert memory.cache_bytes(work((1, 3, 1, 1))) == whole  # 8 rows over 3 devices
    assert memory.cache_bytes(work((1, 2, 1, 3))) == whole / 2  # nor over 6, but over the 2 of fsdp
    assert memory.cache_bytes(work((1, 1, 4, 1))) == whole  # 2 heads over 4 devices


@pytest.mark.parametrize("mesh", [(1, 8, 1, 1), (1, 2, 1, 4)])
def test_devices_that_share_a_group_have_its_prompt_each(mesh):
    of = work(mesh)  # 4 prompts with 2 rows each over 8 devices
    assert of.sampled == (1, 1)
    model = decoder.functions(of.config)
    shapes = jax.eval_shape(lambda: (model.empty_cache(1, of.prompt_width), model.empty_cache(1, of.width)))
    assert memory.cache_bytes(of) == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize("program", ["rollout", "score", "update"])
def test_more_devices_leave_each_with_less(program):
    few, many = work((1, 2, 1, 1)), work((1, 4, 2, 1))
    assert memory.activation_bytes(many, program) < memory.activation_bytes(few, program)
    assert traffic.memory_traffic(many, program) < traffic.memory_traffic(few, program)


def test_keeping_more_for_the_backward_pass_takes_more_memory_and_fewer_bytes_on_the_wire():
    by_policy = {remat: work((1, 4, 2, 1), f"model.remat={remat}") for remat in ("layer", "mlp", "dots", "none")}
    held = [memory.activation_bytes(of, "update") for of in by_policy.values()]
    assert held == sorted(held) and held[0] < held[1] < held[2]
    received = {remat: traffic.network_traffic(of, "update") for remat, of in by_policy.items()}
    assert received["none"]["fsdp"] == received["layer"]["fsdp"]  # the backward pass gathers weights once anyway
    assert received["none"]["tensor"] < received["layer"]["tensor"]


def test_one_device_receives_nothing():
    alone = work((1, 1, 1, 1))
    assert not any(sum(traffic.network_traffic(alone, name).values()) for name in PROGRAMS)


def test_the_head_is_gathered_once_a_pass_however_many_chunks_it_takes():
    few, many = work((1, 8, 1, 1), "training.score_chunk=80"), work((1, 8, 1, 1), "training.score_chunk=8")
    assert few.chunks("update").count < many.chunks("update").count
    assert traffic.network_traffic(few, "update") == traffic.network_traffic(many, "update")
    assert traffic.memory_traffic(few, "update") < traffic.memory_traffic(many, "update")


def test_moments_take_half_in_bfloat16_and_nothing_on_the_hosts_but_while_they_are_applied():
    plain, half, offloaded = (
        work((1, 4, 2, 1), f"optimizer.{knob}") for knob in ("offload=False", "state_dtype=bfloat16", "offload=True")
    )
    assert memory.moment_bytes(half) == memory.moment_bytes(plain) / 2
    on_the_way = memory.activation_bytes(offloaded, "apply") - memory.activation_bytes(plain, "apply")
    assert on_the_way == 4 * memory.moment_bytes(plain)
    assert memory.activation_bytes(offloaded, "update") == memory.activation_bytes(plain, "update")


def test_a_reference_on_the_hosts_is_held_while_it_is_read():
    kl = ["algorithm.kl_placement=loss", "algorithm.kl_estimator=k3", "algorithm.kl_coefficient=0.1"]
    here, there = work((1, 4, 2, 1), *kl), work((1, 4, 2, 1), *kl, "training.offload_reference=True")
    held = {name: memory.held_parameters(here, name) - memory.held_parameters(there, name) for name in PROGRAMS}
    one = memory.parameter_bytes(here)
    assert held == {"rollout": one, "score": 0, "update": one, "apply": one}


def test_an_adapter_has_the_only_gradients_and_moments_and_its_base_is_the_reference():
    kl = ["algorithm.kl_placement=loss", "algorithm.kl_estimator=k3", "algorithm.kl_coefficient=0.1"]
    settings = setting("lite_ppo", *kl, *LORA, "model.param_dtype=bfloat16")
    mesh, config = make_mesh(MeshSettings(1, 4, 2, 1)), from_hf(CASES["qwen3"], "qwen3")
    of = work((1, 4, 2, 1), *kl, *LORA, "model.param_dtype=bfloat16")
    adapter = on_a_device(lora.abstract(config, settings.lora), lora.shardings(config, settings.lora, mesh))
    base = on_a_device(weights.abstract_params(config, jnp.bfloat16), weights.shardings(config, mesh))
    assert memory.trained_bytes(of) == memory.moment_bytes(of) == adapter
    assert memory.held_parameters(of, "update") == memory.held_parameters(of, "score") == base + adapter
    assert memory.activation_bytes(of, "apply") == adapter
    whole = work((1, 4, 2, 1), *kl)
    for program in ("update", "apply"):
        assert memory.activation_bytes(of, program) < memory.activation_bytes(whole, program)
        assert traffic.memory_traffic(of, program) < traffic.memory_traffic(whole, program)
    assert traffic.network_traffic(of, "update")["fsdp"] < traffic.network_traffic(whole, "update")["fsdp"]


def test_passes_hold_every_completion_once_at_full_width():
    of = work((1, 2, 1, 1), "training.tokens_per_pass=160", "training.pack=True")
    for name, rows in (("score", 8), ("update", 4)):
        passes = of.passes(name)
        places = passes.count * passes.rows * passes.packing.lanes * (passes.lane // of.width)
        assert passes.sequences == rows and places >= rows
        assert passes.rows * passes.width // 2 <= 160


def test_meshes_are_all_splits_of_a_slice():
    assert meshes(4) == [(1, 4, 1, 1), (1, 2, 1, 2), (1, 1, 1, 4), (1, 2, 2, 1), (1, 1, 2, 2), (1, 1, 4, 1)]
    assert all(math.prod(shape) == 12 for shape in meshes(12))


@pytest.mark.parametrize("name", PUBLIC)
def test_the_table_of_public_models_is_what_their_authors_publish(name):
    published = from_hf(PUBLISHED[name.partition("/")[2]], name)
    assert dataclasses.asdict(architecture(name)) == dataclasses.asdict(published)
