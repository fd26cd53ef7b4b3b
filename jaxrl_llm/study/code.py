"""What names the code of a trick, so that records of an earlier version of it are not taken for this one's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

_CONSTANTS = (bool, int, float, str, tuple, type(None))


def text_of(function: Callable[..., Any]) -> str:
    """The source of a function, of what it calls in its own file, and the constants that it reads.

    Changes in other files are not seen.
    """
    return "\n".join(_parts(function, set()))


def _parts(function: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(function, functools.partial):
        yield repr((function.args, sorted(function.keywords.items())))
        function = function.func
    function = inspect.unwrap(function)  # of jax.jit
    if not inspect.isfunction(function):  # an object that can be called: its class says how
        function = type(function).__call__
    if id(function) in seen or not inspect.isfunction(function):
        return
    seen.add(id(function))
    try:
        yield inspect.getsource(function)
    except OSError:  # typed at a prompt: there is no file
        yield f"{function.__code__.co_code.hex()} {function.__code__.co_consts!r}"
    read = inspect.getclosurevars(function)
    for name, value in sorted({**read.globals, **read.nonlocals}.items()):
        if isinstance(value, _CONSTANTS):
            yield f"{name} = {value!r}"
        elif getattr(value, "__code__", None) and value.__code__.co_filename == function.__code__.co_filename:
            yield from _parts(value, seen)
