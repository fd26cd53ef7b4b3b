"""The weight table: the decoder's own tree, the public models' tensors, layouts, shardings."""

from __future__ import annotations

import gc
import math
import time

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from jaxrl_llm import config as configs
from jaxrl_llm.algorithm import initial_controls
from jaxrl_llm.models import decoder, hub, weights
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.sharding import MESH_AXES, MeshSettings, make_mesh
from jaxrl_llm.training.optimizer import make_optimizer
from tests.models import public, tiny
from tests.policies import CONFIGS

# Billions on the model cards: of all parameters, and without the embedding and the output head.
CARDS = {
    "Qwen3-0.6B": (0.6, 0.44),
    "Qwen3-1.7B": (1.7, 1.4),
    "Qwen3-4B": (4.0, 3.6),
    "Qwen3-8B": (8.2, 6.95),
    "Qwen3-14B": (14.8, 13.2),
    "Qwen3-32B": (32.8, 31.2),
    "Qwen3-30B-A3B": (30.5, 29.9),
}
SOURCES = [public.recorded, public.ask_transformers] if tiny.HAVE_TRANSFORMERS else [public.recorded]


@pytest.mark.parametrize("case", tiny.CASES)
def test_the_table_is_the_tree_that_the_decoder_initializes(case):
    config = from_hf(tiny.hf_config(case), case)
    made = jax.eval_shape(decoder.functions(config).init, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
        lambda x: (x.shape, x.dtype), weights.abstract_params(config)
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
@pytest.mark.parametrize("name", public.CONFIGS)
def test_names_and_shapes_of_the_public_models_are_those_of_transformers(name, source):
    table = weights.weight_table(from_hf(public.CONFIGS[name], name))
    ours = {hf_name: weight.hf_shape for weight in table for hf_name in weight.hf_names}
    assert ours == source(name)


@pytest.mark.parametrize("name", public.PARAMETERS)
def test_the_public_models_have_their_published_number_of_parameters(name):
    assert weights.parameter_count(from_hf(public.CONFIGS[name], name)) == public.PARAMETERS[name]


@pytest.mark.parametrize("name", CARDS)
def test_the_public_models_have_the_parameters_of_their_cards_without_embeddings_too(name):
    config, (total, others) = from_hf(public.CONFIGS[name], name), CARDS[name]
    table = weights.weight_table(config)
    inner = sum(math.prod(weight.shape) for weight in table if "vocab" not in weight.axes)
    assert round(weights.parameter_count(config) / 1e9, 1) == total
    assert round(inner / 1e9, len(str(others).split(".")[1])) == others


def test_of_thirty_billion_parameters_a_token_meets_three():
    config = from_hf(public.CONFIGS["Qwen3-30B-A3B"], "Qwen3-30B-A3B")
    sizes = {weight.path: (math.prod(weight.shape), len(weight.stack) == 2) for weight in weights.weight_table(config)}
    met = sum(size * 8 // 128 if of_experts else size for size, of_experts in sizes.values())
    assert 3.3e9 <= met < 3.4e9  # "3.3B activated" on the card
    assert config.active_mlp_width == 8 * 768


@pytest.mark.parametrize("name", ["Qwen3-8B", "Llama-3.1-70B"])
def test_the_state_of_a_large_model_is_there_as_shapes_within_a_second_and_without_memory(name):
    """Parameters, both moments of AdamW with its counters, and the controls of the algorithm."""
    settings = configs.parse(configs.load(CONFIGS / "models" / "qwen3_8b.py", []))
    config = from_hf(public.CONFIGS[name], name)
    gc.collect()  # else the collector may walk in this second through what other tests have left
    started = time.thread_time()  # threads of other tests may still be at work
    model, optimizer = decoder.functions(config), make_optimizer(settings.optimizer, 100, seed=0)

    def state(key):
        params = model.init(key)
        return params, optimizer.init(params), initial_controls(settings.algorithm)

    params, moments, controls = jax.eval_shape(state, jax.random.key(0))
    seconds = time.thread_time() - started
    assert seconds < 1
    assert sum(x.size for x in jax.tree.leaves(params)) == public.PARAMETERS[name]
    large = [x.size for x in jax.tree.leaves(moments) if x.size > 1]
    assert sum(large) == 2 * public.PARAMETERS[name]
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves((params, moments, controls)))


@pytest.mark.parametrize("case", tiny.CASES)
def test_a_layout_says_what_a_torch_linear_computes(case):
    # torch: y = W x with W [out, in]; ours: the einsum of the decoder over the unflattened axes.
    rng = np.random.default_rng(0)
    for weight in weights.weight_table(from_hf(tiny.hf_config(case), case)):
        tensor = rng.standard_normal(weight.hf_shape)
        ours = weights.from_hf_layout(weight, tensor)
        assert ours.shape == weight.layer_shape
        np.testing.assert_array_equal(weights.to_hf_layout(weight, ours), tensor)
        inputs = {"matrix": 1, "joined": 2, "rows": 1, "joined rows": 2}.get(weight.layout)
        if inputs:
            tensor = tensor.T if weight.layout.endswith("rows") else tensor  # of GPT-2: y = x W
            x = rng.standard_normal(weight.layer_shape[:inputs])
            np.testing.assert_allclose(np.tensordot(x, ours, inputs).reshape(-1), tensor @ x.reshape(-1))


@pytest.mark.parametrize("case", tiny.CASES)
def test_a_part_of_a_layer_is_that_part_of_the_whole_and_no_more_is_read(case):
    rng = np.random.default_rng(0)
    for weight in weights.weight_table(from_hf(tiny.hf_config(case), case)):
        tensor, shape = rng.standard_normal(weight.hf_shape), weight.layer_shape
        whole = weights.from_hf_layout(weight, tensor)
        for axis, size in enumerate(shape):
            index = tuple(slice(size // 2, size) if i == axis else slice(None) for i in range(len(shape)))
            read = []

            def part_of(wanted, tensor=tensor, read=read):
                read.append(tensor[wanted].size)
                return tensor[wanted]

            np.testing.assert_array_equal(weights.read_layer(weight, index, part_of), whole[index])
            name = weight.axes[-len(shape) :][axis]  # what a mesh splits is read alone, but for heads of three in one
            if name in ("vocab", "embed", "kv_heads", "mlp") or (name == "heads" and "qkv" not in weight.axes):
                assert read == [whole[index].size]


def test_weights_are_split_by_the_axis_rules_where_the_mesh_divides_them():
    mesh = AbstractMesh((1, 4, 2, 1), MESH_AXES)
    places = weights.shardings(from_hf(public.CONFIGS["Qwen3-8B"], "Qwen3-8B"), mesh)  # type: ignore[arg-type]
    attention = places["layers"]["attention"]
    assert attention["query"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert attention["output"]["kernel"].spec == PartitionSpec(None, "tensor", None, "fsdp")
    assert attention["query_norm"]["scale"].spec == PartitionSpec()
    assert places["embed"]["embedding"].spec == PartitionSpec("tensor", "fsdp")
    odd = weights.shardings(from_hf(tiny.hf_config("llama"), "llama"), mesh)  # type: ignore[arg-type]
    assert odd["embed"]["embedding"].spec == PartitionSpec(None, "fsdp")  # 61 tokens over 2 devices


def test_loading_onto_a_mesh_places_the_same_numbers_by_those_rules(tmp_path):
    folder = str(tiny.write_case(tmp_path, "qwen2"))
    mesh = make_mesh(MeshSettings(data=1, fsdp=-1, tensor=1, sequence=1))
    plain, placed = hub.load(folder), hub.load(folder, mesh=mesh)
    places = weights.shardings(plain.config, mesh)
    for leaf, other, place in zip(*map(jax.tree.leaves, (plain.params, placed.params, places)), strict=True):
        assert other.sharding == place
        np.testing.assert_array_equal(leaf, other)
