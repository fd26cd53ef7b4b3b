"""The training loop, read top to bottom: sample, judge, weigh, update, log, evaluate, save."""

from __future__ import annotations

import collections
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl_llm import distributed
from jaxrl_llm.algorithm import needs_greedy, needs_reference
from jaxrl_llm.data.prompts import Problem, PromptStream, fingerprint
from jaxrl_llm.evaluation.evaluate import evaluate
from jaxrl_llm.evaluation.metrics import BENCHMARKS_AVERAGE
from jaxrl_llm.models import hub
from jaxrl_llm.rewards.combine import Judge
from jaxrl_llm.rewards.equivalence import Outcome
from jaxrl_llm.sampling.keys import GREEDY, ROLLOUT, step_key
from jaxrl_llm.sharding import to_host
from jaxrl_llm.training import rollouts
from jaxrl_llm.training.checkpoint import Checkpoints, require_base
from jaxrl_llm.training.collect import Completions, collect, complete_greedily
from jaxrl_llm.training.learn import Lesson, budget_of, learn, passes_over, saves_rollout
from jaxrl_llm.training.log import RunLog
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import (
    Session,
    check_trainable,
    evaluation_problems,
    first_policy,
    open_session,
    reference_policy,
    training_problems,
    with_critic,
)
from jaxrl_llm.training.step import Programs, make_programs
from jaxrl_llm.types import Params, TrainState


def train(settings: Settings, *, config: dict[str, Any]) -> Path:
    """Runs, or goes on with, the run in ``settings.run_dir``, and returns that folder.

    The folder is claimed only after model and data have loaded: a mistake leaves nothing behind.

    Args:
      settings: checked by `config.check`.
      config: the same as plain values; the folder belongs to it, and a folder of another config is refused.
    """
    check_trainable(settings)
    with Judge(settings.reward) as judge:
        session = with_critic(open_session(settings))
        with jax.set_mesh(session.mesh):
            budget_of(settings, session.configs, session.mesh)  # refuses an attention kernel that cannot run here
        problems, dropped = training_problems(settings, session.tokenizer, judge)
        held_out = evaluation_problems(settings, session.tokenizer, judge) if settings.evaluation.every else []
        sources = {"data.source": problems, "evaluation.source": held_out}
        distributed.agree(lambda: {key: fingerprint(rows) for key, rows in sources.items()})
        with (
            RunLog(settings.run_dir, config, tensorboard=settings.log.tensorboard) as log,
            jax.set_mesh(session.mesh),
            Checkpoints(settings.run_dir, keep=settings.checkpoint.keep) as checkpoints,
        ):
            if dropped:
                log.console(f"{dropped} prompts longer than data.max_prompt_tokens were dropped")
            stream = PromptStream(problems, settings.seed)
            _train(settings, config, session, stream, held_out, judge, log, checkpoints)
    return Path(settings.run_dir)


def _train(
    settings: Settings,
    config: dict[str, Any],
    session: Session,
    stream: PromptStream,
    held_out: list[Problem],
    judge: Judge,
    log: RunLog,
    checkpoints: Checkpoints,
) -> None:
    programs = make_programs(settings, session.model, session.critic)
    reference = reference_policy(settings, session)
    base = hub.fingerprint(session.source)
    state, start = _start(settings, session, programs, stream, log, checkpoints, base)
    prepared = session.prepare(state.policy)
    accuracy: float | None = None
    if held_out and not start:
        accuracy = _evaluate(0, session, prepared, held_out, settings, judge, log)

    for step in range(start + 1, settings.steps + 1):
        begun = time.perf_counter()
        key = step_key(settings.seed, ROLLOUT, step)
        completions, counts = collect(session, prepared, stream, settings, judge, key)
        sampled = time.perf_counter()
        greedy = None
        if needs_greedy(settings.algorithm):
            key = step_key(settings.seed, GREEDY, step)
            greedy = complete_greedily(session, prepared, completions, settings, judge, key)
        baseline = time.perf_counter()
        del prepared  # the update needs its memory
        lesson = learn(step, settings, session, programs, state, reference, completions, greedy)
        state = lesson.state
        prepared = session.prepare(state.policy)
        values = lesson.means | counts | _of_texts(completions, greedy)
        values["learning_rate"] = _learning_rate(programs, state)
        seconds = time.perf_counter() - begun

        log.metrics(step, values)
        tokens = float(completions.rollout.mask.sum() + completions.rollout.prompt_length.sum())
        clock = {
            "seconds": seconds,
            "rollout_seconds": sampled - begun - completions.judge_seconds,
            "reward_seconds": completions.judge_seconds,
            "update_seconds": seconds - (baseline - begun),
            "tokens_per_second": tokens / seconds,
        }
        log.speed(step, clock if greedy is None else clock | {"greedy_seconds": baseline - sampled})
        if saves_rollout(settings, step):
            _save_rollout(step, settings, config, session, programs, lesson)
        last = step == settings.steps
        if held_out and (last or step % settings.evaluation.every == 0):
            accuracy = _evaluate(step, session, prepared, held_out, settings, judge, log)
        log.console(_progress(step, settings.steps, values, accuracy, tokens / seconds))
        preempted = checkpoints.preempted(step)
        if last or preempted or (settings.checkpoint.every and step % settings.checkpoint.every == 0):
            checkpoints.save(step, state, {"stream": stream.state(), "log": log.position(), "base": base})
        if preempted and not last:
            raise distributed.AgreedError(f"stopped by SIGTERM after step {step}; the same command goes on from there")


