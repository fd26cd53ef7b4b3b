"""GGUF files, written by llama.cpp's own package, load as the model that they were made from."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest

from jaxrl_llm.models import gguf as gguf_reader
from jaxrl_llm.models import gguf_file, hub, tensor_files
from tests.models import tiny
from tests.models.gguf_files import rope_factors, write, write_case

CASES = ["llama", "qwen2", "qwen3"]
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def refused(path: Path, message: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        hub.load(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_file_loads_as_the_folder_it_was_made_from(case, tmp_path):
    folder = hub.load(str(tiny.write_case(tmp_path / "folder", case)))
    file = hub.load(str(write_case(tmp_path / "model.gguf", case)))
    assert file.config == folder.config
    jax.tree.map(np.testing.assert_array_equal, file.params, folder.params)


@pytest.mark.parametrize("case", CASES)
def test_eight_bit_weights_are_read_within_half_a_step(case, tmp_path):
    folder = hub.load(str(tiny.write_case(tmp_path / "folder", case)))
    file = hub.load(str(write_case(tmp_path / "model.gguf", case, quantized=True)))
    for one, other in zip(jax.tree.leaves(file.params), jax.tree.leaves(folder.params), strict=True):
        # A block's scale is its largest magnitude / 127, kept in float16.
        np.testing.assert_allclose(one, other, rtol=0, atol=float(np.abs(other).max()) / 127 * 0.51)
    assert not np.array_equal(file.params["embed"]["embedding"], folder.params["embed"]["embedding"])


def test_our_header_is_what_the_package_reads(tmp_path):
    path = write_case(tmp_path / "model.gguf", "qwen3", quantized=True)
    ours, theirs = gguf_file.read(path), gguf.GGUFReader(path)
    for name, field in theirs.fields.items():
        if not name.startswith("GGUF.") and field.types[0] != gguf.GGUFValueType.ARRAY:
            assert ours.fields.pop(name) == field.contents()
    assert ours.fields == {}
    found = [(tensor.name, tensor.shape, tensor.kind, tensor.offset) for tensor in ours.tensors]
    assert found == [(t.name, tuple(t.shape)[::-1], t.tensor_type, t.data_offset) for t in theirs.tensors]


def test_a_file_cut_short_anywhere_is_refused_by_name(tmp_path):
    path = write_case(tmp_path / "model.gguf", "llama")
    whole = path.read_bytes()
    for size in [*range(0, 2000, 97), len(whole) // 2, len(whole) - 1000]:
        path.write_bytes(whole[:size])
        refused(path, "cut short")


@pytest.mark.parametrize("case", ["qwen3_moe", "gpt2"])
def test_a_damaged_header_is_refused_by_name_or_says_other_numbers(case, tmp_path):
    """Never another error: 200 times, one to four bytes of the header are others."""
    path, rng = write_case(tmp_path / "model.gguf", case), np.random.default_rng(0)
    whole, refusals = path.read_bytes(), []
    header = len(whole) - sum(tensor.nbytes for tensor in tiny.hf_tensors(tiny.hf_config(case)).values())
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.integers(24, header, rng.integers(1, 5)):
            data[at] = (0, 1, 255, int(rng.integers(256)))[rng.integers(4)]
        path.write_bytes(data)
        try:
            config = hub.load_config(path)
            tensor_files.check(gguf_reader.open_tensors(path, config), config)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 100 and all(str(path) in refusal for refusal in refusals)


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGML" + bytes(100))
    refused(path, "damaged or cut short (104 bytes), not GGUF: it does not start with GGUF")
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "big") + bytes(100))
    refused(path, "version 50331648 is not among (2, 3) (little-endian)")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architecture": "phi3"},
            "general.architecture = 'phi3' is unknown; supported: llama, qwen2, qwen3, ",
        ),
        ({"expert_count": 8}, "llama.expert_count = 8 is not supported"),
        ({"rope__scaling__type": "yarn"}, "llama.rope.scaling.type = 'yarn' is not supported"),
        ({"attention__sliding_window": 4096}, "llama.attention.sliding_window = 4096 is not supported"),
        ({"rope__dimension_count": 4}, "llama.rope.dimension_count = 4; expected 8, all of a head"),
    ],
)
def test_a_variant_that_the_decoder_does_not_have_is_refused(fields, message, tmp_path):
    refused(write_case(tmp_path / "model.gguf", "llama", **fields), message)


@pytest.mark.parametrize(
    ("changes", "of_file"),
    [
        ({"original_max_position_embeddings": 4096}, {}),
        ({"low_freq_factor": 2.0}, {}),
        ({}, {"rope__scaling__factor": 2.0}),  # two scalings at once
    ],
)
def test_rotary_factors_of_another_scaling_than_a_public_one_are_refused(changes, of_file, tmp_path):
    hf = tiny.hf_config("llama", rope_theta=500000.0, rope_scaling={**LLAMA31, **changes})
    tensors = {**tiny.hf_tensors(hf), "rope_freqs.weight": rope_factors(hf)}
    refused(write(tmp_path / "model.gguf", hf, tensors, **of_file), "load the model's safetensors instead")


def test_rotary_factors_of_another_number_of_frequencies_are_refused(tmp_path):
    hf = tiny.hf_config("llama")
    tensors = {**tiny.hf_tensors(hf), "rope_freqs.weight": np.ones(5, np.float32)}
    refused(write(tmp_path / "model.gguf", hf, tensors), "load the model's safetensors instead")


@pytest.mark.parametrize("factor", [8.0, 32.0])  # Llama 3.1 and 3.3, and 3.2
def test_the_scaling_of_a_public_llama_is_found_by_its_factors(factor, tmp_path):
    hf = tiny.hf_config("llama", head_dim=64, rope_theta=500000.0, rope_scaling={**LLAMA31, "factor": factor})
    tensors = tiny.hf_tensors(hf)
    folder = hub.load(str(tiny.write_folder(tmp_path / "folder", hf, tensors)))
    factors = rope_factors(hf)
    assert len(np.unique(factors)) > 3  # kept, stretched, and blended frequencies
    file = hub.load(str(write(tmp_path / "model.gguf", hf, {**tensors, "rope_freqs.weight": factors})))
    assert file.config == folder.config
    jax.tree.map(np.testing.assert_array_equal, file.params, folder.params)


def test_a_misshapen_or_missing_tensor_is_refused_by_its_hugging_face_name(tmp_path):
    tensors = tiny.hf_tensors(tiny.hf_config("llama"))
    short = {**tensors, "model.layers.1.mlp.down_proj.weight": np.zeros((32, 39), np.float32)}
    path = write(tmp_path / "model.gguf", tiny.hf_config("llama"), short)
    refused(path, "model.layers.1.mlp.down_proj.weight: found [32, 39], expected [32, 40]")
    del tensors["model.norm.weight"]
    refused(write(tmp_path / "other.gguf", tiny.hf_config("llama"), tensors), "missing tensors: model.norm.weight [32]")


def test_without_the_package_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    path = write_case(tmp_path / "model.gguf", "llama")
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(path, "reading GGUF needs the package gguf: pip install 'jaxrl-llm[gguf]'", ImportError)
