"""The config.json of public models, as their authors publish them, and the tensors that transformers makes of them."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.models.tiny import FIXTURES

_QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
_QWEN3_BASE = {"eos_token_id": 151643, "max_position_embeddings": 32768}
_QWEN3_4B = {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
_QWEN3_8B = {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3-4B": _QWEN3_4B,
    "Qwen3-4B-Base": {**_QWEN3_4B, **_QWEN3_BASE},
    "Qwen3-8B": _QWEN3_8B,
    "Qwen3-8B-Base": {**_QWEN3_8B, **_QWEN3_BASE},
    "Llama-3.1-8B": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    },
}
# Numbers of the safetensors files on the Hugging Face Hub, a tied embedding counted once.
PARAMETERS = {
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-4B-Base": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-8B-Base": 8_190_735_360,
    "Llama-3.1-8B": 8_030_261_248,
}


def ask_transformers(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that transformers builds, without memory; a tied head is left out."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**CONFIGS[name])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def recorded(name: str) -> dict[str, tuple[int, ...]]:
    layers = CONFIGS[name]["num_hidden_layers"]
    shapes = {}
    for template, shape in json.loads((FIXTURES / "public_shapes.json").read_text())[name].items():
        for layer in range(layers if "{layer}" in template else 1):
            shapes[template.format(layer=layer)] = tuple(shape)
    return shapes


def collapse(shapes: dict[str, tuple[int, ...]]) -> dict[str, list[int]]:
    """One line for all layers, which must be alike."""
    templates: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        template = re.sub(r"layers\.\d+\.", "layers.{layer}.", name)
        if templates.setdefault(template, list(shape)) != list(shape):
            raise ValueError(f"{name} has shape {shape}, other layers have {templates[template]}")
    return templates
