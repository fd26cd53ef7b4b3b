"""The embedded model, made from nothing: 1.1 M parameters, Qwen3 architecture, `jaxrl_llm/assets/tiny`.

It reads chain_sum text of mixed quality, so that it knows the way to an answer but does not take it every time.
Command: jaxrl-llm pretrain --config configs/models/tiny_base.py --config.folder=runs/tiny_base
Hardware: two CPU cores, 638 s beside other work. The same seed gives the same weights on the same machine.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.folder = "runs/tiny_base"
    c.task = "chain_sum"  # a built-in task with worked solutions
    c.start = placeholder(str)  # the checkpoint to go on from, as model.source; None: random weights
    c.seed = 0
    c.steps = 800
    c.rows = 26  # of packed text a step
    c.width = 160  # tokens of a row; the longest text of the hard tier has 159

    c.model = ConfigDict()
    c.model.width = 160
    c.model.layers = 4
    c.model.heads = 4
    c.model.kv_heads = 2
    c.model.head_size = 32
    c.model.mlp_width = 448

    c.mix = ConfigDict()  # shares of the completions, see jaxrl_llm.data.tasks.Mix
    c.mix.steps = 0.40
    c.mix.direct = 0.45
    c.mix.careless = 0.15
    c.mix.rambling = 0.15

    c.optimizer = ConfigDict()
    c.optimizer.learning_rate = 2e-3
    c.optimizer.warmup_steps = 50
    c.optimizer.schedule = "cosine"
    c.optimizer.beta1 = 0.9
    c.optimizer.beta2 = 0.99
    c.optimizer.epsilon = 1e-8
    c.optimizer.weight_decay = 0.01
    c.optimizer.clip_norm = 1.0
    c.optimizer.state_dtype = "float32"
    c.optimizer.offload = False
    return c
