"""Rollouts on the host: by one program for all prompts, or on a CPU by one for every part of them, side by side.

A decode step is a chain of small operations, most of which XLA runs on one thread, and of two chains of one program it
runs one after the other. Programs of several threads run at the same time: each samples a part of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrl_llm.environment import cores
from jaxrl_llm.sampling.generate import generate
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.sharding import shard_rows, to_host
from jaxrl_llm.training.shrinking import generate_shrinking
from jaxrl_llm.types import Array, Model, Params, Rollout

# Of a part. Every part reads all weights at every token: with fewer rows that may take longer than computing.
LEAST_ROWS = 64


def parts_of(prompts: int, samples: int, threads: int) -> int:
    """How many equal parts ``prompts`` are cut into: as many as threads, of at least LEAST_ROWS rows each."""
    most = min(threads, prompts * samples // LEAST_ROWS)
    return max((parts for parts in range(1, most + 1) if prompts % parts == 0), default=1)


def sample_on(
    mesh: Mesh,
    model: Model,
    prepared: Params,
    prompt_tokens: np.ndarray,
    prompt_length: np.ndarray,
    prompt_id: np.ndarray,
    key: Array,
    *,
    samples: int,
    sampling: Sampling,
    stop_ids: tuple[int, ...],
    pad_id: int,
) -> Rollout:
    """What :func:`~jaxrl_llm.sampling.generate.generate` samples, on the host; arrays of prompts are on the host too.

    On a CPU rows that have stopped leave the batch, see :mod:`jaxrl_llm.training.shrinking`. That, and how many parts
    there are, changes the order of sums in matrix products, and nothing else.
    """
    prompts = prompt_tokens, prompt_length, prompt_id
    one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    parts = parts_of(len(prompt_tokens), samples, cores()) if one_cpu else 1
    loop: Callable[..., Rollout] = generate_shrinking if one_cpu else generate

    def sample(*rows: np.ndarray) -> Rollout:
        with jax.set_mesh(mesh):  # of this thread
            rollout = loop(
                model,
                prepared,
                *shard_rows(rows, mesh),
                key,
                samples=samples,
                sampling=sampling,
                stop_ids=stop_ids,
                pad_id=pad_id,
            )
            return to_host(rollout)

    if parts == 1:
        return sample(*prompts)
    with ThreadPoolExecutor(parts) as threads:
        rollouts = list(threads.map(sample, *(np.split(x, parts) for x in prompts)))
    return jax.tree.map(lambda *of_parts: np.concatenate(of_parts), *rollouts)
