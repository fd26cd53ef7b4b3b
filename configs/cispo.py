"""CISPO: the ratio, bounded above, weighs -A log p without gradient; no token loses its gradient.

Source: MiniMax, 2025, arXiv 2506.13585, which does not give its bound; 5 is that of ScaleRL, arXiv 2510.13786.
Differs: TRL's epsilon_high is the bound itself, 5.0; verl and ROLL bound below too. EasyDeL lets the gradient through
  the weight. The paper's runs also have DAPO's dynamic sampling and overlong penalty.
Command: jaxrl-llm train --config configs/cispo.py
Hardware: two CPU cores. Expected: 84 s, 1.2 GiB; held-out avg@4 from 0.29 to 0.46 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/cispo"
    c.algorithm.baseline = "group"
    c.algorithm.scale = "group"
    c.algorithm.surrogate = "cispo"
    c.algorithm.clip_low = 1.0  # open: no ratio is below 0
    c.algorithm.clip_high = 4.0  # a weight is at most 5
    c.training.mini_batches = 4  # with one, every weight is 1
    return c
