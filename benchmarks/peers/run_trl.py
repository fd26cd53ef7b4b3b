"""A GRPO step of TRL with transformers' generate: whole steps of its GRPOTrainer, timed from the inside.

Command: .bench/trl/bin/python benchmarks/peers/run_trl.py w1 --steps 2      (made by `make bench-peers`)

One line of JSON a measurement, on stdout, after a step of warm-up: rollout (generate), update (every micro-batch's
forward and backward pass, and AdamW), step (both, rewards, advantages and bookkeeping), and score (log-probabilities
of all rows without gradient, which the step itself does not need).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import CORES, MALLOC, clock, pin, report, restart_with, versions
from workloads import PAD, STOP, WORKLOADS, Workload

OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(CORES)}


def make_model(workload: Workload) -> Any:
    """Qwen3 of the workload's shape with random weights, float32."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = workload.shape
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.mlp_width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_size,
            tie_word_embeddings=shape.tied,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            bos_token_id=None,
            eos_token_id=STOP,
            pad_token_id=PAD,
        )
    )


def make_tokenizer(workload: Workload) -> Any:
    """A word a token, so that texts and ids are the same thing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {_word(i): i for i in range(workload.shape.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=_word(PAD)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_word(PAD), eos_token=_word(STOP), padding_side="left"
    )


def _word(token: int) -> str:
    """Special ones are found anywhere in a text, and must be part of no other word."""
    return {PAD: "<pad>", STOP: "<stop>"}.get(token, f"t{token}")


def budgets(workload: Workload) -> Any:
    """A logits processor that ends every row at its length, and nowhere else."""
    import torch
    from transformers import LogitsProcessor

    class Budgets(LogitsProcessor):
        lengths = torch.from_numpy(workload.lengths)
        prompt = max(map(len, workload.prompt_tokens))  # columns, padding on the left included

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            scores[:, STOP] = -torch.inf
            if workload.ragged:
                ends = self.lengths == input_ids.shape[1] - self.prompt + 1
                scores[ends] = -torch.inf
                scores[ends, STOP] = 0.0
            return scores

    return Budgets()


def make_trainer(workload: Workload, steps: int, folder: str) -> Any:
    """A GRPOTrainer that takes one optimizer step a rollout, on the same prompts each time."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    micro_batches = workload.rows // workload.micro_batch
    arguments = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        fp16=False,
        per_device_train_batch_size=workload.micro_batch,
        gradient_accumulation_steps=micro_batches,
        steps_per_generation=micro_batches,
        num_generations=workload.samples,
        num_iterations=1,
        max_steps=steps,
        max_completion_length=workload.max_tokens,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        loss_type="grpo",
        optim="adamw_torch",
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    prompts = [" ".join(map(_word, ids)) for ids in workload.prompt_tokens]
    trainer = GRPOTrainer(
        model=make_model(workload),
        reward_funcs=lambda completions, **_: workload.rewards.tolist(),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts * steps}),
        processing_class=make_tokenizer(workload),
    )
    generate, processors = trainer.model.generate, [budgets(workload)]
    trainer.model.generate = lambda **inputs: generate(**inputs, logits_processor=processors)
    return trainer


def time_steps(trainer: Any, workload: Workload, steps: int) -> dict[str, Any]:
    """Trains, prints what each step but the first took, and returns the last rollout as the trainer scores it."""
    from transformers import TrainerCallback

    times: dict[str, float] = {}
    last: dict[str, Any] = {}
    turn, prepare_rollout = trainer._generate_single_turn, trainer._generate_and_score_completions

    def timed_turn(*arguments: Any, **named: Any) -> Any:
        with clock(times, "rollout"):
            return turn(*arguments, **named)

    def timed_preparation(inputs: Any) -> Any:
        with clock(times, "before_update"):
            last.update(prepare_rollout(inputs))
            return dict(last)

    trainer._generate_single_turn, trainer._generate_and_score_completions = timed_turn, timed_preparation

    class Clock(TrainerCallback):
        warm = False
        begun = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.clear()
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - self.begun
            if self.warm:
                say(workload, "rollout", times["rollout"])
                say(workload, "update", seconds - times["before_update"], optimizer="adamw")
                say(workload, "step", seconds, optimizer="adamw")
            self.warm = True

    trainer.add_callback(Clock())
    trainer.train()
    expected, found = workload.lengths.tolist(), last["completion_mask"].sum(1).tolist()
    if found != expected:
        raise RuntimeError(f"lengths of completions {found}, expected {expected}")
    return last


def time_score(trainer: Any, workload: Workload, rollout: dict[str, Any], repeats: int) -> None:
    import torch

    ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], dim=1)
    mask = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], dim=1)
    trainer.model.eval()
    for warm in [False, *[True] * repeats]:
        begun = time.perf_counter()
        with torch.no_grad():
            trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, rollout["completion_ids"].shape[1], batch_size=workload.micro_batch
            )
        if warm:
            say(workload, "score", time.perf_counter() - begun)


def say(workload: Workload, part: str, seconds: float, **more: object) -> None:
    report("trl", workload.name, part, seconds, **more, versions=versions("trl", "torch", "transformers"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("--steps", type=int, default=1, help="measured steps, after one of warm-up (default 1)")
    parser.add_argument("--score", action="store_true", help="time the scoring forward pass too")
    arguments = parser.parse_args()
    pin()
    restart_with(MALLOC | OFFLINE)
    workload = WORKLOADS[arguments.workload]

    import torch

    torch.set_num_threads(CORES)
    torch.manual_seed(workload.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(workload, 1 + arguments.steps, folder)
        rollout = time_steps(trainer, workload, 1 + arguments.steps)
        if arguments.score:
            time_score(trainer, workload, rollout, arguments.steps)


if __name__ == "__main__":
    main()
