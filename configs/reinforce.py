"""REINFORCE: -A log p with the reward itself as the advantage of every token; no baseline, no scale, no clip.

Source: Williams, 1992, "Simple statistical gradient-following algorithms"; the starting point of arXiv 2508.08221.
Command: jaxrl-llm train --config configs/reinforce.py
Hardware: two CPU cores.
Expected: TO MEASURE minutes; held-out avg@4 TO MEASURE.
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/reinforce"
    c.algorithm.surrogate = "reinforce"
    c.algorithm.baseline = "none"
    c.algorithm.scale = "none"
    c.algorithm.aggregation = "token_mean"
    return c
