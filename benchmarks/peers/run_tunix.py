"""A GRPO step of Tunix with its own sampler: whole steps of its GRPOLearner, timed from the inside.

Command: .bench/tunix/bin/python benchmarks/peers/run_tunix.py w1 --steps 2      (made by `make bench-peers`)

One line of JSON a measurement, on stdout, after a step of warm-up that compiles: rollout (its sampler), update (every
micro-batch's forward and backward pass, and the optimizer), step (both, rewards, advantages and bookkeeping), and score
(log-probabilities of all rows without gradient, which the step itself does not need).

W2 is trained with SGD unless told otherwise: with AdamW, Tunix needs more than 20 GiB.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import MALLOC, clock, pin, report, restart_with, versions
from workloads import PAD, STOP, WORKLOADS, Workload

OFFLINE = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}


class Words:
    """A tokenizer: a word a token, so that texts and ids are the same thing."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return STOP

    def pad_id(self) -> int:
        return PAD


def make_model(workload: Workload) -> Any:
    """Qwen3 of the workload's shape with random weights, float32."""
    from flax import nnx
    from tunix.models.qwen3.model import ModelConfig, Qwen3

    shape = workload.shape
    config = ModelConfig(
        num_layers=shape.layers,
        vocab_size=shape.vocabulary,
        embed_dim=shape.width,
        hidden_dim=shape.mlp_width,
        num_heads=shape.heads,
        head_dim=shape.head_size,
        num_kv_heads=shape.kv_heads,
        rope_theta=1_000_000,
        norm_eps=1e-6,
        use_tied_embedding=shape.tied,
    )
    return Qwen3(config, rngs=nnx.Rngs(workload.seed))


def end_at_budgets(sampler: Any, workload: Workload) -> None:
    """Makes Tunix's sampler end every row at its length, and nowhere else."""
    import dataclasses

    import jax.numpy as jnp

    sample = sampler._sample

    def sample_within_budget(**arguments: Any) -> Any:
        state = sample(**arguments)
        column = state.decoding_step
        token = state.token_buffer[:, column]
        token = jnp.where((token == STOP) | (token == PAD), 2, token)
        ends = jnp.zeros_like(state.done)
        if workload.ragged:
            ends = jnp.asarray(workload.lengths) == column - workload.max_prompt + 1
        buffer = state.token_buffer.at[:, column].set(jnp.where(ends, STOP, token))
        return dataclasses.replace(state, token_buffer=buffer, done=arguments["sampler_state"].done | ends)

    sampler._sample = sample_within_budget


def make_learner(workload: Workload, steps: int, optimizer: str) -> Any:
    """A GRPOLearner that takes one optimizer step a rollout."""
    import functools

    import jax
    import optax
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
    from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
    from tunix.rl.rollout.base_rollout import RolloutConfig

    groups = workload.micro_batch // workload.samples
    if groups * workload.samples != workload.micro_batch:
        raise ValueError(f"micro_batch = {workload.micro_batch}: expected whole groups of {workload.samples}")
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    optimizers = {"adamw": functools.partial(optax.adamw, weight_decay=0.0), "sgd": optax.sgd}
    cluster = RLCluster(
        actor=make_model(workload),
        tokenizer=Words(),
        cluster_config=ClusterConfig(
            role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
            training_config=RLTrainingConfig(
                actor_optimizer=optimizers[optimizer](1e-6),
                eval_every_n_steps=10**9,
                max_steps=steps,
                mini_batch_size=workload.prompts,
                train_micro_batch_size=groups,
                rollout_micro_batch_size=workload.prompts,
                compute_logps_micro_batch_size=groups,
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=workload.max_tokens,
                max_prompt_length=workload.max_prompt,
                kv_cache_size=workload.max_prompt + workload.max_tokens,
                temperature=1.0,
                top_p=1.0,
                top_k=None,
                eos_tokens=[STOP],
            ),
        ),
    )
    end_at_budgets(cluster.rollout._sampler, workload)
    return GRPOLearner(
        rl_cluster=cluster,
        algo_config=GRPOConfig(num_generations=workload.samples, num_iterations=1, beta=0.0),
        reward_fns=lambda completions, **_: workload.rewards.tolist(),
    )


def time_steps(learner: Any, workload: Workload, steps: int, optimizer: str) -> Any:
    """Trains, prints what each step but the first took, and returns the last rollout."""
    import jax
    from flax import nnx

    times: dict[str, float] = {}
    last: list[Any] = []
    cluster = learner.rl_cluster
    generate, prepare_rollout, run = cluster.generate, learner._generate_and_compute_advantage, learner._run_global_step
    warm = False

    def timed_generate(*arguments: Any, **named: Any) -> Any:
        with clock(times, "rollout"):
            return generate(*arguments, **named)

    def timed_preparation(*arguments: Any, **named: Any) -> Any:
        with clock(times, "before_update"):
            last[:] = [jax.block_until_ready(prepare_rollout(*arguments, **named))]
            return last[0]

    def timed_step(*arguments: Any) -> None:
        nonlocal warm
        times.clear()
        begun = time.perf_counter()
        run(*arguments)
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
        seconds = time.perf_counter() - begun
        if warm:
            say(workload, "rollout", times["rollout"])
            say(workload, "update", seconds - times["before_update"], optimizer=optimizer)
            say(workload, "step", seconds, optimizer=optimizer)
        warm = True

    cluster.generate, learner._run_global_step = timed_generate, timed_step
    learner._generate_and_compute_advantage = timed_preparation
    prompts = np.array([" ".join(map(str, ids)) for ids in workload.prompt_tokens])
    learner.train([{"prompts": prompts} for _ in range(steps)])
    # Tunix leaves the stop token out of what it trains.
    expected, found = (workload.lengths - workload.ragged).tolist(), np.asarray(last[0].completion_mask).sum(1).tolist()
    if found != expected:
        raise RuntimeError(f"lengths of completions {found}, expected {expected}")
    return last[0]


def time_score(learner: Any, workload: Workload, rollout: Any, repeats: int) -> None:
    import jax

    for warm in [False, *[True] * repeats]:
        begun = time.perf_counter()
        jax.block_until_ready(
            learner.rl_cluster.get_old_per_token_logps(
                rollout.prompt_ids, rollout.completion_ids, micro_batch_size=workload.micro_batch
            )
        )
        if warm:
            say(workload, "score", time.perf_counter() - begun)


def say(workload: Workload, part: str, seconds: float, **more: object) -> None:
    report("tunix", workload.name, part, seconds, **more, versions=versions("google-tunix", "jax", "flax"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("--steps", type=int, default=1, help="measured steps, after one of warm-up (default 1)")
    parser.add_argument("--score", action="store_true", help="time the scoring forward pass too")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), help="default: adamw, for w2 sgd")
    arguments = parser.parse_args()
    pin()
    restart_with(MALLOC | OFFLINE)
    workload = WORKLOADS[arguments.workload]
    optimizer = arguments.optimizer or ("sgd" if workload.name == "w2" else "adamw")
    learner = make_learner(workload, 1 + arguments.steps, optimizer)
    rollout = time_steps(learner, workload, 1 + arguments.steps, optimizer)
    if arguments.score:
        time_score(learner, workload, rollout, arguments.steps)


if __name__ == "__main__":
    main()
