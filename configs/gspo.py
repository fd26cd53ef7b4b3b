"""GSPO: one ratio a completion, the geometric mean of its tokens', with bounds to match; no KL.

Source: Zheng et al., 2025, arXiv 2507.18071; bounds and four mini-batches, section 5.1.
Differs: verl and Tunix give each token its own gradient (GSPO-token) and hold the exponent below 10. With one advantage
  a completion, as here, the gradient is the same.
Command: jaxrl-llm train --config configs/gspo.py
Hardware: two CPU cores. Expected: 89 s, 1.2 GiB; held-out avg@4 from 0.29 to 0.48 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/gspo"
    c.algorithm.baseline = "group"
    c.algorithm.scale = "group"
    c.algorithm.ratio = "sequence"
    c.algorithm.clip_low = 3e-4
    c.algorithm.clip_high = 4e-4
    c.algorithm.aggregation = "sequence_mean"
    c.training.mini_batches = 4
    return c
