"""The training loop, read top to bottom: sample, judge, weigh, update, log, evaluate, save."""

from __future__ import annotations

import collections
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.algorithm import needs_reference
from jaxrl_llm.data.prompts import Problem, PromptStream
from jaxrl_llm.evaluation.evaluate import evaluate
from jaxrl_llm.rewards.combine import Judge
from jaxrl_llm.rewards.equivalence import Outcome
from jaxrl_llm.sampling.keys import ORDER, ROLLOUT, step_key
from jaxrl_llm.sharding import shard_rows
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.collect import Completions, collect, trim
from jaxrl_llm.training.log import RunLog
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import Session, evaluation_problems, open_session, training_problems
from jaxrl_llm.training.step import Programs, add_metrics, init_state, make_programs
from jaxrl_llm.types import Metrics, Params, TrainState


def train(settings: Settings, *, config: dict[str, Any]) -> Path:
    """Runs, or goes on with, the run in ``settings.run_dir``, and returns that folder.

    The folder is claimed only after model and data have loaded: a mistake leaves nothing behind.

    Args:
      settings: checked by `config.check`.
      config: the same as plain values; the folder belongs to it, and a folder of another config is refused.
    """
    with Judge(settings.reward) as judge:
        session = open_session(settings)
        problems, dropped = training_problems(settings, session.tokenizer, judge)
        held_out = evaluation_problems(settings, session.tokenizer, judge) if settings.evaluation.every else []
        with (
            RunLog(settings.run_dir, config, tensorboard=settings.log.tensorboard) as log,
            jax.set_mesh(session.mesh),
            Checkpoints(settings.run_dir, keep=settings.checkpoint.keep) as checkpoints,
        ):
            if dropped:
                log.console(f"{dropped} prompts longer than data.max_prompt_tokens were dropped")
            _train(settings, session, PromptStream(problems, settings.seed), held_out, judge, log, checkpoints)
    return Path(settings.run_dir)


def _train(
    settings: Settings,
    session: Session,
    stream: PromptStream,
    held_out: list[Problem],
    judge: Judge,
    log: RunLog,
    checkpoints: Checkpoints,
) -> None:
    programs = make_programs(settings, session.model)
    # The update donates its state, so a reference policy keeps a copy of the parameters that the run starts from.
    reference = jax.tree.map(jnp.copy, session.params) if needs_reference(settings.algorithm) else None
    state = init_state(session.params, programs.optimizer)
    start = checkpoints.latest or 0
    if start:
        state, extra = checkpoints.restore(start, state)
        stream.restore(extra["stream"])
        log.rewind(extra["log"])
        log.console(f"going on after step {start} of {settings.steps}")
    else:
        log.rewind({})
    prepared = session.prepare(state.params)
    accuracy: float | None = None
    if held_out and not start:
        accuracy = _evaluate(0, session, prepared, held_out, settings, judge, log)

    for step in range(start + 1, settings.steps + 1):
        begun = time.perf_counter()
        key = step_key(settings.seed, ROLLOUT, step)
        completions, counts = collect(session, prepared, stream, settings, judge, key)
        sampled = time.perf_counter()
        state, means = _learn(step, settings, session, programs, state, reference, completions)
        prepared = session.prepare(state.params)
        values = means | counts | _outcomes(completions)
        values["learning_rate"] = float(
            np.asarray(programs.learning_rate(int(state.step) - 1))
        )  # of the last optimizer step
        seconds = time.perf_counter() - begun

        log.metrics(step, values)
        tokens = float(completions.rollout.mask.sum() + completions.rollout.prompt_length.sum())
        log.speed(
            step,
            {
                "seconds": seconds,
                "rollout_seconds": sampled - begun - completions.judge_seconds,
                "reward_seconds": completions.judge_seconds,
                "update_seconds": seconds - (sampled - begun),
                "tokens_per_second": tokens / seconds,
            },
        )
        last = step == settings.steps
        if held_out and (last or step % settings.evaluation.every == 0):
            accuracy = _evaluate(step, session, prepared, held_out, settings, judge, log)
        log.console(_progress(step, settings.steps, values, accuracy, tokens / seconds))
        if last or (settings.checkpoint.every and step % settings.checkpoint.every == 0):
            checkpoints.save(step, state, {"stream": stream.state(), "log": log.position()})


