"""The aligned model of the lab, `jaxrl_llm/assets/lab_aligned`: the base model, polished on clean digit_chain text.

It is right more often, surer of what it writes, and stops after its answer.
Command: jaxrl-llm pretrain --config configs/models/lab_aligned.py
Hardware: two CPU cores, 10 s. The same seed gives the same weights on the same machine.
"""

from configs.models import lab_base


def get_config():
    c = lab_base.get_config()
    c.folder = "runs/lab_aligned"
    c.start = "embedded:lab_base"
    c.seed = 1
    c.steps = 150

    c.mix.steps = 0.85
    c.mix.direct = 0.0
    c.mix.careless = 0.15
    c.mix.rambling = 0.05

    c.optimizer.learning_rate = 2e-3
    return c