def _start(
    settings: Settings,
    session: Session,
    programs: Programs,
    stream: PromptStream,
    log: RunLog,
    checkpoints: Checkpoints,
    base: str,
) -> tuple[TrainState, int]:
    """The state to go on from, and the rollout steps that are done; data and log are put where they stood then.

    Raises:
      ValueError: the run needs the checkpoint that it began from, which has another fingerprint than ``base``.
    """
    state = programs.init_state(first_policy(settings, session), settings.algorithm, session.critic_params)
    start = checkpoints.latest or 0
    distributed.agree(lambda: {"last checkpoint": start})
    if not start:
        log.rewind({})
        return state, start
    state, extra = checkpoints.restore(start, state)
    if state.frozen or needs_reference(settings.algorithm):
        require_base(extra, base, settings.model.source)
    stream.restore(extra["stream"])
    log.rewind(extra["log"])
    log.console(f"going on after step {start} of {settings.steps}")
    return state, start


def _of_texts(completions: Completions, greedy: Completions | None) -> dict[str, float]:
    """Shares of the outcomes, the mean reward of each source that the data names, and the greedy texts' length."""
    counts = collections.Counter(completions.outcomes)
    values = {f"outcome/{outcome.value}": counts[outcome] / len(completions.outcomes) for outcome in Outcome}
    rewards: dict[str, list[float]] = collections.defaultdict(list)
    for row, reward in enumerate(completions.rewards):
        origin = completions.problems[row // completions.samples].origin
        if origin is not None:
            rewards[origin].append(float(reward))
    values |= {f"source/{origin}/reward": float(np.mean(of_source)) for origin, of_source in rewards.items()}
    if greedy is not None:
        values["greedy_length"] = float(np.asarray(greedy.rollout.mask).sum(axis=1).mean())
    return values


def _learning_rate(programs: Programs, state: TrainState) -> float:
    """Of the policy's last optimizer step; 0 before its first, while a critic warms up."""
    steps = int(state.step)
    return float(np.asarray(programs.learning_rate(steps - 1))) if steps else 0.0


def _save_rollout(
    step: int, settings: Settings, config: dict[str, Any], session: Session, programs: Programs, lesson: Lesson
) -> None:
    """With the scores of the policy that the step's updates left, which takes one more forward pass."""
    work = passes_over(settings, session, lesson.rollout, to_host(lesson.rollout.prompt_id))
    after = programs.score(lesson.state.policy, lesson.rollout, work.passes)
    arrays = to_host(
        {
            "rollout": lesson.rollout,
            "old_logprobs": lesson.scored.old_logprobs,
            "ref_logprobs": lesson.scored.ref_logprobs,
            "logprobs": after.logprobs,
            "entropy": after.entropy,
        }
    )
    if distributed.is_first():
        judged = lesson.judged._asdict()
        of_rows = {name: judged[name] for name in ("rewards", "correct", "parseable")}
        rollouts.save(settings.run_dir, rollouts.SavedRollout(step=step, config=config, **of_rows, **arrays))


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
    log.evaluation(step, result.problems, result.accuracy, result.benchmarks)
    log.samples(step, result.samples)
    k, average = settings.evaluation.samples, result.metrics.get(BENCHMARKS_AVERAGE)
    log.console(
        f"step {step}  held-out avg@{k} {result.metrics['eval/avg']:.3f} "
        f"[{result.metrics['eval/avg_low']:.3f}, {result.metrics['eval/avg_high']:.3f}]  "
        f"pass@{k} {result.metrics['eval/pass']:.3f}  maj@{k} {result.metrics['eval/majority']:.3f}  "
        f"length {result.metrics['eval/length']:.1f}"
        + ("" if average is None else f"  mean of benchmarks {average:.3f}")
    )
    return result.metrics["eval/avg"]


def _progress(step: int, steps: int, values: dict[str, float], accuracy: float | None, speed: float) -> str:
    parts = [f"step {step:>{len(str(steps))}}/{steps}", f"reward {values['reward']:.3f}"]
    if accuracy is not None:
        parts.append(f"acc {accuracy:.3f}")
    parts.append(f"length {values['length']:.1f}")
    for name, label, digits in (  # what there is: in a critic's warm-up the policy takes no step
        ("sampled_entropy", "entropy", 3),
        ("explained_variance", "critic explains", 3),
        ("effect/clip_low", "clip low", 4),
        ("effect/clip_high", "clip high", 4),
    ):
        if name in values:
            parts.append(f"{label} {values[name]:.{digits}f}")
    return "  ".join([*parts, f"{speed:,.0f} tok/s"])
