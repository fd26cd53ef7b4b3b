"""Qwen3-8B, aligned, with the hyperparameters of arXiv 2508.08221: see configs/models/paper.py.

Command: jaxrl-llm train --config configs/models/qwen3_8b.py
Hardware: accelerators; never run by us at full size. For aligned models the study advises a higher
upper bound (0.28 at this size) and the sequence-level loss:
  --config.algorithm.clip_high=0.28 --config.algorithm.aggregation=sequence_mean
"""

from configs.models import paper


def get_config():
    c = paper.get_config()
    c.run_dir = "runs/qwen3_8b"
    c.model.source = "Qwen/Qwen3-8B"
    # See docs/planning.md for the meshes of v5p-128 and v6e-256.
    c.model.remat = "dots"
    c.training.score_chunk = 2048
    return c
