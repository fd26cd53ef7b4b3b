"""Qwen3-4B-Base with the hyperparameters of arXiv 2508.08221: see configs/models/paper.py.

Command: jaxrl-llm train --config configs/models/qwen3_4b_base.py
Hardware: accelerators; never run by us at full size. The study's small non-aligned model.
"""

from configs.models import paper


def get_config():
    c = paper.get_config()
    c.run_dir = "runs/qwen3_4b_base"
    c.model.source = "Qwen/Qwen3-4B-Base"
    return c
