"""Writes a model as a Hugging Face folder that transformers, and `hub.load` here, read again."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from jaxrl_llm.models.config import ModelConfig, to_hf
from jaxrl_llm.models.tensor_files import INDEX_FILE, SINGLE_FILE
from jaxrl_llm.models.weights import Weight, leaf, to_hf_layout, weight_table
from jaxrl_llm.types import Params

MAX_SHARD_BYTES = 5 * 10**9  # as transformers' own
_DTYPES = {"float32": "F32", "bfloat16": "BF16"}  # as safetensors calls them
_BAND_BYTES = 1 << 24  # of a tensor that are converted at a time
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.json",
                    "merges.txt")  # fmt: skip


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that make its tokenizer and chat template.

    Raises:
      FileNotFoundError: no tokenizer.json among them.
    """
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder}: no tokenizer: looked for tokenizer.json")
    return sorted({file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()})


def save(
    config: ModelConfig,
    params: Params,
    folder: Path,
    *,
    dtype: str,
    tokenizer_files: Sequence[Path] | None = None,
    generation_config: dict[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes config.json, generation_config.json, model.safetensors (or shards and an index) and the tokenizer's files.

    Every file is written under another name and then renamed, and config.json comes last: a folder that was left
    half written has none and is refused by every loader. Weights of an earlier save in the same folder are removed.

    Args:
      params: the tree of ``weights.weight_table``; one tensor of a file at a time is brought to the host. They may be
        those of a run that goes on, until its next update donates them. This process must reach all of their shards.
      dtype: of the tensors on disk, float32 or bfloat16.
      tokenizer_files: copied under their own names.
      generation_config: for generation_config.json; its token ids also go into config.json.
      max_shard_bytes: above it the weights are split into files of at most that size (or of one tensor).

    Raises:
      ValueError: an unknown dtype, or params that are not the tree of ``config``.
    """
    of_file = tensor_dtype(dtype)
    _require_shapes(config, params)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (folder / "config.json", folder / INDEX_FILE, *folder.glob("model*.safetensors")):
        stale.unlink(missing_ok=True)
    _write_weights(config, params, folder, of_file, max_shard_bytes)
    copy_files(tokenizer_files or (), folder)
    generation = generation_config or {}
    write_json(folder / "generation_config.json", generation)
    token_ids = {key: generation[key] for key in _TOKEN_IDS if key in generation}
    write_json(folder / "config.json", to_hf(config, dtype) | token_ids)


def tensor_dtype(name: str) -> np.dtype:
    """Of tensors on disk.

    Raises:
      ValueError: neither float32 nor bfloat16.
    """
    if name not in _DTYPES:
        raise ValueError(f"dtype = {name!r}: expected one of {', '.join(_DTYPES)}")
    return np.dtype(jnp.dtype(name))


def copy_files(files: Sequence[Path], folder: Path) -> None:
    """Under their own names, whole or not at all."""
    for file in files:
        replace_file(folder / file.name, lambda temporary, file=file: shutil.copyfile(file, temporary))


def _require_shapes(config: ModelConfig, params: Params) -> None:
    for weight in weight_table(config):
        try:
            shape = tuple(leaf(params, weight).shape)
        except (KeyError, TypeError):
            shape = None
        if shape != weight.shape:
            raise ValueError(f"parameter {'/'.join(weight.path)}: found {shape}, expected {weight.shape}")


def _write_weights(config: ModelConfig, params: Params, folder: Path, dtype: np.dtype, limit: int) -> None:
    shards = _split(weight_table(config), dtype.itemsize, limit)
    names = [SINGLE_FILE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    index: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        replace_file(folder / name, lambda temporary, shard=shard: _write_shard(temporary, shard, params, dtype))
        index |= dict.fromkeys((hf_name for _, _, hf_name in shard), name)
    if len(shards) > 1:
        total = sum(math.prod(weight.shape) for weight in weight_table(config)) * dtype.itemsize
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))})


def _split(table: tuple[Weight, ...], item_bytes: int, limit: int) -> list[list[tuple[Weight, int, str]]]:
    """(weight, layer, name) of every tensor, in groups whose bytes stay below the limit."""
    shards: list[list[tuple[Weight, int, str]]] = [[]]
    used = 0
    for weight in table:
        size = math.prod(weight.layer_shape) * item_bytes
        for layer, name in enumerate(weight.hf_names):
            if shards[-1] and used + size > limit:
                shards.append([])
                used = 0
            shards[-1].append((weight, layer, name))
            used += size
    return shards


def _write_shard(file: Path, shard: list[tuple[Weight, int, str]], params: Params, dtype: np.dtype) -> None:
    """One safetensors file, its tensors by name: the length of the header, the header, then one tensor at a time."""
    shard, end = sorted(shard, key=lambda tensor: tensor[2]), 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for weight, _, name in shard:
        begin, end = end, end + math.prod(weight.layer_shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype.name], "shape": weight.hf_shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for weight, layer, _ in shard:
            _write_tensor(opened, to_hf_layout(weight, np.asarray(weight.tensor(leaf(params, weight), layer))), dtype)


def _write_tensor(file: BinaryIO, tensor: np.ndarray, dtype: np.dtype) -> None:
    """The numbers row by row, whatever their order in memory."""
    rows = max(1, _BAND_BYTES * len(tensor) // (tensor.size * dtype.itemsize))
    for start in range(0, len(tensor), rows):
        band = np.ascontiguousarray(tensor[start : start + rows].astype(dtype))
        file.write(band.view(np.uint8).data)


def _shard_name(i: int, count: int) -> str:
    return f"model-{i + 1:05d}-of-{count:05d}.safetensors"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """The same value is the same text."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets ``write`` make a file under another name in the same folder, and then gives it its own."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