def _learn(
    step: int,
    settings: Settings,
    session: Session,
    programs: Programs,
    state: TrainState,
    reference: Params | None,
    completions: Completions,
) -> tuple[TrainState, dict[str, float]]:
    """All optimizer steps of one rollout; the state after them, and the means of the rollout and of its updates."""
    rollout = shard_rows(trim(completions.rollout), session.mesh)
    from_trainer = settings.algorithm.old_logprobs == "trainer"
    old = programs.score(state.params, rollout) if from_trainer else rollout.sampler_logprobs
    ref = None if reference is None else programs.score(reference, rollout)
    batch, metrics = programs.batch(rollout, completions.rewards, old, ref)
    totals: Metrics = {}
    for rows in _mini_batches(settings, step):
        part = shard_rows(programs.slice(batch, rollout.prompt_id, rows), session.mesh)
        state, of_update = programs.update(state, part)
        totals = add_metrics(totals, of_update) if totals else of_update
    means = jax.device_get({name: mean.value for name, mean in (metrics | totals).items()})
    return state, {name: float(mean) for name, mean in means.items()}


def _mini_batches(settings: Settings, step: int) -> list[np.ndarray]:
    """Row indices of every optimizer step of a rollout: groups in a seeded order, a new one for each pass."""
    prompts, samples = settings.data.prompts_per_step, settings.data.samples_per_prompt
    batches = []
    for epoch in range(settings.training.epochs):
        order = np.arange(prompts)
        if settings.training.mini_batches > 1:
            key = jax.random.fold_in(step_key(settings.seed, ORDER, step), epoch)
            order = np.asarray(jax.random.permutation(key, prompts))
        rows = (order[:, None] * samples + np.arange(samples)).reshape(-1)
        batches += np.split(rows, settings.training.mini_batches)
    return batches


def _outcomes(completions: Completions) -> dict[str, float]:
    counts = collections.Counter(completions.outcomes)
    return {f"outcome/{outcome.value}": counts[outcome] / len(completions.outcomes) for outcome in Outcome}


def _evaluate(
    step: int,
    session: Session,
    prepared: Params,
    held_out: list[Problem],
    settings: Settings,
    judge: Judge,
    log: RunLog,
) -> float:
    """Evaluates, logs, and returns avg@k."""
    result = evaluate(session, prepared, held_out, settings, judge)
    log.metrics(step, result.metrics)
    log.samples(step, result.samples)
    k = settings.evaluation.samples
    log.console(
        f"step {step}  held-out avg@{k} {result.metrics['eval/avg']:.3f} "
        f"[{result.metrics['eval/avg_low']:.3f}, {result.metrics['eval/avg_high']:.3f}]  "
        f"pass@{k} {result.metrics['eval/pass']:.3f}  maj@{k} {result.metrics['eval/majority']:.3f}  "
        f"length {result.metrics['eval/length']:.1f}"
    )
    return result.metrics["eval/avg"]


def _progress(step: int, steps: int, values: dict[str, float], accuracy: float | None, speed: float) -> str:
    clip = "  ".join(
        f"clip {side} {values[f'clip_fraction_{side}']:.4f}"
        for side in ("low", "high")
        if f"clip_fraction_{side}" in values
    )
    held = "" if accuracy is None else f"  acc {accuracy:.3f}"
    return (
        f"step {step:>{len(str(steps))}}/{steps}  reward {values['reward']:.3f}{held}  length {values['length']:.1f}  "
        f"entropy {values['entropy']:.3f}  {clip}  {speed:,.0f} tok/s"
    )
