"""Lite PPO with the hyperparameters of the study, for any model: arXiv 2508.08221, section 5 and appendix A.

Prompts, samples, lengths, sampling, learning rate and warm-up are the paper's. It leaves open how many optimizer steps
a rollout feeds (its clip experiments need more than one; four here), the optimizer (AdamW) and the gradient norm
(1.0): these are the defaults of ROLL, the code it ran on. Its benchmarks are scored with 8 samples a problem.

Data: DeepMath-103K, the pool of the paper's Medium and Hard tiers; evaluation on the paper's six benchmarks, whose
plain mean (eval/benchmarks_avg) is its average accuracy. `jaxrl-llm tiers --config configs/paper/tiers.py` writes their
file, and the tiers: --config.data.source=jsonl:data/paper/easy.jsonl --config.data.answer_key=answer.
The paper evaluates after every step; here every 20 steps: an evaluation samples as much as twelve steps.
"""

from configs import lite_ppo


def get_config():
    c = lite_ppo.get_config()
    c.seed = 42
    c.steps = 500

    c.model.dtype = "bfloat16"
    c.model.remat = "layer"

    c.data.source = "hub:zwhe99/DeepMath-103K"
    c.data.split = "train"
    c.data.answer_key = "final_answer"
    c.data.template = "chat"
    c.data.system = "Please reason step by step, and put your final answer within \\boxed{}."
    c.data.max_prompt_tokens = 1024
    c.data.long_prompts = "drop"
    c.data.prompts_per_step = 128
    c.data.samples_per_prompt = 8

    c.sampling.max_tokens = 8192  # 8000 in the appendix
    c.sampling.temperature = 0.99
    c.sampling.top_p = 0.99
    c.sampling.top_k = 100

    c.reward.verifier = "math"
    c.reward.answer_format = "boxed"

    c.optimizer.learning_rate = 1e-6
    c.optimizer.warmup_steps = 50
    c.optimizer.weight_decay = 0.0
    c.optimizer.clip_norm = 1.0

    c.training.epochs = 1
    c.training.mini_batches = 4
    c.training.tokens_per_pass = 17408  # a prompt and two completions of full length

    c.evaluation.source = "jsonl:data/paper/benchmarks.jsonl"
    c.evaluation.source_key = "source"
    c.evaluation.problems = 1546  # MATH-500 500, AMC23 40, AIME24 30, AIME25 30, Minerva 272, OlympiadBench 674
    c.evaluation.samples = 8
    return c
