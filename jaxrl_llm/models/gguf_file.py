"""The header of a GGUF file: its scalar fields, and where its tensors lie.

The reader of the package `gguf` builds an object for every word of the vocabulary, which takes most of the time of
loading a small model; this one skips the lists. Reference: ggml-org/ggml, docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import numpy as np

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_AXES = 4  # ggml's


@dataclasses.dataclass(frozen=True)
class GgufTensor:
    """Attributes:
    shape: as torch has it (the file lists it reversed).
    kind: number of the quantization type.
    offset: of the first byte, from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """Attributes:
    fields: numbers, booleans and texts by their name.
    lists: names of the fields that are lists, whose values are not kept.
    tensors: in the order of the file.
    size: bytes of the file.
    """

    path: Path
    fields: dict[str, Any]
    lists: tuple[str, ...]
    tensors: tuple[GgufTensor, ...]
    size: int


def read(path: Path) -> GgufFile:
    """Reads the header.

    Raises:
      ValueError: no GGUF, another version, big-endian, or cut short.
    """
    size = path.stat().st_size
    data = np.memmap(path, np.uint8, mode="r") if size else np.zeros(0, np.uint8)
    try:
        cursor = _Cursor(memoryview(data))  # type: ignore[arg-type]
        if cursor.take(4) != b"GGUF":
            raise ValueError("it does not start with GGUF")
        version = cursor.scalar("I")
        if version not in _VERSIONS:
            raise ValueError(f"version {version} is not among {_VERSIONS} (little-endian)")
        tensor_count, field_count = cursor.scalar("Q"), cursor.scalar("Q")
        fields, lists = {}, []
        for _ in range(field_count):
            name, value = cursor.text(), cursor.value(cursor.scalar("I"))
            if value is None:
                lists.append(name)
            else:
                fields[name] = value
        listed = [_tensor(cursor) for _ in range(tensor_count)]
    except (ValueError, OverflowError, struct.error) as error:
        raise ValueError(f"{path}: damaged or cut short ({size} bytes), not GGUF: {error}") from error
    alignment = fields.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"{path}: general.alignment = {alignment!r}; expected a whole number of bytes")
    start = -(-cursor.at // alignment) * alignment
    tensors = tuple(dataclasses.replace(tensor, offset=start + tensor.offset) for tensor in listed)
    return GgufFile(path, fields, tuple(lists), tensors, size)


def _tensor(cursor: _Cursor) -> GgufTensor:
    name, axes = cursor.text(), cursor.scalar("I")
    if not 1 <= axes <= _MAX_AXES:
        raise ValueError(f"tensor {name!r} has {axes} axes")
    shape = tuple(cursor.scalar("Q") for _ in range(axes))
    return GgufTensor(name, shape[::-1], cursor.scalar("I"), cursor.scalar("Q"))


@dataclasses.dataclass
class _Cursor:
    """Reads one thing after another; struct.error or ValueError at the end of the file."""

    data: memoryview
    at: int = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)}, and {count} more are announced at byte {self.at}")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def scalar(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        return self.take(self.scalar("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        """The value, or None for a list, which is skipped."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"field of unknown type {kind} at byte {self.at}")
        item, count = self.scalar("I"), self.scalar("Q")
        if item in _SCALARS:
            self.at += count * struct.calcsize("<" + _SCALARS[item])
        else:
            for _ in range(count):
                self._skip(item)
        return None

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            length = self.scalar("Q")  # on a line of its own: it moves the position that is added to
            self.at += length
        else:
            self.value(kind)
