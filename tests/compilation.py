"""How tests compile: cheaply, since they compile much and run each program a few times; the formulas are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

# Of the whole suite (tests/conftest.py), and of the processes that it starts; three quarters of the time.
CHEAP_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
_OF_USERS = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}


def optimized_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit`` as users have it."""
    return jax.jit(function, compiler_options=_OF_USERS, **options)
