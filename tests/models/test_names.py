"""Names of tensors as checkpoints have them, where that is in more than one way."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxrl_llm.models import hub
from jaxrl_llm.models.config import from_hf
from tests.models import tiny


def assert_loads_as(case: str, folder, expected) -> None:
    found = hub.load_params(folder, from_hf(tiny.hf_config(case), case))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_gpt2_is_read_with_and_without_its_prefix_and_its_masks_are_not(tmp_path):
    config, tensors = tiny.hf_config("gpt2"), tiny.hf_tensors(tiny.hf_config("gpt2"))
    expected = hub.load(str(tiny.write_folder(tmp_path / "prefixed", config, tensors))).params
    masks = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.uint8), "h.1.attn.masked_bias": np.array([-1e4], np.float32)}
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()} | masks
    assert_loads_as("gpt2", tiny.write_folder(tmp_path / "short", config, short), expected)
    both = {
        **short,
        "wte.weight": tensors["transformer.wte.weight"],
        "transformer.h.0.ln_1.bias": short["h.0.ln_1.bias"],
    }
    with pytest.raises(ValueError, match=r"unknown tensors: transformer\.transformer\.h\.0\.ln_1\.bias"):
        assert_loads_as("gpt2", tiny.write_folder(tmp_path / "both", config, both), expected)
    untied = {**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1}
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        assert_loads_as("gpt2", tiny.write_folder(tmp_path / "untied", config, untied), expected)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_of_a_multimodal_gemma_3_the_text_model_is_read(prefix, tmp_path):
    config, tensors = tiny.hf_config("gemma3"), tiny.hf_tensors(tiny.hf_config("gemma3"))
    expected = hub.load(str(tiny.write_folder(tmp_path / "text", config, tensors))).params
    vision = "model.vision_tower." if prefix.startswith("model") else "vision_tower."
    whole = {prefix + name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    folder = tiny.write_folder(tmp_path / "whole", config, {**whole, f"{vision}a.weight": np.ones(3, np.float32)})
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    jax.tree.map(np.testing.assert_array_equal, hub.load(str(folder)).params, expected)
    twice = {**whole, "model.norm.weight": tensors["model.norm.weight"]}
    with pytest.raises(ValueError, match=r"norm\.weight are one weight, model\.norm\.weight"):
        assert_loads_as("gemma3", tiny.write_folder(tmp_path / "twice", config, twice), expected)
