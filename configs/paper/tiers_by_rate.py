"""Tiers for one model: its own problems, cut by how many of 8 samples are right.

arXiv 2508.08221 shows that count for its tiers (figure 2), but cuts them by source and annotation; see
configs/paper/tiers.py. The bounds here are ours: 6 to 8, 3 to 5, and 0 to 2 right.

First measure, with any config whose evaluation reads the pool of problems:
  jaxrl-llm evaluate --config configs/models/qwen3_4b_base.py --to data/rates.jsonl
    --config.evaluation.source=jsonl:data/paper/medium.jsonl --config.evaluation.source_key=None
    --config.evaluation.problems=5000 --config.evaluation.samples=8
Command: jaxrl-llm tiers --config configs/paper/tiers_by_rate.py
Hardware: any; seconds.
"""

from ml_collections import ConfigDict

from configs.models import paper

BOUNDS = {"easy": (6, 8), "medium": (3, 5), "hard": (0, 2)}  # right samples of 8, both ends included


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.folder = "data/by_rate"
    c.seed = 42
    c.reward = paper.get_config().reward
    c.held_out = None
    files = {
        tier: {"measured": {"source": "jsonl:data/rates.jsonl", "by": "correct", "low": low, "high": high}}
        for tier, (low, high) in BOUNDS.items()
    }
    c.files = ConfigDict(files, sort_keys=False)
    return c
