"""RLOO: REINFORCE on whole completions against the mean of the other samples, KL in the reward.

Source: Ahmadian et al., 2024, arXiv 2402.14740; KL coefficient 0.03, 2 or 4 samples a prompt (appendix C).
Differs: the paper's KL is part of the completion's reward and of its baseline, here each token pays its own after it.
  TRL clips the ratio of whole completions; verl pairs the baseline with PPO's clip.
Command: jaxrl-llm train --config configs/rloo.py
Hardware: two CPU cores. Expected: 106 s, 1.8 GiB; held-out avg@4 from 0.29 to 0.48 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/rloo"
    c.algorithm.surrogate = "reinforce"
    c.algorithm.clip_low = None
    c.algorithm.clip_high = None
    c.algorithm.baseline = "leave_one_out"
    c.algorithm.aggregation = "sequence_sum"
    c.algorithm.kl_placement = "reward"
    c.algorithm.kl_estimator = "k1"
    c.algorithm.kl_coefficient = 0.03
    return c
