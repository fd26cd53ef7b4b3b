"""Bytes that one device must move in one run of a program, at least, by formula: to and from its memory, and its
neighbours.
"""

from __future__ import annotations

import dataclasses

from jaxrl_llm.models import lora, weights
from jaxrl_llm.planning.memory import (
    cache_bytes,
    layer_numbers,
    moment_bytes,
    sampling_bytes,
    score_numbers,
    tokens_on_device,
    trained_bytes,
)
from jaxrl_llm.planning.work import FLOAT, Work

_WRITE_READ = 2  # what one product makes, the next one reads


def _layers_traffic(work: Work, program: str) -> float:
    """What the products of all layers of a forward pass write and read."""
    tokens = tokens_on_device(work, program)
    numbers = layer_numbers(work) * work.number * _WRITE_READ
    return work.config.layers * (tokens * numbers + score_numbers(work, program) * (FLOAT + work.number) * _WRITE_READ)


def _logits_traffic(work: Work, program: str) -> float:
    """float32 logits of a pass, each written and read once, and the head's part of a chunk read for it."""
    c, chunks, passes = work.config, work.chunks(program), work.passes(program)
    rows, tensor = passes.rows / work.row_ways, work.mesh["tensor"]
    logits = rows * chunks.count * chunks.columns * chunks.entries / tensor * FLOAT * _WRITE_READ
    return logits + chunks.count * c.width * chunks.entries / tensor * work.number


def memory_traffic(work: Work, program: str) -> float:
    """Bytes between a device and its memory in one run of a program, at least."""
    weights_read = sampling_bytes(work)
    if program == "rollout":
        steps = ((steps, weights_read + cache_bytes(work, width)) for steps, width in work.phases)
        return weights_read + sum(count * size for count, size in steps)
    trained = trained_bytes(work)
    if program == "apply":  # reads parameters, gradients and moments, writes all but the gradients
        return 3 * trained + 4 * moment_bytes(work)
    layers, logits = _layers_traffic(work, program), _logits_traffic(work, program)
    if program == "score":
        return work.score_passes * (weights_read + layers + logits)
    again = work.remat in ("layer", "mlp")  # "dots" keeps what the products make
    traversals = 3 + again + work.exact_kl  # a backward pass makes and reads twice what a forward pass does
    gradients = trained * (3 if work.update.count > 1 else 1)
    logits *= 3 + (not work.chunks(program).kept)
    return weights_read * (2 + again + work.exact_kl) + traversals * layers + logits + gradients


def network_traffic(work: Work, program: str) -> dict[str, float]:
    """Mesh axis -> bytes that a device receives in one run of a program.

    Weights are gathered along fsdp once a traversal, the head once a pass; gradients are summed into their shards.
    Along tensor: two sums of the residual stream a layer. Along sequence: columns are exchanged for heads and back.
    A compiled program is counted instead.
    """
    c, mesh, number = work.config, work.mesh, work.number

    def share(axis: str) -> float:
        return (mesh[axis] - 1) / mesh[axis]

    def sums(tokens: float) -> float:
        return 2 * c.layers * 2 * share("tensor") * tokens * c.width * number

    if program == "rollout":
        prompts, rows = work.sampled
        return {"tensor": sums(prompts * work.prompt_width + rows * (work.width - 1))}
    if program == "apply":
        return {}
    layers = (weights.parameter_count(dataclasses.replace(c, tied=True)) - c.vocab_size * c.width) / mesh["tensor"]
    head = c.vocab_size * c.width / mesh["tensor"]
    tokens = tokens_on_device(work, program)
    heads = 2 * (c.heads + c.kv_heads) * c.head_size / mesh["tensor"]  # queries, keys, values, and their sums
    exchanged = c.layers * share("sequence") * tokens * heads * number
    if program == "score":
        once = {"fsdp": share("fsdp") * (layers + head) * number, "tensor": sums(tokens), "sequence": exchanged}
        return {axis: work.score_passes * size for axis, size in once.items()}
    again = work.remat != "none"
    traversals = 2 + work.exact_kl  # the backward pass gathers once, also what it computes again
    gathers = (traversals * layers + (1 + work.exact_kl) * head) * number
    reductions = layers * number + head * FLOAT  # of gradients
    if work.lora is not None:
        reductions = lora.count(c, work.lora) / mesh["tensor"] * number
    forwards = 2 + work.exact_kl + (work.remat == "layer")
    return {
        "data": 2 * share("data") * trained_bytes(work),
        "fsdp": share("fsdp") * (gathers + reductions),
        "tensor": sums(tokens) * forwards,
        "sequence": exchanged * (2 + work.exact_kl + again),
    }
