"""Lite PPO on the embedded model and its built-in task: the run of `make quickstart`.

Source: configs/lite_ppo.py, with sizes for two CPU cores.
Command: jaxrl-llm train --config configs/quickstart.py
Hardware: two CPU cores, under 4 GiB. Expected: TO MEASURE minutes; held-out avg@4 TO MEASURE.
"""

from configs import lite_ppo


def get_config():
    c = lite_ppo.get_config()
    c.run_dir = "runs/quickstart"
    c.steps = 100
    c.sampling.max_tokens = 48  # the longest worked solution of the easy tier has 24
    c.optimizer.learning_rate = 1e-4
    c.optimizer.warmup_steps = 40  # ten rollouts: Adam's first steps are as large for noise as for signal
    c.optimizer.clip_norm = 1.0
    c.evaluation.problems = 128
    c.evaluation.samples = 8
    return c
