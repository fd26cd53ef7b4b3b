"""GPG: REINFORCE against the group's mean, scaled up by the share of rows that count; no clip, no KL.

Source: Chu et al., 2025, arXiv 2504.02546.
Differs: the paper counts completions whose group has spread; verl, and nonzero_share after it, those whose reward is
  not 0.
Command: jaxrl-llm train --config configs/gpg.py
Hardware: two CPU cores. Expected: 86 s, 1.6 GiB; held-out avg@4 from 0.29 to 0.47 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/gpg"
    c.algorithm.surrogate = "reinforce"
    c.algorithm.clip_low = None
    c.algorithm.clip_high = None
    c.algorithm.baseline = "group"
    c.algorithm.scale = "nonzero_share"
    return c
