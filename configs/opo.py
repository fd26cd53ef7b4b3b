"""OPO: exactly on-policy REINFORCE against the group's mean weighted by length; no clip, no KL.

Source: Hao et al., 2025, arXiv 2505.23585.
Differs: verl, the only peer that has it, pairs the baseline with PPO's clip and any aggregation; the baseline is the
  best for sums over tokens, as here.
Command: jaxrl-llm train --config configs/opo.py
Hardware: two CPU cores. Expected: 85 s, 1.6 GiB; held-out avg@4 from 0.29 to 0.48 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/opo"
    c.algorithm.surrogate = "reinforce"
    c.algorithm.clip_low = None
    c.algorithm.clip_high = None
    c.algorithm.baseline = "length_weighted"
    c.algorithm.aggregation = "sequence_sum"
    return c
