"""Bytes that one device must move in one run of a program, at least, by formula: to and from its memory, and its
neighbours.
"""

from __future__ import annotations

import dataclasses

from jaxrl_llm.models import weights
from jaxrl_llm.planning.memory import cache_bytes, parameter_bytes, rollout_ways, sampling_bytes
from jaxrl_llm.planning.work import FLOAT, Work


def _attention_traffic(work: Work, rows: float) -> float:
    """Scores and their softmax of all layers, each written and read once."""
    c = work.config
    return c.layers * rows * c.heads / work.mesh["tensor"] * work.sequence**2 * 2 * (FLOAT + work.number)


def memory_traffic(work: Work, program: str) -> float:
    """Bytes between a device and its memory in one run of a program, at least."""
    weights_read = sampling_bytes(work)
    if program == "rollout":
        steps = ((steps, weights_read + cache_bytes(work, width)) for steps, width in work.phases)
        return weights_read + sum(count * size for count, size in steps)
    if program == "score":
        passes = -(-work.rows // work.rows_of_pass)
        attention = _attention_traffic(work, work.rows / work.row_ways)
        return work.score_passes * (passes * weights_read + attention)
    passes = work.rows_of_update // work.rows_of_pass
    again = work.remat != "none"
    extra = work.choice + work.exact_kl
    gradients = parameter_bytes(work) * (2 * passes - 1)
    optimizer = 7 * parameter_bytes(work)  # reads parameters, gradients and moments, writes all but the gradients
    attention = _attention_traffic(work, work.rows_of_update / work.row_ways) * (3 + again + extra)
    return passes * weights_read * (2 + again + extra) + attention + gradients + optimizer


def network_traffic(work: Work, program: str) -> dict[str, float]:
    """Mesh axis -> bytes that a device receives in one run of a program.

    Weights are gathered along fsdp once a traversal, the head once a chunk, and the head's gradient is summed once a
    chunk; along tensor, two sums of the residual stream a layer. A compiled program is counted instead.
    """
    c, mesh, number = work.config, work.mesh, work.number

    def share(axis: str) -> float:
        return (mesh[axis] - 1) / mesh[axis]

    layers = (weights.parameter_count(dataclasses.replace(c, tied=True)) - c.vocab_size * c.width) / mesh["tensor"]
    head = c.vocab_size * c.width / mesh["tensor"]

    def sums(tokens: float) -> float:
        return 2 * c.layers * 2 * share("tensor") * tokens * c.width * number

    if program == "rollout":
        tokens = (work.prompts * work.prompt_width + work.rows * (work.width - 1)) / rollout_ways(work)
        return {"tensor": sums(tokens)}
    rows = work.rows if program == "score" else work.rows_of_update
    passes = -(-rows // work.rows_of_pass)
    tokens = rows * work.sequence / work.row_ways
    if program == "score":
        gathered = passes * share("fsdp") * (layers + work.chunks * head) * number
        return {"fsdp": work.score_passes * gathered, "tensor": work.score_passes * sums(tokens)}
    extra = work.choice + work.exact_kl
    traversals = 2 + (work.remat != "none") + extra
    gathers = (traversals * layers + (2 + (work.chunks > 1) + extra) * work.chunks * head) * number
    reductions = (layers + 2 * work.chunks * head) * FLOAT
    return {
        "data": passes * 2 * share("data") * parameter_bytes(work),
        "fsdp": passes * share("fsdp") * (gathers + reductions),
        "tensor": sums(tokens) * (traversals if work.remat == "layer" else traversals - (work.remat != "none")),
    }
