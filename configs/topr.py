"""TOPR: right answers learn as in REINFORCE, wrong ones with the completion's ratio, at most 1, as their weight.

Source: Le Roux et al., 2025, arXiv 2503.14286; rewards of 1 and -1, so that wrong answers count.
Differs: ROLL takes the ratio of each token and not of the completion, and divides by tokens.
Command: jaxrl-llm train --config configs/topr.py
Hardware: two CPU cores. Expected: 82 s, 1.2 GiB; held-out avg@4 from 0.29 to 0.46 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/topr"
    c.algorithm.surrogate = "topr"
    c.algorithm.clip_low = None
    c.algorithm.clip_high = None
    c.algorithm.ratio = "sequence_product"
    c.algorithm.topr_weight_positive = 1.0
    c.algorithm.topr_weight_negative = 1.0
    c.algorithm.aggregation = "sequence_sum"
    c.reward.wrong = c.reward.unparseable = c.reward.timeout = -1.0
    c.training.mini_batches = 4  # with one, every ratio is 1
    return c
