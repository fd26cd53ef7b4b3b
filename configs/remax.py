"""ReMax: REINFORCE against the reward of the greedy completion of the same prompt.

Source: Li et al., 2023, arXiv 2310.10505.
Differs: the paper samples one completion a prompt and has a KL term in its reward. verl, the only peer that has it,
  pairs the baseline with PPO's clip.
Command: jaxrl-llm train --config configs/remax.py
Hardware: two CPU cores. Expected: 96 s, 1.7 GiB; held-out avg@4 from 0.29 to 0.45 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/remax"
    c.algorithm.surrogate = "reinforce"
    c.algorithm.clip_low = None
    c.algorithm.clip_high = None
    c.algorithm.baseline = "greedy"
    c.algorithm.aggregation = "sequence_sum"
    return c
