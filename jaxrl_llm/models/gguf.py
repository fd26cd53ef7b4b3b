"""Reads a GGUF file (llama.cpp's format): the architecture from its fields, the tensors dequantized to float32.

The tensors get their Hugging Face names and layout, so everything after this file is the same as for safetensors.
Dequantizing needs the package `gguf` (extra `gguf`).

Reference: ggml-org/ggml docs/gguf.md; the rotary layout of q and k as in llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_llm.models import gguf_file
from jaxrl_llm.models.config import ModelConfig, from_hf
from jaxrl_llm.models.gguf_file import GgufFile, GgufTensor
from jaxrl_llm.models.tensor_files import TensorSource, mapped
from jaxrl_llm.models.weights import Slices

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


def load_config(path: Path) -> ModelConfig:
    """The architecture. Tied when the file has no output matrix of its own; the vocabulary is the embedding's.

    Raises:
      ValueError: a damaged file, an architecture or variant that the decoder does not have, or a missing field.
    """
    file = gguf_file.read(path)
    architecture = _field(file, "general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path}: general.architecture = {architecture!r} is unknown; supported: {', '.join(ARCHITECTURES)}"
        )
    for name, off in _SWITCHED_OFF.items():
        value = _field(file, f"{architecture}.{name}")
        if value is not None and value not in off:
            raise ValueError(f"{path}: {architecture}.{name} = {value!r} is not supported; expected {off[0]!r}")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    if _ROPE_FACTORS in tensors:
        raise ValueError(
            f"{path}: {_ROPE_FACTORS}: scaled rotary frequencies (Llama 3.1 and later) are stored without their "
            "parameters in GGUF; load the model's safetensors instead"
        )
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: missing tensor token_embd.weight")
    hf = {key: _field(file, f"{architecture}.{name}") for name, key in _FIELDS.items()}
    hf["model_type"] = architecture
    hf["vocab_size"] = tensors["token_embd.weight"].shape[0]
    hf["tie_word_embeddings"] = "output.weight" not in tensors
    config = from_hf(hf, str(path))
    rotated = _field(file, f"{architecture}.rope.dimension_count")
    if rotated not in (None, config.head_size):
        raise ValueError(
            f"{path}: {architecture}.rope.dimension_count = {rotated}; expected {config.head_size}, all of a head"
        )
    return config


def open_tensors(path: Path, config: ModelConfig) -> TensorSource:
    """The tensors by Hugging Face name, in the Hugging Face layout, float32 once read.

    Raises:
      ImportError: the package gguf is not installed.
      ValueError: a damaged file, or two tensors of one name.
    """
    file = gguf_file.read(path)
    by_name: dict[str, GgufTensor] = {}
    for tensor in file.tensors:
        name = _hf_name(tensor.name)
        if name in by_name:
            raise ValueError(f"{path}: duplicate tensor {tensor.name}")
        _require_inside(file, tensor)
        by_name[name] = tensor
    shapes = {name: tensor.shape for name, tensor in by_name.items()}
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads} if config.family == "llama" else {}

    @functools.lru_cache(maxsize=1)  # shards that split the columns ask for the same rows one after the other
    def rows_of(name: str, start: int, stop: int) -> np.ndarray:
        tensor, projection = by_name[name], name.split(".")[-2] if name.count(".") else ""
        if len(tensor.shape) < 2 or projection not in heads:
            return _dequantize(file, tensor, start, stop)
        head = tensor.shape[0] // heads[projection]  # rows are reordered within it
        first, last = start // head, -(-stop // head)
        array = _undo_rope_layout(_dequantize(file, tensor, first * head, last * head), last - first)
        return array[start - first * head : stop - first * head]

    def read(name: str, index: Slices) -> np.ndarray:
        rows, *columns = index
        start, stop, _ = rows.indices(by_name[name].shape[0])
        return rows_of(name, start, stop)[(slice(None), *columns)]

    return TensorSource(str(path), shapes, read)


def _field(file: GgufFile, name: str) -> Any:
    value = file.fields.get(name)
    # Files hold float32 numbers; the shortest decimal is the number that the model's authors wrote (1e-05).
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _hf_name(name: str) -> str:
    """The Hugging Face name; a name that is not known stays itself, for the strict check to report."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{kind}" if part in _LAYER_NAMES else name
    part, _, kind = name.rpartition(".")
    return f"{_NAMES[part]}.{kind}" if part in _NAMES else name


def _package(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f"{path}: reading GGUF needs the package gguf: pip install 'jaxrl-llm[gguf]'") from error
    return gguf


def _row_bytes(file: GgufFile, tensor: GgufTensor) -> int:
    gguf = _package(file.path)
    try:
        block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.kind)]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{file.path}: tensor {tensor.name} has the unknown type {tensor.kind}") from error
    return tensor.shape[-1] // block * block_bytes


def _require_inside(file: GgufFile, tensor: GgufTensor) -> None:
    end = tensor.offset + math.prod(tensor.shape[:-1]) * _row_bytes(file, tensor)
    if end > file.size:
        raise ValueError(
            f"{file.path}: cut short: tensor {tensor.name} ends at byte {end}, the file at byte {file.size}"
        )


def _dequantize(file: GgufFile, tensor: GgufTensor, start: int, stop: int) -> np.ndarray:
    """Entries ``start`` to ``stop`` of the first axis; a vector is dequantized whole, and then cut."""
    gguf = _package(file.path)
    matrix = len(tensor.shape) > 1
    row_bytes, rows = _row_bytes(file, tensor), math.prod(tensor.shape[1:-1]) if matrix else 1
    first, last = (start * rows, stop * rows) if matrix else (0, 1)
    packed = mapped(file.path, np.dtype(np.uint8), tensor.offset + first * row_bytes, (last - first, row_bytes))
    kind = gguf.GGMLQuantizationType(tensor.kind)
    try:
        array = np.asarray(gguf.dequantize(packed, kind), np.float32)
    except NotImplementedError as error:
        raise ValueError(f"{file.path}: tensor {tensor.name}: gguf cannot read the type {kind.name}") from error
    return array.reshape(stop - start, *tensor.shape[1:]) if matrix else array.ravel()[start:stop]


def _undo_rope_layout(array: np.ndarray, heads: int) -> np.ndarray:
    """ggml rotates neighbours (2i, 2i + 1), Hugging Face rotates halves (i, i + H/2): its rows are put back.

    Args:
      array: [heads · H, in].
    """
    return array.reshape(heads, -1, 2, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
