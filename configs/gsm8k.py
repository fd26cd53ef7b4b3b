"""Lite PPO on GSM8K word problems, for an instruct model of half a billion parameters or more.

Source: configs/lite_ppo.py; Cobbe et al., 2021, arXiv 2110.14168.
Command: jaxrl-llm train --config configs/gsm8k.py
From JSON lines with the keys question and answer (a number, or a solution that ends in "#### number") instead:
  --config.data.source=jsonl:train.jsonl --config.evaluation.source=jsonl:test.jsonl
Hardware: an accelerator; never run by us at full size.
"""

from configs import lite_ppo


def get_config():
    c = lite_ppo.get_config()
    c.run_dir = "runs/gsm8k"
    c.steps = 200

    c.model.source = "Qwen/Qwen2.5-0.5B-Instruct"
    c.model.dtype = "bfloat16"

    c.data.source = "hub:openai/gsm8k:main"
    c.data.template = "chat"
    c.data.system = "Please reason step by step, and put your final answer within \\boxed{}."
    c.data.max_prompt_tokens = 256
    c.data.prompts_per_step = 32

    c.sampling.max_tokens = 384
    c.reward.verifier = "math"
    c.reward.answer_format = "boxed"

    c.optimizer.learning_rate = 1e-6
    c.optimizer.clip_norm = 1.0

    c.evaluation.source = "hub:openai/gsm8k:main"
    c.evaluation.split = "test"
    return c
