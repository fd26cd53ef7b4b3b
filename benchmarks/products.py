"""The ceiling of an update: the matrix products of w1's layers and head, one by one, beside a square one.

Command: python benchmarks/products.py        (half a minute on two cores; run it on an otherwise idle machine)

Each product has the tokens of a pass of two groups and three forms: forward, x W, towards its input, dy Wᵀ, and towards
its weights, xᵀ dy. Then the rate of all together, weighed by their work: what an update would reach that did nothing
beside them. The last lines are products of attention, one a lane and key/value head: queries of a group, 256 rows as
attention cuts them and 512, by the keys of a lane. "Busy" is CPU time over time.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from timing import fastest, roofline
from workloads import SMALL

TOKENS = 4224


def shapes() -> dict[str, tuple[int, int, int]]:
    """Inputs, outputs, and how many such products a pass has."""
    heads, kv_heads = SMALL.heads * SMALL.head_size, SMALL.kv_heads * SMALL.head_size
    return {
        "query": (SMALL.width, heads, SMALL.layers),
        "key, value": (SMALL.width, kv_heads, 2 * SMALL.layers),
        "output": (heads, SMALL.width, SMALL.layers),
        "gate, up": (SMALL.width, SMALL.mlp_width, 2 * SMALL.layers),
        "down": (SMALL.mlp_width, SMALL.width, SMALL.layers),
        "head": (SMALL.width, SMALL.vocabulary, 1),
    }


def main() -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    forward = jax.jit(lambda x, w, dy: x @ w)
    to_input = jax.jit(lambda x, w, dy: dy @ w.T)
    to_weights = jax.jit(lambda x, w, dy: x.T @ dy)
    before = roofline()
    work = seconds = 0.0
    for name, (inputs, outputs, count) in shapes().items():
        arrays = jnp.ones((TOKENS, inputs)), jnp.ones((inputs, outputs)), jnp.ones((TOKENS, outputs))
        flop, rates = 2 * TOKENS * inputs * outputs, []
        for form in (forward, to_input, to_weights):
            spent = fastest(form, *arrays)
            rates.append(f"{flop / spent / 1e9:.0f}")
            work, seconds = work + count * flop, seconds + count * spent
        print(f"{name:<12} {inputs:>5} x {outputs:<5} {' '.join(rates)} GFLOP/s: forward, to input, to weights")
    rate = (before + roofline()) / 2
    print(f"all together {work / seconds / 1e9:.0f} GFLOP/s, {100 * work / seconds / rate:.0f} % of {rate / 1e9:.0f}")
    scores = jax.jit(lambda query, key: jnp.einsum("bqh,bsh->bqs", query, key))
    for rows in (256, 512):
        count = 16384 // rows
        query, key = (jnp.ones((count, columns, SMALL.head_size)) for columns in (rows, 256))
        spent, busy = fastest(scores, query, key), _busy(functools.partial(scores, query, key))
        rate = 2 * count * rows * 256 * SMALL.head_size / spent / 1e9
        print(f"{count} scores of {rows} queries by 256 keys: {rate:.0f} GFLOP/s, busy {busy:.1f} of 2 cores")


def _busy(run: Callable[[], Any]) -> float:
    """CPU seconds a second of ``run``, over 30 runs."""
    cpu, begun = time.process_time(), time.perf_counter()
    for _ in range(30):
        run().block_until_ready()
    return (time.process_time() - cpu) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
