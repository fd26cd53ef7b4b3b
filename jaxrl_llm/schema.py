"""Dataclasses as the schema of a config: which keys there are, what a value must be, and errors that say so."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def fields(section: type) -> dict[str, Any]:
    """Name -> type of every field of a settings dataclass."""
    hints = typing.get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def key_types(section: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, type) of every key of a settings dataclass and of those inside it."""
    for name, kind in fields(section).items():
        if dataclasses.is_dataclass(kind):
            yield from key_types(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def unknown(path: str, keys: Iterable[str]) -> ValueError:
    """The error for a path that is none of ``keys``, with the nearest of them."""
    keys = list(keys)
    inside = [key for key in keys if key.startswith(path + ".")]
    if inside:
        return ValueError(f"{path} is a section, not a key; its keys: {', '.join(inside)}")
    leaf = path.rpartition(".")[2]
    near = [key for key in keys if key.rpartition(".")[2] == leaf]
    if "." in path:  # the section says which of them is meant
        near = difflib.get_close_matches(path, near, n=1, cutoff=0)
    if not near:
        sections = {key.rpartition(".")[0] for key in keys} - {""}
        near = difflib.get_close_matches(path, [*keys, *sections], n=1, cutoff=0.75)
    if not near:
        leaves = difflib.get_close_matches(leaf, {key.rpartition(".")[2] for key in keys}, n=1, cutoff=0.6)
        near = [key for key in keys if key.rpartition(".")[2] in leaves]
    hint = f"; nearest: {' or '.join(near)}" if near else "; configs/base.py holds them all"
    return ValueError(f"unknown config key {path}{hint}")


def _split_optional(kind: Any) -> tuple[Any, bool]:
    """(T, True) of ``T | None``, else (kind, False)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (inner,) = [arm for arm in typing.get_args(kind) if arm is not types.NoneType]
        return inner, True
    return kind, False


def _expected(kind: Any) -> str:
    inner, optional = _split_optional(kind)
    if typing.get_origin(inner) is Literal:
        text = "one of " + ", ".join(map(str, typing.get_args(inner)))
    elif typing.get_origin(inner) is tuple:
        text = "a tuple of texts, such as ('\\n', 'Question:')"
    elif inner is Any:
        text = "a Python value, such as ('clip_higher',)"
    else:
        names = {int: "an integer", float: "a finite number", bool: "true or false", str: "a text"}
        text = names.get(inner, "a section with keys")
    return text + (", or None" if optional else "")


def _wrong(path: str, value: Any, kind: Any) -> ValueError:
    near = ""
    inner, _ = _split_optional(kind)
    if typing.get_origin(inner) is Literal and isinstance(value, str):
        close = difflib.get_close_matches(value, [str(choice) for choice in typing.get_args(inner)], n=1)
        near = f"; nearest: {close[0]}" if close else ""
    return ValueError(f"{path} = {value!r}: expected {_expected(kind)}{near}")


def convert(path: str, value: Any, kind: Any) -> Any:
    """``value`` as ``kind``: an integer counts as a float and a list as a tuple; nothing else is converted.

    A key of kind Any is judged by whoever reads it.
    """
    inner, optional = _split_optional(kind)
    if inner is Any or (value is None and optional):
        return value
    origin = typing.get_origin(inner)
    if origin is Literal and isinstance(value, str) and value in typing.get_args(inner):
        return value
    if origin is tuple and isinstance(value, tuple | list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if inner is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if inner in (int, bool, str) and type(value) is inner:
        return value
    raise _wrong(path, value, kind)


def from_text(path: str, text: str, kind: Any) -> Any:
    """The value that ``text``, of the command line, means for a key of type ``kind``."""
    inner, optional = _split_optional(kind)
    if text == "None":  # never the text "None": whoever types it means an empty value
        if optional:
            return None
        raise _wrong(path, None, kind)
    try:
        if inner is bool:
            return {"true": True, "false": False}[text.lower()]
        if inner in (int, float):
            return convert(path, inner(text), kind)
        if inner is Any or typing.get_origin(inner) is tuple:
            return convert(path, ast.literal_eval(text), kind)
    except (KeyError, ValueError, SyntaxError):
        raise _wrong(path, text, kind) from None
    return convert(path, text, kind)


def build(section: type[T], values: Any, *, prefix: str = "", keys: Iterable[str]) -> T:
    """An instance of a settings dataclass from nested mappings.

    Args:
      prefix: dotted path of the section, with a dot at its end.
      keys: every dotted path of the whole, for the error about an unknown one.

    Raises:
      ValueError: a key that is no field, a missing one that has no default, or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix[:-1]} = {values!r}: expected a section with keys")
    kinds = fields(section)
    for name in values:
        if name not in kinds:
            raise unknown(f"{prefix}{name}", keys)
    arguments = {}
    for field in dataclasses.fields(typing.cast(Any, section)):
        path, kind = prefix + field.name, kinds[field.name]
        inner, optional = _split_optional(kind)
        if field.name not in values:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"config key {path} is missing: expected {_expected(kind)}")
        elif dataclasses.is_dataclass(inner) and not (optional and values[field.name] is None):
            arguments[field.name] = build(typing.cast(type, inner), values[field.name], prefix=f"{path}.", keys=keys)
        else:
            arguments[field.name] = convert(path, values[field.name], kind)
    return section(**arguments)
