"""Adapters as folders of peft: ours there and theirs here, and what no adapter of ours could mean."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxrl_llm import models
from jaxrl_llm.models import decoder, hub, lora, peft, weights
from jaxrl_llm.models.config import ModelConfig, from_hf
from jaxrl_llm.models.hub import Policy
from jaxrl_llm.models.lora import LoraSettings
from tests.models import tiny

needs_peft = pytest.mark.skipif(
    not tiny.HAVE_TRANSFORMERS or importlib.util.find_spec("peft") is None, reason="needs the extra parity"
)
TOLERANCE = 1e-4  # of a logit; they reach about ±5
REAL = np.arange(tiny.WIDTH) < tiny.LENGTHS[:, None]
ALL = LoraSettings(rank=4, alpha=8.0, targets="all-linear", rank_stabilized=False)
CASES = {
    "llama": dataclasses.replace(ALL, alpha=6.5),
    "qwen3": dataclasses.replace(ALL, targets=r".*\.(q|v)_proj", rank_stabilized=True),
    "gemma3": dataclasses.replace(ALL, rank=3, rank_stabilized=True),
    "gpt2": ALL,
}
COMPARED = {"self_attn.q_proj": ("attention", "query"), "mlp.down_proj": ("mlp", "down")}  # gradients, of layer 1


def adapter_of(config: ModelConfig, settings: LoraSettings) -> dict[str, Any]:
    """Both factors random, and large enough to move every logit."""
    rng = np.random.default_rng(0)
    shapes = lora.abstract(config, settings)
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32), shapes)


class Both(NamedTuple):
    """Attributes:
    ours: with the adapter that was written.
    theirs: peft's model with the adapter that it has read.
    folder: of the model; the adapter is in its `adapter`.
    """

    ours: Policy
    theirs: Any
    folder: Path


@pytest.fixture(scope="module")
def both_of(tmp_path_factory):
    def both(case: str) -> Both:
        from peft import PeftModel

        folder, settings = tiny.write_case(tmp_path_factory.mktemp(case), case), CASES[case]
        policy = hub.load(str(folder))
        params = policy.params | {"lora": adapter_of(policy.config, settings)}
        ours = Policy(policy.config, params, decoder.functions(policy.config, lora=settings), settings)
        models.save(ours, folder / "adapter", adapter=True, base=str(folder))
        return Both(ours, PeftModel.from_pretrained(tiny.transformers_model(folder), folder / "adapter"), folder)

    return functools.cache(both)


@needs_peft
@pytest.mark.parametrize("case", CASES)
def test_peft_computes_our_logits_from_an_adapter_that_we_wrote(case, both_of):
    ours, theirs, _ = both_of(case)
    hidden = jax.jit(ours.model.apply)(ours.params, *rows())
    found, expected = np.asarray(ours.unembed(hidden))[REAL], tiny.ask_logits(theirs)[REAL]
    with theirs.disable_adapter():
        without = tiny.ask_logits(theirs)[REAL]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert np.abs(expected - without).mean() > 0.1  # the adapter is there


@needs_peft
@pytest.mark.parametrize("case", CASES)
def test_an_adapter_that_peft_wrote_is_read_bit_for_bit(case, both_of, tmp_path):
    ours, theirs, _ = both_of(case)
    theirs.save_pretrained(tmp_path)
    settings, adapter = peft.load_adapter(tmp_path, ours.config)
    assert settings.scale == CASES[case].scale
    jax.tree.map(np.testing.assert_array_equal, adapter, ours.params["lora"])


@needs_peft
@pytest.mark.parametrize("case", CASES)
def test_merged_weights_are_those_of_peft(case, both_of, tmp_path):
    ours, theirs, folder = both_of(case)
    models.save(ours, tmp_path)
    found, before = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    merged = copy.deepcopy(theirs).merge_and_unload()
    expected = {name: tensor.numpy() for name, tensor in merged.state_dict().items()}
    moved = [name for name in found if not np.array_equal(found[name], before[name])]
    assert len(moved) == ours.config.layers * len(lora.adapter_table(ours.config, CASES[case]))
    for name, tensor in found.items():  # a product of rank 4, of float32
        np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=1e-6 * np.abs(expected[name]).max())


@needs_peft
def test_gradients_of_both_factors_are_those_of_peft(both_of):
    import torch

    ours, theirs, _ = both_of("llama")
    tokens, positions, segments = rows()

    def total(adapter: Any) -> jax.Array:
        hidden = ours.model.apply(ours.params | {"lora": adapter}, tokens, positions, segments)
        logprobs = jax.nn.log_softmax(ours.unembed(hidden)[:, :-1])
        return jnp.sum(jnp.take_along_axis(logprobs, tokens[:, 1:, None], -1)[..., 0] * segments[:, 1:])

    gradient: Any = jax.jit(jax.grad(total))(ours.params["lora"])
    factors = {
        (target, factor): dict(theirs.named_parameters())[
            f"base_model.model.model.layers.1.{target}.lora_{factor.upper()}.default.weight"
        ].requires_grad_()
        for target in COMPARED
        for factor in ("a", "b")
    }
    logprobs = torch.log_softmax(tiny.forward(theirs, tiny.tokens(), tiny.LENGTHS)[0][:, :-1], -1)
    chosen = torch.take_along_dim(logprobs, torch.tensor(tiny.tokens()[:, 1:, None], dtype=torch.long), -1)[..., 0]
    (chosen * torch.tensor(REAL[:, 1:])).sum().backward()
    for (target, factor), parameter in factors.items():
        above, name = COMPARED[target]
        assert parameter.grad is not None
        expected, found = parameter.grad.numpy(), np.asarray(gradient["layers"][above][name][factor][1])
        found = found.reshape(expected.shape[::-1]).T
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def rows() -> tuple[jax.Array, jax.Array, jax.Array]:
    positions = jnp.broadcast_to(jnp.arange(tiny.WIDTH), (len(tiny.LENGTHS), tiny.WIDTH))
    return jnp.asarray(tiny.tokens()), positions, jnp.asarray(REAL, jnp.int32)


@pytest.fixture
def written(tmp_path) -> Path:
    config = from_hf(tiny.hf_config("llama"), "llama")
    peft.save_adapter(config, ALL, adapter_of(config, ALL), tmp_path, base="org/name")
    return tmp_path


LLAMA = from_hf(tiny.hf_config("llama"), "llama")


@pytest.mark.parametrize(("case", "dtype"), [("llama", "float32"), ("gpt2", "float32"), ("qwen3", "bfloat16")])
def test_what_is_written_is_read_bit_for_bit_in_the_dtype_of_the_file(case, dtype, tmp_path):
    config, settings = from_hf(tiny.hf_config(case), case), CASES[case]
    adapter = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), adapter_of(config, settings))
    peft.save_adapter(config, settings, adapter, tmp_path, base=None, dtype=dtype)
    found, read = peft.load_adapter(tmp_path, config)
    assert found.scale == settings.scale
    assert lora.adapter_table(config, found) == lora.adapter_table(config, settings)
    jax.tree.map(np.testing.assert_array_equal, read, adapter)
    size = (tmp_path / peft.TENSOR_FILE).stat().st_size - lora.count(config, settings) * jnp.dtype(dtype).itemsize
    assert 0 < size < 10_000  # names and shapes
    assert sorted(file.name for file in tmp_path.iterdir()) == [peft.CONFIG_FILE, peft.TENSOR_FILE]


def test_the_config_names_the_modules_the_base_and_how_the_matrices_lie(tmp_path):
    config = from_hf(tiny.hf_config("gpt2"), "gpt2")
    settings = dataclasses.replace(ALL, targets=r".*\.c_proj", rank_stabilized=True)
    peft.save_adapter(config, settings, adapter_of(config, settings), tmp_path, base="openai-community/gpt2")
    found = json.loads((tmp_path / peft.CONFIG_FILE).read_text())
    assert found["target_modules"] == ["attn.c_proj", "mlp.c_proj"]
    assert (found["r"], found["lora_alpha"], found["use_rslora"], found["lora_dropout"]) == (4, 8, True, 0.0)
    assert (found["base_model_name_or_path"], found["fan_in_fan_out"]) == ("openai-community/gpt2", True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = .* is not supported"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern = .* is not supported"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern = .* is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported; expected 'none'"),
        ({"layers_to_transform": [0]}, "layers_to_transform = .* is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not supported; expected True or False"),
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA' is not supported; expected 'LORA'"),
        ({"task_type": "SEQ_CLS"}, "task_type = 'SEQ_CLS' is not supported"),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow = 1 is not supported"),
        ({"r": 0}, "r = 0; expected a whole number above 0"),
        ({"r": True}, "r = True; expected a whole number"),
        ({"lora_alpha": math.inf}, "lora_alpha = inf; expected a number above 0"),
        ({"use_rslora": "yes"}, "use_rslora = 'yes'; expected true or false"),
        ({"target_modules": None}, "target_modules = None; expected names"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules: 'lm_head' means none of"),
        ({"target_modules": "model.(q"}, "is no regular expression"),
        ({"target_modules": ["q_proj"]}, r"unknown tensors: .*mlp\.down_proj.*; and 19 more"),
        ({"r": 5}, r"wrong shapes: .*lora_A.weight: found \[4, 32\], expected \[5, 32\]"),
    ],
)
def test_a_config_that_says_what_is_not_computed_is_refused_by_name(changes, told, written):
    file = written / peft.CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=told):
        peft.load_adapter(written, LLAMA)


NAME = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop(NAME), f"missing tensors: {NAME} "),
        (lambda tensors: tensors.update({NAME: tensors[NAME][1:]}), rf"{NAME}: found \[39, 4\], expected \[40, 4\]"),
        (lambda tensors: tensors.update({f"{NAME}.more": tensors[NAME]}), f"unknown tensors: {NAME}.more"),
        (lambda tensors: tensors.update({NAME: tensors[NAME].astype(np.int32)}), f"{NAME} has dtype I32"),
        (lambda tensors: tensors.update({NAME: tensors[NAME] * np.nan}), f"{NAME} holds NaN or infinity"),
    ],
    ids=["missing", "misshapen", "unknown", "integers", "not a number"],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(change, told, written):
    tensors = load_file(written / peft.TENSOR_FILE)
    change(tensors)
    save_file(tensors, written / peft.TENSOR_FILE)
    with pytest.raises(ValueError, match=told):
        peft.load_adapter(written, LLAMA)


def test_dropout_and_a_pattern_of_whole_names_are_read(written):
    file = written / peft.CONFIG_FILE
    pattern = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_dropout": 0.1, "target_modules": pattern}))
    assert peft.load_adapter(written, LLAMA)[0] == ALL


def test_a_file_that_is_missing_or_cut_is_told_of(written):
    file = written / peft.TENSOR_FILE
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged or cut short"):
        peft.load_adapter(written, LLAMA)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no adapter: looked for adapter_model\.safetensors; found adapter_con"
    ):
        peft.load_adapter(written, LLAMA)


def test_an_adapter_is_saved_only_where_there_is_one(tmp_path):
    policy = Policy(LLAMA, weights.abstract_params(LLAMA), decoder.functions(LLAMA))
    with pytest.raises(ValueError, match="adapter = True: expected a policy with one"):
        models.save(policy, tmp_path, adapter=True)
    with pytest.raises(ValueError, match="base = 'org/name': expected None, or adapter = True"):
        models.save(policy, tmp_path, base="org/name")
