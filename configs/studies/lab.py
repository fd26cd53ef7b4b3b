"""The run that studies at lab scale start from: the tiny base model, chains of digits, Lite PPO's frame without tricks.

Group mean, no scale, token-level loss on the plain PPO clip, four optimizer steps a rollout so that the clip binds.
Command: jaxrl-llm train --config configs/studies/lab.py trains one such run by itself.
Hardware: two CPU cores.
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/lab"
    c.steps = 120
    c.model.source = "embedded:lab_base"

    c.data.source = "task:digit_chain"
    c.data.tier = "medium"
    c.data.max_prompt_tokens = 12  # the hard tier's six digits
    c.data.prompts_per_step = 8
    c.data.samples_per_prompt = 8
    c.sampling.max_tokens = 16

    c.algorithm.baseline = "group"
    c.training.mini_batches = 4
    c.optimizer.learning_rate = 5e-4
    c.optimizer.warmup_steps = 10
    c.optimizer.clip_norm = 1.0

    c.evaluation.every = 10
    c.evaluation.source = "task:digit_chain"
    c.evaluation.tier = "medium"
    c.evaluation.problems = 256  # many problems tell more than many samples of few
    c.evaluation.samples = 1
    c.evaluation.texts = 4

    c.checkpoint.every = 0
    c.log.tensorboard = False
    c.log.loop.window = 6
    c.log.loop.period = 4
    return c
