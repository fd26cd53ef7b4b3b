"""GGUF files of every family: the fields and tensors that llama.cpp's converter writes give the model back."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.models import gguf, hub
from jaxrl_llm.models.config import from_hf
from tests.models import public, tiny
from tests.models.gguf_files import write, write_case

# What a file cannot say, as llama.cpp has it in its code: Gemma's scale of queries, and a tied head; every fourth layer
# without rotation (SmolLM3); windows in all but every sixth layer (Gemma 3).
GEMMA = {"query_pre_attn_scalar": 16, "tie_word_embeddings": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases and linear scaling": ("llama_biases", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "smollm3": ("smollm3", {"no_rope_layers": None, "num_hidden_layers": 4}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": ("gemma3", {**GEMMA, "sliding_window_pattern": 6, "num_hidden_layers": 7}),
    "olmo2": ("olmo2", {}),
    "gpt2": ("gpt2", {}),
}
PUBLIC = ["Qwen3-0.6B", "Qwen3-30B-A3B", "Qwen2.5-Math-7B", "gemma-2-2b", "gemma-3-27b text", "OLMo-2-1124-7B", "gpt2"]


def refused(path, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        hub.load(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_every_family_loads_as_the_folder_it_was_made_from(name, tmp_path):
    case, changes = CASES[name]
    hf = {key: value for key, value in tiny.hf_config(case, **changes).items() if value is not None}
    tensors = tiny.hf_tensors(hf)
    folder = hub.load(str(tiny.write_folder(tmp_path / "folder", hf, tensors)))
    file = hub.load(str(write(tmp_path / "model.gguf", hf, tensors)))
    assert file.config == folder.config

    def equal(path, one, other):
        # Gemma's 1 + w lies in [0.25, 4), where float32 rounds it by up to 2^-23; the subtraction is exact.
        offset = folder.config.norm_offset and path[-2].key.endswith("norm")
        np.testing.assert_allclose(one, other, rtol=0, atol=2.0**-23 if offset else 0)

    jax.tree.map_with_path(equal, file.params, folder.params)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt2"])
def test_packed_experts_and_packed_transposed_matrices_are_read_within_half_a_step(name, tmp_path):
    hf = tiny.hf_config(name)
    tensors = tiny.hf_tensors(hf)
    folder = hub.load(str(tiny.write_folder(tmp_path / "folder", hf, tensors)))
    file = hub.load(str(write(tmp_path / "model.gguf", hf, tensors, quantized=True)))
    for one, other in zip(jax.tree.leaves(file.params), jax.tree.leaves(folder.params), strict=True):
        # A block's scale is its largest magnitude / 127, kept in float16.
        np.testing.assert_allclose(one, other, rtol=0, atol=float(np.abs(other).max()) / 127 * 0.51)
    assert not np.array_equal(
        file.params["layers"]["mlp"]["up"]["kernel"], folder.params["layers"]["mlp"]["up"]["kernel"]
    )


@pytest.mark.parametrize("name", CASES)
def test_a_part_of_a_tensor_is_that_part_of_the_whole(name, tmp_path):
    """Also within a head, whose rows are in another order, across transposed rows, and of packed rows."""
    case, changes = CASES[name]
    hf = tiny.hf_config(case, **changes)
    path = write(tmp_path / "model.gguf", hf, tiny.hf_tensors(hf), quantized=True)
    source = gguf.open_tensors(path, gguf.load_config(path))
    for key, shape in source.shapes.items():
        whole = source.read(key, (slice(None),) * len(shape))
        assert whole.shape == shape
        for part in [(slice(shape[0] // 3, shape[0] - 1),), (slice(1, 2), slice(5, 9)), (slice(None), slice(7, 11))]:
            index = (*part, *(slice(None),) * (len(shape) - len(part)))[: len(shape)]
            np.testing.assert_array_equal(source.read(key, index), whole[index])


if tiny.HAVE_TRANSFORMERS:

    @pytest.mark.parametrize(
        "name", [name for name in CASES if name not in ("smollm3", "olmo2")]
    )  # unknown to it there
    def test_transformers_reads_the_same_tensors_from_the_file(name, tmp_path):
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        case, changes = CASES[name]
        hf = {key: value for key, value in tiny.hf_config(case, **changes).items() if value is not None}
        tensors = tiny.hf_tensors(hf)
        model = tiny.transformers_model(tiny.write_folder(tmp_path / "folder", hf, tensors))
        path = write(tmp_path / "model.gguf", hf, tensors)
        theirs = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
        ours = gguf.open_tensors(path, gguf.load_config(path))
        found = {key: ours.read(key, (slice(None),) * len(shape)) for key, shape in ours.shapes.items()}
        if name == "qwen3_moe":  # which has them together
            for layer in range(2):
                prefix = f"model.layers.{layer}.mlp.experts."
                gate, up, down = (
                    np.stack([found.pop(f"{prefix}{expert}.{part}_proj.weight") for expert in range(6)])
                    for part in ("gate", "up", "down")
                )
                found |= {f"{prefix}gate_up_proj": np.concatenate([gate, up], 1), f"{prefix}down_proj": down}
        assert found.keys() == theirs.keys()
        for key, array in found.items():
            np.testing.assert_array_equal(array, theirs[key].numpy())


def test_a_file_of_mistral_is_the_llama_that_it_is_without_a_window(tmp_path):
    hf = tiny.hf_config("mistral", sliding_window=None)
    tensors = tiny.hf_tensors(hf)
    folder = hub.load(str(tiny.write_folder(tmp_path / "folder", hf, tensors)))
    file = hub.load(str(write(tmp_path / "model.gguf", hf, tensors)))
    assert file.config == dataclasses.replace(folder.config, family="llama")
    jax.tree.map(np.testing.assert_array_equal, file.params, folder.params)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_fields_of_a_public_model_give_its_published_configuration(name, tmp_path):
    hf = public.CONFIGS[name]
    expected = dataclasses.replace(from_hf(hf, name), vocab_size=3)
    tensors = {"model.embed_tokens.weight": np.zeros((3, 1), np.float32)}
    if hf["model_type"] == "gpt2":
        tensors = {"transformer.wte.weight": np.zeros((3, 1), np.float32)}
    if not expected.tied:
        tensors["lm_head.weight"] = np.zeros((3, 1), np.float32)
    assert gguf.load_config(write(tmp_path / "model.gguf", hf, tensors)) == expected


@pytest.mark.parametrize(("family", "layers", "scalar"), [("gemma2", 26, 16), ("gemma2", 46, 8), ("gemma3", 62, 8)])
def test_queries_of_gemmas_largest_models_are_scaled_by_width_over_heads(family, layers, scalar, tmp_path):
    hf = tiny.hf_config(family, num_hidden_layers=layers)  # 32 wide, 4 heads of 16
    tensors = {"model.embed_tokens.weight": np.zeros((3, 32), np.float32)}
    assert gguf.load_config(write(tmp_path / "model.gguf", hf, tensors)).query_scalar == scalar


def test_what_a_gemma_file_leaves_out_is_as_llama_cpp_takes_it(tmp_path):
    tensors = {"model.embed_tokens.weight": np.zeros((3, 32), np.float32)}
    hf = tiny.hf_config("gemma3", num_hidden_layers=7)
    del hf["rope_local_base_freq"], hf["rope_scaling"]
    config = gguf.load_config(write(tmp_path / "one.gguf", hf, tensors))
    assert (config.local_rope_theta, config.windowed) == (10000.0, (True,) * 5 + (False, True))
    every_third = gguf.load_config(write(tmp_path / "two.gguf", hf, tensors, attention__sliding_window_pattern=3))
    assert every_third.windowed == (True, True, False) * 2 + (True,)
    hf["sliding_window"] = 0
    assert gguf.load_config(write(tmp_path / "three.gguf", hf, tensors)).window is None


@pytest.mark.parametrize(
    ("case", "fields", "message"),
    [
        ("qwen3_moe", {"expert_gating_func": 2}, "qwen3moe.expert_gating_func = 2 is not supported; expected 1"),
        ("qwen3_moe", {"expert_weights_norm": False}, "qwen3moe.expert_weights_norm = False is not supported"),
        ("qwen3_moe", {"expert_shared_count": 1}, "qwen3moe.expert_shared_count = 1 is not supported; expected 0"),
        ("olmo2", {"attention__sliding_window": 4096}, "olmo2.attention.sliding_window = 4096 is not supported"),
        ("olmo2", {"attention__sliding_window_pattern": [True, False]}, "sliding_window_pattern is a list"),
        ("gemma2", {"attention__sliding_window_pattern": 4}, "sliding_window_pattern = 4 is not supported; expected 2"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "gemma3.attn_logit_softcapping = 50.0 is not supported"),
        ("llama", {"attention__scale": 0.5}, "llama.attention.scale = 0.5 is not supported; expected no such field"),
        ("llama", {"attention__causal": False}, "llama.attention.causal = False is not supported; expected True"),
        ("llama", {"attention__value_length": 4}, "llama.attention.value_length = 4 is not supported; expected 8"),
        ("llama", {"rope__scaling__factor": 2.0, "rope__scale_linear": 4.0}, "contradicts rope.scale_linear"),
    ],
)
def test_a_variant_of_a_family_that_the_decoder_does_not_have_is_refused(case, fields, message, tmp_path):
    refused(write_case(tmp_path / "model.gguf", case, **fields), message)


def test_experts_of_another_number_and_unknown_tensors_are_refused(tmp_path):
    hf = tiny.hf_config("qwen3_moe")
    tensors = tiny.hf_tensors(hf)
    fewer = {name: tensor for name, tensor in tensors.items() if ".experts.5." not in name}
    message = "tensor blk.0.ffn_gate_exps.weight has shape [5, 24, 32]; expected 6 experts"
    refused(write(tmp_path / "fewer.gguf", hf, fewer), message)
    more = {**tensors, "blk.0.exp_probs_b.bias": np.zeros(6, np.float32)}
    refused(write(tmp_path / "more.gguf", hf, more), "unknown tensors: blk.0.exp_probs_b.bias [6]")


def test_a_file_without_a_size_is_refused_by_the_name_of_its_field(tmp_path):
    hf = tiny.hf_config("gemma3")
    del hf["intermediate_size"]
    tensors = {"model.embed_tokens.weight": np.zeros((3, 32), np.float32)}
    refused(write(tmp_path / "model.gguf", hf, tensors), "no field gemma3.feed_forward_length")
