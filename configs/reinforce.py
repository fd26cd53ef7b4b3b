"""REINFORCE: -A log p with the reward itself as the advantage of every token; no baseline, no scale, no clip.

Source: Williams, 1992, "Simple statistical gradient-following algorithms"; the starting point of arXiv 2508.08221.
Command: jaxrl-llm train --config configs/reinforce.py
Hardware: two CPU cores. Expected: 115 s, 1.6 GiB; held-out avg@4 from 0.29 to 0.51 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/reinforce"
    c.algorithm.surrogate = "reinforce"
    c.algorithm.clip_low = None
    c.algorithm.clip_high = None
    c.algorithm.baseline = "none"
    c.algorithm.scale = "none"
    c.algorithm.aggregation = "token_mean"
    return c
