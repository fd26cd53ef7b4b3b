"""Bytes that one device holds, by formula."""

from __future__ import annotations

import math

from jax.sharding import AbstractMesh, PartitionSpec

from jaxrl_llm.models import weights
from jaxrl_llm.models.weights import Weight
from jaxrl_llm.planning.work import FLOAT, Work
from jaxrl_llm.sharding import spec


def _ways(partition: PartitionSpec, mesh: dict[str, int]) -> int:
    return math.prod(mesh[axis] for axis in partition if isinstance(axis, str))


def _split_size(work: Work, weight: Weight, *, whole: tuple[str, ...] = ()) -> float:
    """Numbers of a weight on one device."""
    mesh = AbstractMesh(tuple(work.mesh.values()), tuple(work.mesh))
    partition = spec(weight.axes, weight.shape, mesh, whole=whole)  # type: ignore[arg-type]
    return math.prod(weight.shape) / _ways(partition, work.mesh)


def parameter_bytes(work: Work) -> float:
    """float32 parameters on one device; gradients and each of Adam's two moments are as large."""
    return FLOAT * sum(_split_size(work, weight) for weight in weights.weight_table(work.config))


def sampling_bytes(work: Work) -> float:
    """The sampling layout on one device: compute dtype, whole along fsdp, with a head of its own."""
    table = weights.weight_table(work.config)
    total = 0.0
    for weight in table:
        size = _split_size(work, weight, whole=("fsdp",))
        total += size * (FLOAT if weight.path[-1] == "scale" else work.number)
        if weight.path[0] == "embed" and work.config.tied:
            total += size * work.number
    return total


def rollout_ways(work: Work) -> int:
    """Prompts that do not divide over the mesh lie whole on every device."""
    return work.row_ways if work.prompts % work.row_ways == 0 else 1


def _token_bytes_of_cache(work: Work) -> float:
    c, tensor = work.config, work.mesh["tensor"]
    heads = c.kv_heads / tensor if c.kv_heads % tensor == 0 else c.kv_heads
    return 2 * c.layers * heads * c.head_size * work.number


def cache_bytes(work: Work, width: int | None = None) -> float:
    """Keys and values of every prompt (once a group) and of ``width`` completion tokens of every row."""
    columns = work.width if width is None else width
    positions = work.prompts * work.prompt_width + work.rows * columns
    return positions / rollout_ways(work) * _token_bytes_of_cache(work)


def _layer_activations(work: Work, rows: float, width: int) -> float:
    """What one layer computes of ``rows`` rows on one device and holds until its backward pass."""
    c, tensor = work.config, work.mesh["tensor"]
    of_token = (2 * c.heads + 2 * c.kv_heads) * c.head_size / tensor + 3 * c.mlp_width / tensor + 4 * c.width
    scores = c.heads / tensor * width * (FLOAT + work.number)  # float32 scores and their softmax
    return rows * width * (of_token * work.number + scores)


def _gathered(work: Work) -> float:
    """One layer's weights, or the head's, whole along fsdp in the compute dtype."""
    c, tensor = work.config, work.mesh["tensor"]
    matrices = 2 * c.width * (c.heads + c.kv_heads) * c.head_size + 3 * c.width * c.mlp_width
    return max(matrices, c.width * c.vocab_size) / tensor * work.number


def activation_bytes(work: Work, program: str) -> float:
    """An estimate of everything else that a program holds at its peak: activations, gradients, gathered weights.

    What XLA fuses and reuses is not modelled; where a topology can be compiled for, its own figure is taken.
    """
    c, tensor = work.config, work.mesh["tensor"]
    if program == "rollout":
        ways = rollout_ways(work)
        prefill = _layer_activations(work, work.prompts / ways, work.prompt_width)
        logits = work.rows / ways * c.vocab_size / tensor * FLOAT * 2
        return max(prefill, logits)
    rows = work.rows_of_pass / work.row_ways
    logits = rows * work.columns * c.vocab_size / tensor * FLOAT
    residual = rows * work.sequence * c.width * work.number
    layer = _layer_activations(work, rows, work.sequence)
    if program == "score":
        return residual + max(layer, 2 * logits) + _gathered(work)
    products = ((c.heads + 2 * c.kv_heads) * c.head_size + 2 * c.mlp_width) / tensor + 2 * c.width
    saved = {
        "none": layer,
        "layer": residual,
        "dots": residual + rows * work.sequence * products * work.number,
    }[work.remat]
    gradients = parameter_bytes(work) * (1 if work.rows_of_pass == work.rows_of_update else 2)
    return gradients + c.layers * saved + max(2 * layer, 3 * logits) + 2 * _gathered(work)
