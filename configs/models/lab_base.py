"""The base model of the lab, made from nothing: 20,000 parameters, Qwen3 architecture, `jaxrl_llm/assets/lab_base`.

It reads digit_chain text of mixed quality for a short time: it knows the way to an answer but does not take it every
time, adds carelessly, and often goes on after the answer.
Command: jaxrl-llm pretrain --config configs/models/lab_base.py
Hardware: two CPU cores, about 60 s. The same seed gives the same weights on the same machine.
"""

from configs.models import tiny_base


def get_config():
    c = tiny_base.get_config()
    c.folder = "runs/lab_base"
    c.task = "digit_chain"
    c.steps = 800
    c.rows = 48
    c.width = 63  # three documents, or one that goes on and one that does not

    c.model.width = 32
    c.model.layers = 2
    c.model.heads = 2
    c.model.kv_heads = 1
    c.model.head_size = 16
    c.model.mlp_width = 64

    c.mix.steps = 0.50
    c.mix.direct = 0.25
    c.mix.careless = 0.25
    c.mix.rambling = 0.30

    c.optimizer.learning_rate = 5e-3
    return c
