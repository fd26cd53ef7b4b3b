"""From problems to judged completions: encode, sample, decode, judge, and refill the batch where groups are dropped."""

from __future__ import annotations

import collections
import dataclasses
import time
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm import distributed
from jaxrl_llm.algorithm import keep_groups
from jaxrl_llm.data.prompts import DataSettings, Problem, PromptStream
from jaxrl_llm.data.templates import encode_prompts
from jaxrl_llm.rewards.combine import Judge
from jaxrl_llm.rewards.equivalence import Outcome
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.training.layouts import bucket
from jaxrl_llm.training.parts import sample_on
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import Session
from jaxrl_llm.types import Array, Params, Rollout


class Completions(NamedTuple):
    """Judged completions; arrays on the host, rows prompt-major.

    Attributes:
      problems: one a group.
      texts: B, without special tokens.
      rewards: float32 [B], as judged, before any shaping.
      outcomes: B.
      judge_seconds: what judging took.
    """

    rollout: Rollout
    problems: list[Problem]
    texts: list[str]
    rewards: np.ndarray
    outcomes: list[Outcome]
    judge_seconds: float

    @property
    def correct(self) -> np.ndarray:
        """bool [B]; ``reward.truncated`` changes what a row is paid, not whether it is right."""
        return np.array([outcome is Outcome.CORRECT for outcome in self.outcomes])

    @property
    def parseable(self) -> np.ndarray:
        """bool [B], whether an answer was found."""
        return np.array([outcome is not Outcome.UNPARSEABLE for outcome in self.outcomes])

    @property
    def samples(self) -> int:
        """G."""
        return len(self.texts) // len(self.problems)

    def groups(self, kept: np.ndarray) -> Completions:
        """Only the groups at the indices ``kept``."""
        rows = (kept[:, None] * self.samples + np.arange(self.samples)).reshape(-1)
        return Completions(
            jax.tree.map(lambda x: x[rows], self.rollout),
            [self.problems[i] for i in kept],
            [self.texts[i] for i in rows],
            self.rewards[rows],
            [self.outcomes[i] for i in rows],
            self.judge_seconds,
        )


def prompt_ids(problems: Sequence[Problem]) -> np.ndarray:
    """One number a prompt, int32 [P]: the problem's, and where a problem comes again, another one of its own.

    A batch at the end of an epoch may hold a problem twice; its second group must be a group, with texts of its own.
    """
    seen: collections.Counter[int] = collections.Counter()
    ids = []
    for problem in problems:
        again = seen[problem.id]
        ids.append(problem.id if again == 0 else -1 - (zlib.crc32(f"{problem.id}/{again}".encode()) >> 1))
        seen[problem.id] += 1
    return np.array(ids, np.int32)


