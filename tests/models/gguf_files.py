"""Writes GGUF files with llama.cpp's own package, by the rules of its convert_hf_to_gguf.py."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.models import tiny

# Hugging Face's model type -> general.architecture, where it is another
ARCHITECTURES = {"mistral": "llama", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}
# Keys of a config.json -> the writer's method for their field. What transformers takes for a missing one stands below.
FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "head_count",
    "num_key_value_heads": "head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "layer_norm_rms_eps",
    "rope_theta": "rope_freq_base",
    "head_dim": "key_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope_local_base_freq": "rope_freq_base_swa",
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_head": "head_count",
    "n_positions": "context_length",
}
DEFAULTS = {
    "gemma2": {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "head_dim": 256,
        "rope_theta": 1e6,
    },
}


def gguf_name(architecture: str, name: str, layers: int) -> str:
    """By the package's own table; a name that it does not know stays itself."""
    kind = next(kind for kind, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    part, _, parameter = name.rpartition(".")
    known = gguf.get_tensor_name_map(kind, layers).get_name(part)
    return name if known is None else f"{known}.{parameter}"


def permute(tensor: np.ndarray, heads: int) -> np.ndarray:
    """LlamaModel.permute: neighbours instead of halves."""
    return tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def stored(hf: dict[str, Any], name: str, tensor: np.ndarray) -> np.ndarray:
    """The tensor as llama.cpp has it (`modify_tensors` of the families)."""
    family = hf["model_type"]
    if family in ("llama", "mistral", "smollm3") and re.search(r"\.[qk]_proj\.", name):
        return permute(tensor, hf["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
    if family in ("gemma2", "gemma3_text") and name.endswith("norm.weight"):
        return tensor + np.float32(1)
    if family == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return tensor.T
    return tensor


def rope_factors(hf: dict[str, Any]) -> np.ndarray:
    """What LlamaModel.generate_extra_tensors writes of the scaling `llama3`: a factor for each frequency, in a loop."""
    rope, size = hf["rope_scaling"], hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, size, 2):
        wavelength = 2 * math.pi * hf["rope_theta"] ** (i / size)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(rope["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def stack_experts(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[E, out, in] for each layer and part, in place of the experts."""
    stacked: dict[str, Any] = {}
    for name, tensor in tensors.items():
        together = re.sub(r"\.experts\.\d+\.", ".experts.", name)
        if together == name:
            stacked[name] = tensor
        else:
            stacked.setdefault(together, []).append(tensor)
    return {name: np.stack(x) if isinstance(x, list) else x for name, x in stacked.items()}


def _add_config(writer: gguf.GGUFWriter, hf: dict[str, Any]) -> None:
    hf = {**DEFAULTS.get(hf["model_type"], {}), **hf}
    for key, field in FIELDS.items():
        if hf.get(key) is not None:
            getattr(writer, f"add_{field}")(hf[key])
    if hf["model_type"] == "gpt2":
        writer.add_feed_forward_length(4 * hf["n_embd"])
        writer.add_layer_norm_eps(hf.get("layer_norm_epsilon", 1e-5))
    if hf["model_type"].startswith("gemma"):
        writer.add_value_length(hf["head_dim"])
        writer.add_sliding_window(hf["sliding_window"])
    rope = hf.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def write(path: Path, hf: dict[str, Any], tensors: dict[str, np.ndarray], *, quantized: bool = False, **fields) -> Path:
    """Fields: further ones of the architecture, `__` for a dot."""
    family: str = hf["model_type"]
    own = ARCHITECTURES.get(family, family)
    writer = gguf.GGUFWriter(path, fields.pop("architecture", own))
    writer.add_token_list(["<s>", "a", "é"])  # lists and texts lie between the numbers
    writer.add_token_types([1, 1, 3])
    writer.add_chat_template("{{ messages }}")
    _add_config(writer, hf)
    for name, value in fields.items():
        key = f"{writer.arch}.{name.replace('__', '.')}"
        kinds = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool, list: writer.add_array}
        kinds.get(type(value), writer.add_uint32)(key, value)
    layers = hf.get("num_hidden_layers", hf.get("n_layer", 0))
    for name, tensor in stack_experts(tensors).items():
        found, tensor = gguf_name(own, name, layers), stored(hf, name, tensor)
        if quantized and tensor.ndim >= 2 and tensor.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(found, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(found, np.ascontiguousarray(tensor))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def write_case(path: Path, case: str, **options) -> Path:
    return write(path, tiny.hf_config(case), tiny.hf_tensors(tiny.hf_config(case)), **options)
