"""The tensors of a checkpoint on disk, by name, and the strict comparison of their names and shapes with a decoder's.

Nothing here executes what a file says: only safetensors is read (GGUF in `gguf.py`), never a pickle.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.names import table_names
from jaxrl_llm.models.weights import Slices, weight_table

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES = {name: np.dtype(of) for name, of in (("F64", "f8"), ("F32", "f4"), ("F16", "f2"), ("BF16", jnp.bfloat16))}
_LENGTH_BYTES = 8  # of the header of a safetensors file, before it
_NAMED = 5  # tensors that an error names; the rest is counted


Shapes = Mapping[str, tuple[int, ...]]  # by the names of tensors


@dataclasses.dataclass(frozen=True)
class TensorSource:
    """Attributes:
    where: the file or folder, for messages.
    shapes: of every tensor, by its name in the weight table, in the Hugging Face layout; buffers are left out.
    read: (name, a slice for each axis) -> that part of the tensor, any float dtype. It may be a view of the file, whose
      pages stay in memory as long as it is held.
    """

    where: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str, Slices], np.ndarray]


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
      ValueError: not JSON, no object, or an object that says a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"duplicate key {min(twice)!r}")
        return dict(pairs)

    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except ValueError as error:  # also what broken JSON and broken UTF-8 raise
        raise ValueError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def open_folder(folder: Path) -> TensorSource:
    """The safetensors of a checkpoint folder: model.safetensors, or the shards that its index names.

    Raises:
      FileNotFoundError: neither is there, or a shard is not.
      ValueError: both are there; a file is damaged; the index leads outside the folder or disagrees with the shards.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists() and index.exists():
        raise ValueError(f"{folder}: holds both {SINGLE_FILE} and {INDEX_FILE}; remove the one that is not meant")
    if not single.exists() and not index.exists():
        raise FileNotFoundError(_nothing_found(folder))
    files = [single] if single.exists() else _shards(index)
    owner: dict[str, _Tensor] = {}
    for file in files:
        for name, tensor in _tensors(file).items():
            if name in owner:
                raise ValueError(f"{folder}: tensor {name} is in both {owner[name].file.name} and {file.name}")
            owner[name] = tensor
    if index.exists():
        _compare_with_index(index, {name: tensor.file for name, tensor in owner.items()})
    return _source(str(folder), {name: owner[found] for name, found in table_names(owner, str(folder)).items()})


def open_file(file: Path) -> TensorSource:
    """One safetensors file, its tensors by their own names.

    Raises:
      ValueError: the file is damaged.
    """
    return _source(str(file), _tensors(file))


def mapped(file: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a file as an array that reads them when it is read, and gives its memory back when it is dropped.

    Raises:
      ValueError: the file cannot be read, or has become shorter.
    """
    try:
        return np.asarray(np.memmap(file, dtype, mode="r", offset=offset, shape=shape))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: not readable at byte {offset}: {error}") from error


def check(source: TensorSource, config: ModelConfig) -> None:
    """Compares names and shapes, before a tensor is read.

    A tied checkpoint may carry lm_head.weight all the same; ``reading.read_params`` compares its numbers.

    Raises:
      ValueError: tensors are missing, unknown or misshapen; names them, with the shapes found and expected.
    """
    expected = {name: weight.hf_shape for weight in weight_table(config) for name in weight.hf_names}
    optional = {"lm_head.weight": (config.vocab_size, config.width)} if config.tied else {}
    if told := differences(source, expected, optional):
        raise ValueError(f"{source.where}: does not hold the {config.family} model of its config. {told}")


def differences(source: TensorSource, expected: Shapes, optional: Shapes | None = None) -> str:
    """What is missing, unknown or misshapen, in words, with the shapes found and expected; empty if nothing is.

    Args:
      expected: shapes by name.
      optional: of tensors that may be there.
    """
    allowed = {**(optional or {}), **expected}
    missing = [f"{name} {list(expected[name])}" for name in expected if name not in source.shapes]
    unknown = [f"{name} {list(shape)}" for name, shape in source.shapes.items() if name not in allowed]
    misshapen = [
        f"{name}: found {list(shape)}, expected {list(allowed[name])}"
        for name, shape in source.shapes.items()
        if name in allowed and tuple(shape) != allowed[name]
    ]
    problems = {"missing tensors": missing, "unknown tensors": unknown, "wrong shapes": misshapen}
    return ". ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def _nothing_found(folder: Path) -> str:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    told = f"{folder}: no weights: looked for {SINGLE_FILE} and {INDEX_FILE}"
    if pickles:
        return (
            f"{told}; found {', '.join(pickles)}, a pickle, which can run code and is never read. Convert it where you "
            'trust it: python -c "from transformers import AutoModelForCausalLM as A; '
            f"A.from_pretrained('{folder}').save_pretrained('NEW_FOLDER')\""
        )
    found = sorted(file.name for file in folder.iterdir())
    return f"{told}; found {', '.join(found) or 'nothing'}. Only safetensors folders and .gguf files are read"


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise ValueError(f"{index}: weight_map = {str(names)[:80]}; expected an object from tensor names to file names")
    for tensor, name in names.items():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index}: {tensor} is in {name!r}; expected a .safetensors file of the same folder")
    files = sorted({index.parent / name for name in names.values()})
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file, but {index.name} names it")
    return files


def _compare_with_index(index: Path, owner: dict[str, Path]) -> None:
    listed = read_json(index)["weight_map"]
    for name, file in listed.items():
        if name not in owner:
            raise ValueError(f"{index}: tensor {name} is missing from {file}")
        if owner[name].name != file:
            raise ValueError(f"{index}: tensor {name} should be in {file} but is in {owner[name].name}")
    for name, file in owner.items():
        if name not in listed:
            raise ValueError(f"{file}: tensor {name} is unknown to {index.name}")


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Attributes:
    dtype: as safetensors calls it.
    offset: of the first byte, from the start of the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


def _source(where: str, tensors: dict[str, _Tensor]) -> TensorSource:
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{tensor.file}: tensor {name} has dtype {tensor.dtype}; supported: {', '.join(_DTYPES)}")

    def read(name: str, index: Slices) -> np.ndarray:
        tensor = tensors[name]
        return mapped(tensor.file, _DTYPES[tensor.dtype], tensor.offset, tensor.shape)[index]

    return TensorSource(where, {name: tensor.shape for name, tensor in tensors.items()}, read)


def _tensors(file: Path) -> dict[str, _Tensor]:
    """What a safetensors file holds, by its header, which safetensors itself has compared with the file."""
    try:
        with safe_open(str(file), framework="numpy"):
            pass
    except SafetensorError as error:
        size = file.stat().st_size
        raise ValueError(f"{file}: damaged or cut short ({size} bytes), not safetensors: {error}") from error
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        header = json.loads(opened.read(length))
    return {
        name: _Tensor(file, of["dtype"], tuple(of["shape"]), _LENGTH_BYTES + length + of["data_offsets"][0])
        for name, of in header.items()
        if name != "__metadata__"
    }
