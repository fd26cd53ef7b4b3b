"""Qwen3-4B, aligned, with the hyperparameters of arXiv 2508.08221: see configs/models/paper.py.

Command: jaxrl-llm train --config configs/models/qwen3_4b.py
Hardware: accelerators; never run by us at full size. For aligned models the study advises a higher
upper bound (0.32 at this size) and the sequence-level loss:
  --config.algorithm.clip_high=0.32 --config.algorithm.aggregation=sequence_mean
"""

from configs.models import paper


def get_config():
    c = paper.get_config()
    c.run_dir = "runs/qwen3_4b"
    c.model.source = "Qwen/Qwen3-4B"
    return c
