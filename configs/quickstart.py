"""Lite PPO on the embedded model and its built-in task: the run of `make quickstart`.

Source: configs/lite_ppo.py, with sizes for two CPU cores.
Command: jaxrl-llm train --config configs/quickstart.py
Hardware: two CPU cores. Expected: 3 min 58 s, 1.0 GiB; held-out avg@8 from 0.271 to 0.553 (seed 0).
"""

from configs import lite_ppo


def get_config():
    c = lite_ppo.get_config()
    c.run_dir = "runs/quickstart"
    c.steps = 110
    c.data.prompts_per_step = 32
    c.training.mini_batches = 2
    c.optimizer.clip_norm = 1.0
    c.evaluation.problems = 128
    c.evaluation.samples = 8
    return c
