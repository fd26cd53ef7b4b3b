"""Reads a GGUF file (llama.cpp's format): the architecture from its fields, the tensors dequantized to float32.

The tensors get their Hugging Face names and layout, so everything after this file is the same as for safetensors.
Dequantizing needs the package `gguf` (extra `gguf`).

Reference: ggml-org/ggml docs/gguf.md; what is stored otherwise as in llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_llm.models import gguf_file
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.models.gguf_config import load_config
from jaxrl_llm.models.gguf_families import ARCHITECTURES, ROPE_FACTORS, tensor_name
from jaxrl_llm.models.gguf_file import GgufFile, GgufTensor
from jaxrl_llm.models.tensor_files import TensorSource, mapped
from jaxrl_llm.models.weights import Slices, Weight, weight_table

__all__ = ["load_config", "open_tensors"]


@dataclasses.dataclass(frozen=True)
class _Stored:
    """How the file holds a tensor of the weight table.

    Attributes:
      tensor: of one expert, where the file has all in one.
      transposed: it is [out, in], and Hugging Face's is [in, out] (GPT-2).
      neighbours: heads whose rows are in the order in which ggml rotates them; 0: they are not.
      plus: added to what Hugging Face has (norms of Gemma).
    """

    tensor: GgufTensor
    transposed: bool = False
    neighbours: int = 0
    plus: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[::-1] if self.transposed else self.tensor.shape


def open_tensors(path: Path, config: ModelConfig) -> TensorSource:
    """The tensors by Hugging Face name, in the Hugging Face layout, float32 once read.

    Raises:
      ImportError: the package gguf is not installed.
      ValueError: a damaged file, two tensors of one name, or another number of experts than the file's own field says.
    """
    file = gguf_file.read(path)
    by_name = _by_hf_name(file, config)

    @functools.lru_cache(maxsize=1)  # shards that split the columns ask for the same rows one after the other
    def rows_of(name: str, start: int, stop: int) -> np.ndarray:
        stored = by_name[name]
        if stored.transposed:
            return _dequantize(file, stored.tensor, 0, stored.tensor.shape[0])[:, start:stop].T
        if stored.neighbours:
            head = stored.shape[0] // stored.neighbours  # rows are reordered within it
            first, last = start // head, -(-stop // head)
            array = _dequantize(file, stored.tensor, first * head, last * head)
            return _undo_rope_layout(array, last - first)[start - first * head : stop - first * head]
        array = _dequantize(file, stored.tensor, start, stop)
        return array - np.float32(stored.plus) if stored.plus else array  # of zero it would be a copy for nothing

    def read(name: str, index: Slices) -> np.ndarray:
        rows, *columns = index
        start, stop, _ = rows.indices(by_name[name].shape[0])
        return rows_of(name, start, stop)[(slice(None), *columns)]

    return TensorSource(str(path), {name: stored.shape for name, stored in by_name.items()}, read)


def _by_hf_name(file: GgufFile, config: ModelConfig) -> dict[str, _Stored]:
    """Every tensor of the file; one that is not known keeps its name, for the strict check to report."""
    unknown: dict[str, GgufTensor] = {}
    for tensor in file.tensors:
        if tensor.name in unknown:
            raise ValueError(f"{file.path}: duplicate tensor {tensor.name}")
        _require_inside(file, tensor)
        unknown[tensor.name] = tensor
    unknown.pop(ROPE_FACTORS, None)  # the config has what it was made from
    in_file, found = dict(unknown), {}
    for weight in weight_table(config):
        name = tensor_name(weight.path, of_experts=len(weight.stack) == 2)
        for number, hf_name in enumerate(weight.hf_names):
            layer, expert, *_ = *np.unravel_index(number, weight.stack), 0, 0
            in_layer = name.format(layer=layer)
            if in_layer in in_file:
                unknown.pop(in_layer, None)
                found[hf_name] = _stored(file, config, weight, in_file[in_layer], int(expert))
    if both := found.keys() & unknown.keys():
        raise ValueError(f"{file.path}: unknown tensor {min(both)}")
    return found | {name: _Stored(tensor) for name, tensor in unknown.items()}


def _stored(file: GgufFile, config: ModelConfig, weight: Weight, tensor: GgufTensor, expert: int) -> _Stored:
    if len(weight.stack) == 2:
        if len(tensor.shape) != 3 or tensor.shape[0] != config.experts:
            shape = list(tensor.shape)
            raise ValueError(f"{file.path}: tensor {tensor.name} has shape {shape}; expected {config.experts} experts")
        one = tensor.shape[1] * _row_bytes(file, tensor)
        tensor = dataclasses.replace(tensor, shape=tensor.shape[1:], offset=tensor.offset + expert * one)
    heads = {"query": config.heads, "key": config.kv_heads}.get(weight.path[-2], 0)
    rotated = any(one.neighbours for one in ARCHITECTURES.values() if one.family == config.family)
    return _Stored(
        tensor,
        transposed=weight.layout in ("rows", "joined rows"),
        neighbours=heads if rotated else 0,
        plus=int(config.norm_offset and weight.of_norm),
    )


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
      array: [heads · H, in], or of a bias [heads · H].
    """
    return array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
