"""One random key a completion and token, whatever the layout of the batch.

The key of a token is a fold of (seed, step, prompt id, sample index, token index), so the text of a completion depends
neither on the rows beside it, nor on their order, nor on the number of devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.types import Array

# Streams of one seed that must never meet.
ROLLOUT, EVALUATION, ORDER, GREEDY, ADAPTER = range(5)


def step_key(seed: Array | int, stream: int, step: Array | int) -> Array:
    """The key of a rollout step; `stream` keeps training, evaluation and shuffling apart."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)


def row_keys(key: Array, prompt_id: Array, sample: Array) -> Array:
    """Keys [B] from prompt ids [B] and sample indices [B] within the group."""
    return jax.vmap(lambda p, s: jax.random.fold_in(jax.random.fold_in(key, p), s))(prompt_id, sample)


def token_uniforms(keys: Array, column: Array) -> Array:
    """One uniform number in [0, 1) a row, float32 [B], for completion column ``column``."""
    return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, column), dtype=jnp.float32))(keys)
