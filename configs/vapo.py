"""VAPO: PPO with a λ by length, a critic of plain returns that learns first, clip-higher, imitation of right answers.

Source: Yue et al., 2025, arXiv 2504.05118: alpha 0.05, 50 steps of critic pretraining.
Differs: no peer has it. At alpha 0.05 a completion of 20 tokens has λ = 0: short tasks want a larger one.
Command: jaxrl-llm train --config configs/vapo.py
Hardware: two CPU cores. Expected: 135 s, 1.3 GiB; held-out avg@4 from 0.29 to 0.34 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/vapo"
    c.algorithm.baseline = "critic"
    c.algorithm.gae_length_alpha = 0.05
    c.algorithm.gae_lambda_returns = 1.0
    c.algorithm.critic_learning_rate = 1e-4
    c.algorithm.critic_warmup = 10
    c.algorithm.clip_high = 0.28
    c.algorithm.positive_nll_coefficient = 0.1
    c.algorithm.aggregation = "token_mean"
    c.training.mini_batches = 4  # with one, the ratio is 1 and the clip never binds
    return c
