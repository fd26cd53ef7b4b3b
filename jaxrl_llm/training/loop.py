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
from jaxrl_llm.data.prompts import PromptStream
from jaxrl_llm.evaluation.evaluate import evaluate
from jaxrl_llm.rewards.combine import Judge
from jaxrl_llm.rewards.equivalence import Outcome
from jaxrl_llm.sampling.keys import ORDER, ROLLOUT, step_key
from jaxrl_llm.sharding import shard_rows
from jaxrl_llm.training.checkpoint import Checkpoints
from jaxrl_llm.training.collect import Completions, collect, trim
from jaxrl_llm.training.log import RunLog
from jaxrl_llm.training.optimizer import learning_rate, make_optimizer
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import evaluation_problems, open_session, training_problems
from jaxrl_llm.training.step import (
    add_metrics,
    init_state,
    make_batcher,
    make_scorer,
    make_slicer,
    make_update,
)
from jaxrl_llm.types import Metrics


def train(settings: Settings, *, config: dict[str, Any]) -> Path:
    """Runs, or goes on with, the run in ``settings.run_dir``, and returns that folder.

    Args:
      settings: checked by `config.check`.
      config: the same as plain values; the folder belongs to it, and a folder of another config is refused.
    """
    with (
        RunLog(settings.run_dir, config, tensorboard=settings.log.tensorboard) as log,
        Judge(settings.reward) as judge,
    ):
        session = open_session(settings)
        with jax.set_mesh(session.mesh), Checkpoints(settings.run_dir, keep=settings.checkpoint.keep) as checkpoints:
            _train(settings, session, judge, log, checkpoints)
    return Path(settings.run_dir)


def _train(settings: Settings, session: Any, judge: Judge, log: RunLog, checkpoints: Checkpoints) -> None:
    algorithm, training = settings.algorithm, settings.training
    problems, dropped = training_problems(settings, session.tokenizer, judge)
    held_out = evaluation_problems(settings, session.tokenizer, judge) if settings.evaluation.every else []
    if dropped:
        log.console(f"{dropped} prompts longer than data.max_prompt_tokens were dropped")
    stream = PromptStream(problems, settings.seed)

    rows = settings.data.prompts_per_step * settings.data.samples_per_prompt
    updates = training.epochs * training.mini_batches  # optimizer steps of a rollout
    rows_of_pass = training.micro_batch or rows // training.mini_batches
    optimizer = make_optimizer(settings.optimizer, settings.steps * updates)
    rate = learning_rate(settings.optimizer, settings.steps * updates)
    max_tokens = settings.sampling.max_tokens
    scorer = make_scorer(
        session.model, settings.sampling, micro_batches=rows // rows_of_pass, chunk=training.score_chunk
    )
    batcher, slicer = make_batcher(algorithm, max_tokens), make_slicer(algorithm, max_tokens)
    update = make_update(
        session.model,
        algorithm,
        settings.sampling,
        optimizer,
        micro_batches=rows // training.mini_batches // rows_of_pass,
        chunk=training.score_chunk,
    )

    # The update donates its state, so a reference policy keeps a copy of the parameters that the run starts from.
    reference = jax.tree.map(jnp.copy, session.params) if needs_reference(algorithm) else None
    state = init_state(session.params, optimizer)
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
        completions, counts = collect(
            session,
            prepared,
            stream,
            settings.data,
            algorithm,
            judge,
            step_key(settings.seed, ROLLOUT, step),
            sampling=settings.sampling,
        )
        sampled = time.perf_counter()
        rollout = shard_rows(trim(completions.rollout), session.mesh)
        old = scorer(state.params, rollout) if algorithm.old_logprobs == "trainer" else rollout.sampler_logprobs
        ref = None if reference is None else scorer(reference, rollout)
        batch, metrics = batcher(rollout, completions.rewards, old, ref)
        totals: Metrics | None = None
        for chosen in _mini_batches(settings, step):
            part = shard_rows(slicer(batch, rollout.prompt_id, chosen), session.mesh)
            state, of_update = update(state, part)
            totals = of_update if totals is None else add_metrics(totals, of_update)
        assert totals is not None
        prepared = session.prepare(state.params)
        means = jax.device_get({name: mean.value for name, mean in (metrics | totals).items()})
        values: dict[str, float] = {name: float(mean) for name, mean in means.items()}
        values |= counts | _outcomes(completions)
        values["learning_rate"] = float(rate(step * updates - 1))  # of the last optimizer step
        updated = time.perf_counter()

        last = step == settings.steps
        log.metrics(step, values)
        tokens = float(completions.rollout.mask.sum() + completions.rollout.prompt_length.sum())
        log.speed(
            step,
            {
                "seconds": updated - begun,
                "rollout_seconds": sampled - begun - completions.judge_seconds,
                "reward_seconds": completions.judge_seconds,
                "update_seconds": updated - sampled,
                "tokens_per_second": tokens / (updated - begun),
            },
        )
        if held_out and (last or step % settings.evaluation.every == 0):
            accuracy = _evaluate(step, session, prepared, held_out, settings, judge, log)
        log.console(_progress(step, settings.steps, values, accuracy, tokens / (updated - begun)))
        if last or (settings.checkpoint.every and step % settings.checkpoint.every == 0):
            checkpoints.save(step, state, {"stream": stream.state(), "log": log.position()})


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
    step: int, session: Any, prepared: Any, held_out: Any, settings: Settings, judge: Judge, log: RunLog
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
