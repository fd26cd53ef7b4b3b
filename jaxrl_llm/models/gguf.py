"""Reads a GGUF file (llama.cpp's format): the architecture from its fields, the tensors dequantized to float32.

The tensors get their Hugging Face names and layout, so everything after this file is the same as for safetensors.
Reading needs the package `gguf` (extra `gguf`).

Reference: ggml-org/ggml docs/gguf.md; the rotary layout of q and k as in llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_llm.models.config import ModelConfig, from_hf
from jaxrl_llm.models.tensor_files import TensorSource

ARCHITECTURES = ("llama", "qwen2", "qwen3")
# GGUF field after "<architecture>." -> key of a config.json
_FIELDS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
# Fields of variants that the decoder does not have -> the values that switch them off.
_SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "attention.sliding_window": (0,),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (1.0,),
}
_ROPE_FACTORS = "rope_freqs.weight"
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def open_reader(path: Path) -> Any:
    """A ``gguf.GGUFReader`` (tensors stay on disk until they are read).

    Raises:
      ImportError: the package is not installed.
      ValueError: the file is damaged or no GGUF.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f"{path}: reading GGUF needs the package gguf: pip install 'jaxrl-llm[gguf]'") from error
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path}: damaged or cut short ({size} bytes), not GGUF: {error}") from error


def read_config(reader: Any, path: Path) -> ModelConfig:
    """The architecture. Tied when the file has no output matrix of its own; the vocabulary is the embedding's.

    Raises:
      ValueError: an architecture or variant that the decoder does not have, or a field that is missing.
    """
    architecture = _field(reader, "general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path}: general.architecture = {architecture!r} is unknown; supported: {', '.join(ARCHITECTURES)}"
        )
    for name, off in _SWITCHED_OFF.items():
        value = _field(reader, f"{architecture}.{name}")
        if value is not None and value not in off:
            raise ValueError(f"{path}: {architecture}.{name} = {value!r} is not supported; expected {off[0]!r}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if _ROPE_FACTORS in tensors:
        raise ValueError(
            f"{path}: {_ROPE_FACTORS}: scaled rotary frequencies (Llama 3.1 and later) are stored without their "
            "parameters in GGUF; load the model's safetensors instead"
        )
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: missing tensor token_embd.weight")
    hf = {key: _field(reader, f"{architecture}.{name}") for name, key in _FIELDS.items()}
    hf["model_type"] = architecture
    hf["vocab_size"] = int(tensors["token_embd.weight"].shape[-1])
    hf["tie_word_embeddings"] = "output.weight" not in tensors
    config = from_hf(hf, str(path))
    rotated = _field(reader, f"{architecture}.rope.dimension_count")
    if rotated not in (None, config.head_size):
        raise ValueError(
            f"{path}: {architecture}.rope.dimension_count = {rotated}; expected {config.head_size}, all of a head"
        )
    return config


def open_tensors(reader: Any, path: Path, config: ModelConfig) -> TensorSource:
    """The tensors by Hugging Face name, in the Hugging Face layout, float32 once read.

    Raises:
      ValueError: two tensors get one name.
    """
    by_name: dict[str, Any] = {}
    for tensor in reader.tensors:
        name = _hf_name(tensor.name)
        if name in by_name:
            raise ValueError(f"{path}: duplicate tensor {tensor.name}")
        by_name[name] = tensor
    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in by_name.items()}
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads} if config.family == "llama" else {}

    def read(name: str) -> np.ndarray:
        array = _dequantize(by_name[name], path).reshape(shapes[name])
        projection = name.split(".")[-2] if name.count(".") else ""
        return _undo_rope_layout(array, heads[projection]) if projection in heads else array

    return TensorSource(str(path), shapes, read)


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    value = None if field is None else field.contents()
    # Files hold float32 numbers; its shortest decimal is the number that the model's authors wrote (1e-05).
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _hf_name(name: str) -> str:
    """The Hugging Face name; a name that is not known stays itself, for the strict check to report."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{kind}" if part in _LAYER_NAMES else name
    part, _, kind = name.rpartition(".")
    return f"{_NAMES[part]}.{kind}" if part in _NAMES else name


def _dequantize(tensor: Any, path: Path) -> np.ndarray:
    from gguf.quants import dequantize

    try:
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    except NotImplementedError as error:
        raise ValueError(
            f"{path}: tensor {tensor.name} is quantized as {tensor.tensor_type.name}, which gguf cannot read"
        ) from error


def _undo_rope_layout(array: np.ndarray, heads: int) -> np.ndarray:
    """ggml rotates neighbours (2i, 2i + 1), Hugging Face rotates halves (i, i + H/2): its rows are put back.

    Args:
      array: [heads · H, in].
    """
    return array.reshape(heads, -1, 2, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