def complete(
    session: Session,
    prepared: Params,
    problems: Sequence[Problem],
    ids: np.ndarray,
    data: DataSettings,
    judge: Judge,
    key: Array,
    *,
    samples: int,
    sampling: Sampling,
) -> Completions:
    """Samples and judges ``samples`` completions of every problem.

    Of several processes each decodes and judges its own share of the rows, and all of them get all results.

    Args:
      session: tokenizer, model and mesh.
      prepared: parameters in the sampling layout.
      problems: P of them.
      ids: int32 [P], see :func:`prompt_ids`.
      data: the template and the limit of a prompt.
      judge: of the completions.
      key: of this step.
      samples: G.
      sampling: the distribution.
    """
    tokenizer = session.tokenizer
    prompts = encode_prompts(problems, data, tokenizer)
    width = bucket(max(map(len, prompts)), data.max_prompt_tokens)
    tokens = np.full((len(prompts), width), tokenizer.pad_id, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    rollout = sample_on(
        session.mesh,
        session.model,
        prepared,
        tokens,
        lengths,
        ids,
        key,
        samples=samples,
        sampling=sampling,
        stop_ids=session.stop_ids,
        pad_id=tokenizer.pad_id,
    )
    return _judged(session, rollout, list(problems), judge)


def _judged(session: Session, rollout: Rollout, problems: list[Problem], judge: Judge) -> Completions:
    """``rollout`` on the host, the same on every process."""
    rows = rollout.tokens.shape[0]
    mine = distributed.share(rows)
    texts = [
        session.tokenizer.decode(row[mask]) for row, mask in zip(rollout.tokens[mine], rollout.mask[mine], strict=True)
    ]
    gold = [problem.answer for problem in problems for _ in range(rows // len(problems))]
    begun = time.perf_counter()
    rewards, outcomes = judge.judge(texts, gold[mine], np.asarray(rollout.truncated)[mine])
    parts = distributed.gather([texts, rewards.tolist(), [outcome.value for outcome in outcomes]])
    texts, paid, told = ([x for part in parts for x in part[column]] for column in range(3))
    return Completions(
        rollout,
        problems,
        texts,
        np.array(paid, np.float32),
        [Outcome(value) for value in told],
        time.perf_counter() - begun,
    )


def join(parts: Sequence[Completions]) -> Completions:
    """The groups of several rollouts; prompts are padded to the widest."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.rollout.prompt_tokens.shape[1] for part in parts)

    def widen(rollout: Rollout) -> Rollout:
        tokens = np.asarray(rollout.prompt_tokens)
        return dataclasses.replace(rollout, prompt_tokens=np.pad(tokens, ((0, 0), (0, width - tokens.shape[1]))))

    rollouts = [widen(part.rollout) for part in parts]
    return Completions(
        jax.tree.map(lambda *arrays: np.concatenate(arrays), *rollouts),
        [problem for part in parts for problem in part.problems],
        [text for part in parts for text in part.texts],
        np.concatenate([part.rewards for part in parts]),
        [outcome for part in parts for outcome in part.outcomes],
        sum(part.judge_seconds for part in parts),
    )


def collect(
    session: Session, prepared: Params, stream: PromptStream, settings: Settings, judge: Judge, key: Array
) -> tuple[Completions, dict[str, float]]:
    """The completions that a step learns from, and counts for the log.

    With a group filter and ``resample_rounds`` above 1, prompts are drawn until the batch holds nothing but groups that
    the filter keeps, or the rounds are over (DAPO's dynamic sampling, Yu et al., 2025, arXiv 2503.14476, section 3.2).
    What is then still missing is filled with groups that were not kept: they have no gradient, and shapes stay.
    The filter reads the rewards as judged, before any shaping.
    """
    data, algorithm = settings.data, settings.algorithm
    count, samples = data.prompts_per_step, data.samples_per_prompt
    parts: list[Completions] = []
    drawn: list[Problem] = []
    keeps = np.zeros(0, bool)  # of every group drawn
    for _ in range(algorithm.resample_rounds):
        fresh = stream.next(count)
        ids = prompt_ids([*drawn, *fresh])[len(drawn) :]
        drawn += fresh
        part = complete(session, prepared, fresh, ids, data, judge, key, samples=samples, sampling=settings.sampling)
        parts.append(part)
        of_rows = keep_groups(
            algorithm, jnp.asarray(part.rewards), part.rollout.prompt_id, correct=jnp.asarray(part.correct)
        )
        keeps = np.append(keeps, np.asarray(of_rows)[::samples])
        if keeps.sum() >= count:
            break
    kept_first = np.argsort(~keeps, kind="stable")[:count]
    counts: dict[str, float] = {
        "rounds": len(parts),
        "groups_drawn": len(drawn),
        "groups_kept": min(int(keeps.sum()), count),
    }
    if algorithm.resample_rounds > 1:
        counts["effect/resample_rounds"] = float((kept_first >= count).mean())  # groups of a later round
    return join(parts).groups(kept_first), counts


def greedy_sampling(sampling: Sampling) -> Sampling:
    """The likeliest token of the whole vocabulary at every place; limit and stops as in ``sampling``."""
    return dataclasses.replace(sampling, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)


def complete_greedily(
    session: Session, prepared: Params, completions: Completions, settings: Settings, judge: Judge, key: Array
) -> Completions:
    """One greedy completion of every problem of ``completions``, judged: one row a group.

    Reference: Li et al., 2023, arXiv 2310.10505 (ReMax), whose baseline is its reward.
    """
    greedy = greedy_sampling(settings.sampling)
    ids = np.asarray(completions.rollout.prompt_id)[:: completions.samples]
    return complete(session, prepared, completions.problems, ids, settings.data, judge, key, samples=1, sampling=greedy)


def trim(rollout: Rollout) -> Rollout:
    """Cuts columns that no row reaches, down to one of a few widths."""
    limit = rollout.tokens.shape[1]
    width = bucket(max(1, int(rollout.mask.any(axis=0).nonzero()[0].max(initial=0)) + 1), limit)
    columns = ("tokens", "mask", "sampler_logprobs")
    return dataclasses.replace(rollout, **{name: getattr(rollout, name)[:, :width] for name in columns})
