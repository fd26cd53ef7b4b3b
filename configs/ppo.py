"""PPO: a critic with GAE, whitened advantages, and a clip of the ratio and of the values.

Source: Schulman et al., 2017, arXiv 1707.06347; whitening and value clip as in its baselines code.
Differs: with human feedback a KL at each token goes into the reward (Ouyang et al., 2022, arXiv 2203.02155). Tunix
  writes terminal rewards into integers. At gaps of the mask verl passes over the values, ROLL and OpenRLHF take 0.
Command: jaxrl-llm train --config configs/ppo.py
Hardware: two CPU cores. Expected: 153 s, 1.3 GiB; held-out avg@4 from 0.29 to 0.45 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/ppo"
    c.algorithm.baseline = "critic"
    c.algorithm.gae_lambda = c.algorithm.gae_lambda_returns = 0.95
    c.algorithm.critic_learning_rate = 1e-4
    c.algorithm.critic_warmup = 0
    c.algorithm.value_clip = 0.2
    c.algorithm.whiten = True
    c.training.mini_batches = 4  # with one, the ratio is 1 and the clip never binds
    return c
