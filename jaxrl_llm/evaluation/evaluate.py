"""Accuracy of a policy on held-out problems: avg@k, pass@k, maj@k with intervals, and texts to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl_llm.data.prompts import Problem
from jaxrl_llm.evaluation.metrics import (
    BENCHMARKS_AVERAGE,
    average_at_k,
    benchmark_averages,
    majority_at_k,
    pass_at_k,
)
from jaxrl_llm.rewards import answers
from jaxrl_llm.rewards.combine import Judge
from jaxrl_llm.rewards.equivalence import Outcome
from jaxrl_llm.rewards.gold import short
from jaxrl_llm.sampling.keys import EVALUATION, step_key
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.training.collect import Completions, complete, join, prompt_ids
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import Session, evaluation_problems, open_session
from jaxrl_llm.types import Params


class Evaluation(NamedTuple):
    """What an evaluation leaves in the files of a run.

    Attributes:
      metrics: under the names of metrics.jsonl.
      problems: id of each problem.
      accuracy: share of right samples of each problem, of which avg@k is the mean.
      samples: rows of samples.jsonl.
      benchmarks: the benchmark of each problem; empty where the data names none.
    """

    metrics: dict[str, float]
    problems: list[int]
    accuracy: list[float]
    samples: list[dict[str, Any]]
    benchmarks: list[str]


def evaluation_sampling(settings: Settings) -> Sampling:
    """The distribution of an evaluation: the run's limit and stops, its own temperature and filters."""
    wanted = settings.evaluation
    return dataclasses.replace(
        settings.sampling, temperature=wanted.temperature, top_k=wanted.top_k, top_p=wanted.top_p, min_p=0.0
    )


def evaluate(
    session: Session, prepared: Params, problems: Sequence[Problem], settings: Settings, judge: Judge
) -> Evaluation:
    """Samples ``evaluation.samples`` completions of every problem and judges them.

    The keys depend on the seed and the problem only: every evaluation of a run draws with the same random numbers, so
    that the difference between two of them is the policy's.
    """
    samples, sampling = settings.evaluation.samples, evaluation_sampling(settings)
    # As many rows at a time as a training step has, so that memory is that of a step.
    count = max(1, settings.data.prompts_per_step * settings.data.samples_per_prompt // samples)
    key = step_key(settings.seed, EVALUATION, 0)
    parts: list[Completions] = []
    for start in range(0, len(problems), count):
        chosen = list(problems[start : start + count])
        padded = chosen + [chosen[0]] * (count - len(chosen) if start else 0)  # one shape, one compilation
        part = complete(
            session,
            prepared,
            padded,
            prompt_ids(padded),
            settings.data,
            judge,
            key,
            samples=samples,
            sampling=sampling,
        )
        parts.append(part.groups(np.arange(len(chosen))))
    return _summary(session, join(parts), settings)


def evaluate_source(settings: Settings) -> tuple[Evaluation, list[Problem]]:
    """What ``model.source`` makes of the problems of ``evaluation``, and the problems.

    Raises:
      FileNotFoundError, ValueError: as `open_session` and `evaluation_problems` say.
    """
    with Judge(settings.reward) as judge:
        session = open_session(settings)
        problems = evaluation_problems(settings, session.tokenizer, judge)
        with jax.set_mesh(session.mesh):
            return evaluate(session, session.prepare(session.params), problems, settings, judge), problems


def rates(evaluation: Evaluation, problems: Sequence[Problem], samples: int) -> list[dict[str, Any]]:
    """Of every problem, how many of its samples were right: rows that a data source can read.

    Args:
      evaluation: of ``problems``, with ``samples`` completions each.

    Returns:
      {"question", "answer", "correct", "samples"}, and "source" where the problem has one.
    """
    rows = []
    for problem, share in zip(problems, evaluation.accuracy, strict=True):
        row = {"question": problem.question, "answer": problem.answer, "correct": round(share * samples)}
        rows.append(row | {"samples": samples} | ({} if problem.origin is None else {"source": problem.origin}))
    return rows


def _summary(session: Session, completions: Completions, settings: Settings) -> Evaluation:
    count, samples = len(completions.problems), settings.evaluation.samples
    extracted = [answers.extract(text, settings.reward.answer_format) for text in completions.texts]
    correct = np.array([outcome is Outcome.CORRECT for outcome in completions.outcomes]).reshape(count, samples)
    votes = [None if answer is None else answers.normalize(answer) for answer in extracted]
    by_problem = [votes[i * samples : (i + 1) * samples] for i in range(count)]
    average, lengths = average_at_k(correct), completions.rollout.mask.sum(axis=1)
    metrics = {
        "eval/avg": average.value,
        "eval/avg_low": average.low,
        "eval/avg_high": average.high,
        "eval/pass": pass_at_k(correct, samples).value,
        "eval/majority": majority_at_k(by_problem, correct).value,
        "eval/length": float(lengths.mean()),
        "eval/truncated": float(completions.rollout.truncated.mean()),
    }
    accuracy = correct.mean(axis=1)
    benchmarks = [problem.origin for problem in completions.problems if problem.origin is not None]
    if benchmarks:
        averages = {name: float(value) for name, value in benchmark_averages(accuracy, benchmarks).items()}
        metrics |= {f"eval/{name}/avg": value for name, value in averages.items()}
        metrics[BENCHMARKS_AVERAGE] = float(np.mean(list(averages.values())))
    rows = []
    for i in range(min(settings.evaluation.texts, count)):
        row = i * samples  # the first sample of the problem
        prompt = completions.rollout.prompt_tokens[row, : completions.rollout.prompt_length[row]]
        rows.append(
            {
                "problem": completions.problems[i].id,
                "prompt": session.tokenizer.decode(prompt, keep_special=True),
                "completion": completions.texts[row],
                "answer": short(completions.problems[i].answer),
                "extracted": extracted[row],
                "reward": float(completions.rewards[row]),
                "outcome": completions.outcomes[row].value,
                "truncated": bool(completions.rollout.truncated[row]),
                "length": int(lengths[row]),
            }
        )
    ids = [problem.id for problem in completions.problems]
    return Evaluation(metrics, ids, accuracy.tolist(), rows, benchmarks)
