"""Loading a band at a time: the same numbers, on little host memory, in the dtype that was asked for."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxrl_llm import models
from jaxrl_llm.models import hub, reading, tensor_files
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.models.layers import RMSNorm
from jaxrl_llm.sharding import MeshSettings, make_mesh
from tests.models import tiny

COPIES = (2, 2, 2, 1)  # every shard lies on two devices


def mesh_of(shape: tuple[int, int, int, int] | None) -> Any:
    return None if shape is None else make_mesh(MeshSettings(*shape))


def assert_same(found, expected) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype and one.sharding == other.sharding
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("family", "shape"), [("llama", None), ("llama", COPIES), ("qwen3_moe", (1, 8, 1, 1)), ("gpt2", COPIES)]
)
def test_bands_put_together_are_the_weights_in_one_piece(family, shape, tmp_path, monkeypatch):
    folder = str(tiny.write_case(tmp_path, family))
    whole = hub.load(folder, mesh=mesh_of(shape)).params
    # The largest weights fall into bands within a layer, of which the last overlaps the one before; biases stay whole.
    monkeypatch.setattr(reading, "BAND_BYTES", 3000)
    with contextlib.nullcontext() if shape is None else jax.set_mesh(mesh_of(shape)):
        assert_same(hub.load(folder, mesh=mesh_of(shape)).params, whole)


def test_a_gguf_file_is_read_in_bands_too(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")  # the extra `gguf`
    from tests.models.test_gguf import write_case

    assert gguf
    path, mesh = str(write_case(tmp_path / "model.gguf", "llama", quantized=True)), mesh_of(COPIES)
    whole = hub.load(path, mesh=mesh).params
    monkeypatch.setattr(reading, "BAND_BYTES", 3000)  # also within a head, whose rows llama.cpp has in another order
    assert_same(hub.load(path, mesh=mesh).params, whole)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """A bfloat16 checkpoint of 17 MB whose largest tensor, the embedding, has 16 MB."""
    config = tiny.hf_config("qwen3", vocab_size=32000, hidden_size=256, num_hidden_layers=4, tie_word_embeddings=True)
    tensors = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tiny.hf_tensors(config).items()}
    return tiny.write_folder(tmp_path_factory.mktemp("wide"), config, tensors)


@pytest.mark.parametrize("shape", [None, (1, 4, 2, 1)])
def test_a_host_holds_a_band_of_a_weight_and_reads_each_number_once(wide, shape, monkeypatch):
    band, read, mapped = 1 << 20, [], tensor_files.mapped

    def counted(file, dtype, offset, shape):
        class Counted(np.ndarray):
            def __getitem__(self, index):
                part = np.asarray(super().__getitem__(index))
                read.append(part.nbytes)
                return part

        return mapped(file, dtype, offset, shape).view(Counted)

    monkeypatch.setattr(reading, "BAND_BYTES", band)
    monkeypatch.setattr(tensor_files, "mapped", counted)
    hub.load(str(wide), param_dtype="bfloat16", mesh=mesh_of(shape))  # compiles, which takes memory of its own
    read.clear()
    tracemalloc.start()  # counts what numpy allocates; neither what jax does nor pages of files
    hub.load(str(wide), param_dtype="bfloat16", mesh=mesh_of(shape))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Beside its devices' shards a host may take 0.3 of the largest tensor, 4.9 MB. Here that is a band and what says
    # which of its numbers are finite, 1.6 MB; the weights of one band or less, whose memory becomes the parameters',
    # 0.8 MB; and what Python and jax note down.
    assert peak < 0.3 * 32000 * 256 * 2
    size = (wide / "model.safetensors").stat().st_size
    # norms, which are whole on every device, and the last bands of a shard, which may overlap others
    assert 0.99 * size < sum(read) < 1.1 * size
    assert max(read) <= band


def test_a_bfloat16_checkpoint_comes_and_goes_in_its_own_bits(wide, tmp_path):
    policy = models.load(str(wide), param_dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(policy.params)} == {jnp.dtype(jnp.bfloat16)}
    models.save(policy, tmp_path / "again", dtype="bfloat16", max_shard_bytes=500_000)
    written: dict[str, np.ndarray] = {}
    for file in (tmp_path / "again").glob("*.safetensors"):
        written |= load_file(file)
    expected = load_file(wide / "model.safetensors")
    assert set(written) == set(expected) and len(list((tmp_path / "again").glob("*.safetensors"))) == 3
    for name, tensor in expected.items():
        np.testing.assert_array_equal(written[name].view(np.uint16), tensor.view(np.uint16))
    assert_same(jax.tree.map(lambda x: x.astype(jnp.float32), policy.params), models.load(str(wide)).params)


def test_numbers_between_two_of_bfloat16_are_rounded_once_to_the_even_one(tmp_path):
    config = tiny.hf_config("llama")
    tensors = tiny.hf_tensors(config)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 1e-40, 2**-133 * 3], np.float32)
    tensors["model.norm.weight"][:6] = ties
    loaded = hub.load(str(tiny.write_folder(tmp_path, config, tensors)), param_dtype="bfloat16").params
    even = np.array([1, 1 + 2**-6, -1, 1 + 2**-7, 1e-40, 2**-133 * 3]).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.asarray(loaded["final_norm"]["scale"])[:6], even)


@pytest.mark.parametrize("offset", [False, True])
def test_a_norm_with_a_scale_in_bfloat16_computes_in_float32(offset):
    norm, x = RMSNorm(1e-6, offset), jnp.linspace(-1, 2, 64).reshape(4, 16)
    scale = jnp.linspace(0.01, 0.02, 16, dtype=jnp.bfloat16)  # 1 + scale has no room in bfloat16
    rounded, exact = (norm.apply({"params": {"scale": one}}, x) for one in (scale, scale.astype(jnp.float32)))
    np.testing.assert_array_equal(rounded, exact)  # type: ignore[arg-type]


def test_a_number_that_the_dtype_cannot_hold_and_an_unknown_dtype_are_refused(tmp_path):
    config = tiny.hf_config("llama")
    tensors = tiny.hf_tensors(config)
    tensors["model.norm.weight"][0] = np.finfo(np.float32).max  # rounds to infinity
    folder = str(tiny.write_folder(tmp_path, config, tensors))
    with pytest.raises(ValueError, match=r"tensor model\.norm\.weight holds NaN or infinity"):
        hub.load(folder, param_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"param_dtype = 'float16': expected one of float32, bfloat16"):
        hub.load(folder, param_dtype="float16")


def test_a_file_that_became_shorter_is_an_error_and_no_crash(tmp_path):
    file = tiny.write_case(tmp_path, "llama") / "model.safetensors"
    source = tensor_files.open_folder(tmp_path)
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"model\.safetensors: not readable at byte \d+"):
        reading.read_params(source, from_hf(tiny.hf_config("llama"), "llama"), np.dtype("f4"), None)


def test_what_is_written_is_what_safetensors_writes(tmp_path):
    policy = models.load(str(tiny.write_case(tmp_path / "model", "gpt2")))
    models.save(policy, tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / "model.safetensors")
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()
