"""FLOPs of one run of each program, of the whole mesh, by formula: XLA's own analysis counts the body of a loop once.

What is computed is what the programs compute, padding and recomputation included. What is useful is what the model
asks for: every completion once with its prompt, a group's prompt once, and the pairs of tokens that see each other.
"""

from __future__ import annotations

import math

from jaxrl_llm.models import lora
from jaxrl_llm.models.attention import BLOCK
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.planning.work import Passes, Work

_FORWARD = 2  # products of attention over all pairs: the scores, and their sum of values
# The backward pass of a kernel computes the scores again: on TPU in either of its two kernels, on GPU in its one.
_BACKWARD = {"xla": 4, "splash": 7, "cudnn": 5}


def layer_flops(config: ModelConfig, tokens: float, pairs: float) -> float:
    """Forward FLOPs of one layer: 2 · tokens · weights of its matrices + 4 · pairs · N · H.

    Pairs that a window hides are counted: they are computed, and then left out.
    """
    c = config
    matrices = 2 * c.width * (c.heads + c.kv_heads) * c.head_size + c.mlp_matrices * c.width * c.active_mlp_width
    matrices += c.width * c.experts  # the router
    return 2.0 * tokens * matrices + product_flops(c, pairs) * _FORWARD


def product_flops(config: ModelConfig, pairs: float) -> float:
    """Of one product of attention: 2 · pairs · N · H."""
    return 2.0 * pairs * config.heads * config.head_size


def head_flops(config: ModelConfig, tokens: float) -> float:
    """2 · tokens · D · V."""
    return 2.0 * tokens * config.width * config.vocab_size


def causal_pairs(width: int) -> float:
    """Pairs of ``width`` tokens that attention computes: each block of queries sees all keys up to its end."""
    return sum((min(start + BLOCK, width) - start) * min(start + BLOCK, width) for start in range(0, width, BLOCK))


def computed_pairs(passes: Passes) -> float:
    """Of a packed row: those of the prompt, and of every lane with itself and with the prompt."""
    prompt, lanes, lane = passes.packing.prompt, passes.packing.lanes, passes.lane
    return causal_pairs(prompt) + lanes * (causal_pairs(lane) + lane * prompt)


def rollout_flops(work: Work) -> float:
    """Of all devices, also where several compute the same: rows that are not split over them, or one group's prompt."""
    devices = math.prod(work.mesh.values()) // work.mesh["tensor"]
    prompts, rows = work.sampled
    return sampling_flops(work, devices * prompts, devices * rows)


def sampling_flops(work: Work, prompts: int, rows: int) -> float:
    """One prefill a prompt, then a decode step a token, each over the whole width of the cache at that time."""
    c = work.config
    total = c.layers * layer_flops(c, prompts * work.prompt_width, prompts * causal_pairs(work.prompt_width))
    total += head_flops(c, prompts)
    for steps, width in work.phases:
        total += steps * (c.layers * layer_flops(c, rows, rows * (work.prompt_width + width)) + head_flops(c, rows))
    return total


def forward_flops(work: Work, program: str) -> float:
    """A forward pass over all layers, without an adapter."""
    passes = work.passes(program)
    return work.config.layers * layer_flops(
        work.config, passes.rows * passes.width, passes.rows * computed_pairs(passes)
    )


def adapter_flops(work: Work, tokens: float) -> float:
    """2 · tokens · parameters of the adapter, forward; those of a rollout are merged into the weights."""
    return 0.0 if work.lora is None else 2.0 * tokens * lora.count(work.config, work.lora)


def logits_flops(work: Work, program: str) -> float:
    """The logits of a pass, with the columns that fill the last chunk, or the entries that it has once more."""
    chunks = work.chunks(program)
    return 2.0 * work.config.width * work.passes(program).rows * chunks.count * chunks.columns * chunks.entries


def score_flops(work: Work) -> float:
    """Of the policy; a reference has no adapter."""
    adapter = adapter_flops(work, work.score.rows * work.score.width)
    return work.score_passes * (forward_flops(work, "score") + logits_flops(work, "score")) + adapter


def update_flops(work: Work) -> float:
    """Of one pass: forward, twice that backward, and what the backward pass computes again.

    That is: the logits where they are not kept, and of each layer: under "layer" all but the last product of the MLP,
    which nothing reads again; under "dots" the two products of attention, which have a batch axis; under "mlp" those
    and the MLP but for its last, with a router. Of a reference that is scored inside, the layers run once, and the
    logits once more.

    With an adapter, the backward pass computes no gradient of a weight: of each product with one it is as large as the
    forward pass. The adapter's own products, which are thin, are counted as computed again under "mlp" and "layer".
    """
    c, passes = work.config, work.passes("update")
    tokens, pairs = passes.rows * passes.width, passes.rows * computed_pairs(passes)
    again = {
        "none": 0.0,
        "dots": layer_flops(c, 0, pairs),
        "mlp": layer_flops(c, 0, pairs)
        + 2.0 * tokens * c.width * ((c.mlp_matrices - 1) * c.active_mlp_width + c.experts),
        "layer": layer_flops(c, tokens, pairs) - 2.0 * tokens * c.width * c.active_mlp_width,
    }[work.remat]
    layers, logits = forward_flops(work, "update"), logits_flops(work, "update")
    backward = 2 * layers + c.layers * (_BACKWARD[work.attention] - 2 * _FORWARD) * product_flops(c, pairs)
    total = layers + backward + c.layers * again + logits * (3 if work.chunks("update").kept else 4)
    if work.lora is not None:
        total -= c.layers * layer_flops(c, tokens, 0) + logits
        total += adapter_flops(work, tokens) * (3 if work.remat in ("none", "dots") else 4)
    return total + work.exact_kl * (layers + 2 * logits)


def useful_forward_flops(work: Work, passes: Passes) -> float:
    """Of one of ``passes``, on average."""
    c, prompt, width = work.config, work.prompt_width, work.width
    tokens = passes.groups * prompt + passes.sequences * width
    pairs = passes.groups * prompt * (prompt + 1) / 2 + passes.sequences * width * (prompt + (width + 1) / 2)
    return (c.layers * layer_flops(c, tokens, pairs) + head_flops(c, passes.sequences * width)) / passes.count


def useful_update_flops(work: Work) -> float:
    """Forward and backward, of one of the passes of an update, on average: of a frozen weight no gradient."""
    passes = work.update
    update = 3 * useful_forward_flops(work, passes)
    if work.lora is None:
        return update
    c, predicted = work.config, passes.sequences * work.width / passes.count
    tokens = passes.groups * work.prompt_width / passes.count + predicted
    frozen = c.layers * layer_flops(c, tokens, 0) + head_flops(c, predicted)
    return update - frozen + 3 * adapter_flops(work, tokens)


def useful_flops(work: Work) -> dict[str, float]:
    """FLOPs of one run of each program that the model itself asks for: what MFU counts."""
    score = work.score_passes * useful_forward_flops(work, work.score)
    update = useful_update_flops(work)
    sampling = sampling_flops(work, work.prompts, work.rows)
    return {"rollout": sampling, "score": score, "update": update, "apply": 0.0}


def computed_flops(work: Work) -> dict[str, float]:
    """FLOPs of the matrix products of one run of each program; the optimizer has none."""
    return {
        "rollout": rollout_flops(work),
        "score": score_flops(work),
        "update": update_flops(work),
        "apply": 0.0,
    }
