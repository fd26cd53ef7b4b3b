"""FLOPs of the three programs, of the whole mesh, by formula: XLA's own analysis counts the body of a loop once.

Attention counts all S² pairs, masked or not: that is what the programs compute.
"""

from __future__ import annotations

from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.planning.work import Work


def layer_flops(config: ModelConfig, tokens: float, pairs: float) -> float:
    """Forward FLOPs of one layer: 2 · tokens · weights of its matrices + 4 · pairs · N · H."""
    c = config
    matrices = 2 * c.width * (c.heads + c.kv_heads) * c.head_size + 3 * c.width * c.mlp_width
    return 2.0 * tokens * matrices + 4.0 * pairs * c.heads * c.head_size


def head_flops(config: ModelConfig, tokens: float) -> float:
    """2 · tokens · D · V."""
    return 2.0 * tokens * config.width * config.vocab_size


def rollout_flops(work: Work) -> float:
    """One prefill a prompt, then a decode step a token, each over the whole width of the cache at that time."""
    c, rows = work.config, work.rows
    total = c.layers * layer_flops(c, work.prompts * work.prompt_width, work.prompts * work.prompt_width**2)
    total += head_flops(c, work.prompts)
    for steps, width in work.phases:
        total += steps * (c.layers * layer_flops(c, rows, rows * (work.prompt_width + width)) + head_flops(c, rows))
    return total


def forward_flops(work: Work, rows: int, *, padded: bool = True) -> float:
    """A forward pass and the logits of all completions; ``padded``: with the columns that fill the last chunk."""
    c, width = work.config, work.chunks * work.columns if padded else work.width
    layers = c.layers * layer_flops(c, rows * work.sequence, rows * work.sequence**2)
    return layers + head_flops(c, rows * width)


def score_flops(work: Work) -> float:
    return work.score_passes * forward_flops(work, work.rows)


def update_flops(work: Work) -> float:
    """Of one optimizer step: forward, twice that backward, and what the backward pass recomputes.

    Recomputed are the logits where they come in several chunks, and of each layer: under "layer" all but the last
    product of the MLP, which nothing reads again; under "dots" the two products of attention, which have a batch axis.
    """
    c, rows = work.config, work.rows_of_update
    tokens, pairs = rows * work.sequence, rows * work.sequence**2
    again = {
        "none": 0.0,
        "dots": layer_flops(c, 0, pairs),
        "layer": layer_flops(c, tokens, pairs) - 2.0 * tokens * c.width * c.mlp_width,
    }[work.remat]
    total = 3 * forward_flops(work, rows) + c.layers * again
    if work.chunks > 1:
        total += head_flops(c, rows * work.chunks * work.columns)
    return total + (work.choice + work.exact_kl) * forward_flops(work, rows)


def useful_flops(work: Work) -> dict[str, float]:
    """FLOPs of each program that the model itself asks for, without recomputation or filling: what MFU counts."""
    forward = work.score_passes * forward_flops(work, work.rows, padded=False)
    update = 3 * forward_flops(work, work.rows_of_update, padded=False)
    return {"rollout": rollout_flops(work), "score": forward, "update": update}
