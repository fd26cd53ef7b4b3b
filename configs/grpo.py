"""GRPO: group mean and group std, sequence-level loss, symmetric clip, KL to the starting policy in the loss.

Source: Shao et al., 2024, arXiv 2402.03300; arXiv 2508.08221, section 2. The latter gives no KL coefficient: 0.04 is
the former's. Std divides by n - 1, epsilon 1e-6, as in ROLL, the code that the study ran on.
Differs: TRL has epsilon 1e-4 and averages micro-batch by micro-batch; verl's default is the token mean; Tunix puts k1,
  whose gradient is 0 on average, into the loss.
Command: jaxrl-llm train --config configs/grpo.py
Hardware: two CPU cores. Expected: 98 s, 1.2 GiB; held-out avg@4 from 0.29 to 0.49 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/grpo"
    c.algorithm.baseline = "group"
    c.algorithm.scale = "group"
    c.algorithm.aggregation = "sequence_mean"
    c.algorithm.kl_placement = "loss"
    c.algorithm.kl_estimator = "k3"
    c.algorithm.kl_coefficient = 0.04
    c.training.mini_batches = 4  # with one, the ratio is 1 and the clip never binds
    return c
