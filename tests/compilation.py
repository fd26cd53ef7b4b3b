"""``jax.jit`` for tests that compile much and run each program once: half the time, the same formulas."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

_CHEAP = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
# the same for XLA_FLAGS of another process
CHEAP_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


@functools.cache
def _options() -> dict[str, Any] | None:
    try:
        jax.jit(lambda x: x, compiler_options=_CHEAP)(0)
    except Exception:  # a compiler that does not know the options: slower, and as good
        return None
    return _CHEAP


def quick_jit(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=_options(), **settings)


def compiled_quickly(program: Callable[..., Any]) -> Callable[..., Any]:
    """A function that was jitted already, compiled cheaply in place of that; it donates nothing."""
    return quick_jit(program.__wrapped__)  # type: ignore[attr-defined]
