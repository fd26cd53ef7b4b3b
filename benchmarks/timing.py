"""How the benchmarks measure: the fastest of several calls, on an otherwise idle machine.

Command: python benchmarks/timing.py       (the matrix rate alone, FLOP a second)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

REPEATS = 6


def fastest(function: Callable[..., object], *arguments: object, repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several calls, after one that compiles."""
    import jax

    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - begun)
    return min(times)


def roofline() -> float:
    """FLOP a second of a large float32 matrix product, the ceiling on this machine."""
    import jax
    import jax.numpy as jnp

    size = 2048
    x = jnp.ones((size, size))
    return 2 * size**3 / fastest(jax.jit(lambda x: x @ x), x)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    print(roofline())
