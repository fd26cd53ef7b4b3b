"""What one rollout teaches: score it, weigh it, and take the optimizer steps over it."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrl_llm.algorithm import Algorithm, needs_exact_kl, next_controls
from jaxrl_llm.models.attend import implementation
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.sampling.keys import ORDER, step_key
from jaxrl_llm.sharding import row_devices, shard_rows, to_host
from jaxrl_llm.training.batch import Judged, Scored, rewards_of
from jaxrl_llm.training.collect import Completions, trim
from jaxrl_llm.training.layouts import Budget
from jaxrl_llm.training.offload import to_device_memory
from jaxrl_llm.training.packing import Packing, Saved, pack_batch
from jaxrl_llm.training.scoring import score_and_weigh
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import Session
from jaxrl_llm.training.step import Programs
from jaxrl_llm.training.update import CriticUpdate, PolicyUpdate, add_metrics
from jaxrl_llm.types import Array, Metrics, Params, Rollout, TrainBatch, TrainState


class Lesson(NamedTuple):
    """What a rollout step did.

    Attributes:
      state: after all its optimizer steps.
      means: of the rollout and of its updates, under the names of metrics.jsonl.
      rollout, judged, scored: what it learned from, on the mesh; see :func:`score_and_weigh` for the rows scored.
    """

    state: TrainState
    means: dict[str, float]
    rollout: Rollout
    judged: Judged
    scored: Scored


def learn(
    step: int,
    settings: Settings,
    session: Session,
    programs: Programs,
    state: TrainState,
    reference: Params | None,
    completions: Completions,
    greedy: Completions | None,
) -> Lesson:
    """All optimizer steps of one rollout.

    Args:
      step: of the rollout, from 1; in the first ``critic_warmup`` of them the policy does not learn.
      state: donated.
      reference: parameters of the reference policy, or None; those on the hosts are on the devices while they are read.
      greedy: one greedy completion of every problem, or None.
    """
    algorithm = settings.algorithm
    rollout = shard_rows(trim(completions.rollout), session.mesh)
    judged = _judged(settings, completions, greedy)
    saved: dict[str, Saved] = {}

    training, whole = settings.training, saves_rollout(settings, step)
    skips = training.skip_rows and not training.balancing_coefficient  # every row has experts to balance

    def passes_of_rollout(batch: Rollout | TrainBatch, policy: Algorithm | None) -> list[Packing]:
        work = passes_over(settings, session, batch, to_host(rollout.prompt_id), policy)
        saved.setdefault("score", work.saved)  # of what the step reads; what is scored for the file comes after it
        return work.passes

    scored, batch, controls, metrics = score_and_weigh(
        algorithm, programs, state, reference, rollout, judged, passes_of_rollout, skips=skips, whole=whole
    )
    state = dataclasses.replace(state, controls=controls)
    rows_of_parts = [np.asarray(rows) for rows in mini_batches(settings, step)]
    parts = [shard_rows(programs.slice(batch, rollout.prompt_id, rows), session.mesh) for rows in rows_of_parts]

    def passes(policy: Algorithm | None) -> list[Work]:
        groups = np.asarray(completions.rollout.prompt_id)
        return [
            passes_over(settings, session, part, groups[rows], policy)
            for part, rows in zip(parts, rows_of_parts, strict=True)
        ]

    if programs.critic is not None:
        work = passes(None)
        state, of_critic = _updates(programs.critic.update, state, parts, work)
        metrics = metrics | of_critic
        saved["critic"] = _sum(work)
    if step > (algorithm.critic_warmup or 0):
        in_loss = needs_exact_kl(algorithm) and algorithm.kl_placement == "loss"
        work = passes(algorithm if skips else None)
        others = [to_device_memory(reference)] if in_loss else []
        state, of_policy = _updates(programs.update, state, parts, work, *others)
        saved["update"] = _sum(work)
        controls, of_controls = next_controls(
            algorithm,
            state.controls,
            kl=of_policy["kl_ref"].value if "kl_ref" in of_policy else None,
            entropy=of_policy["entropy"].value,
            rows=len(completions.texts),
        )
        state = dataclasses.replace(state, controls=controls)
        metrics = metrics | of_policy | of_controls
    means = jax.device_get({name: mean.value for name, mean in metrics.items()})
    means = {name: float(mean) for name, mean in means.items()} | _shares(saved)
    return Lesson(state, means, rollout, judged, scored)


class Work(NamedTuple):
    """The passes over a part of a step, on the mesh, and what they saved."""

    passes: list[Packing]
    saved: Saved


def budget_of(settings: Settings, configs: Sequence[ModelConfig], mesh: Mesh) -> Budget:
    """What a pass of a run may hold, with that mesh set.

    Args:
      configs: of all networks that compute it; where the kernel of one has no trunks, no pass has them.
    """
    model, dtype = settings.model, jnp.dtype(settings.model.dtype)
    kernels = {implementation(model.attention, dtype, c.head_size, capped=c.attention_cap is not None) for c in configs}
    return Budget(
        settings.training.tokens_per_pass,
        row_devices(mesh),
        mesh.shape["sequence"],
        share=settings.training.pack,
        trees="splash" not in kernels,
    )


def passes_over(
    settings: Settings,
    session: Session,
    batch: Rollout | TrainBatch,
    groups: np.ndarray,
    algorithm: Algorithm | None = None,
) -> Work:
    """The passes over a batch.

    Args:
      groups: int [B], of the batch's rows.
      algorithm: if given, rows in which its policy finds no gradient are left out.
    """
    passes, saved = pack_batch(batch, groups, budget_of(settings, session.configs, session.mesh), algorithm)
    return Work([shard_rows(part, session.mesh) for part in passes], saved)


def _sum(work: list[Work]) -> Saved:
    return functools.reduce(operator.add, (part.saved for part in work))


def _shares(saved: dict[str, Saved]) -> dict[str, float]:
    return {f"saved/{name}/{what}": share for name, of in saved.items() for what, share in of.shares().items()}


def _updates(
    update: PolicyUpdate | CriticUpdate,
    state: TrainState,
    parts: list[TrainBatch],
    work: list[Work],
    *others: Params | None,
) -> tuple[TrainState, Metrics]:
    """One optimizer step for each part, and their metrics together."""
    totals: Metrics = {}
    for part, of_part in zip(parts, work, strict=True):
        state, metrics = update(state, part, of_part.passes, *others)
        totals = add_metrics(totals, metrics) if totals else metrics
    return state, totals


def _judged(settings: Settings, completions: Completions, greedy: Completions | None) -> Judged:
    samples = completions.samples
    origins = [problem.origin for problem in completions.problems]
    source = None
    if settings.data.source_key is not None:
        source = np.repeat(np.unique(np.array(origins), return_inverse=True)[1].astype(np.int32), samples)
    of_greedy = None
    if greedy is not None:
        judged = Judged(greedy.rewards, greedy.correct, greedy.parseable)
        rewards = rewards_of(settings.algorithm, greedy.rollout, judged, settings.sampling.max_tokens)
        of_greedy = np.repeat(np.asarray(rewards.total), samples)
    return Judged(completions.rewards, completions.correct, completions.parseable, source, of_greedy)


def saves_rollout(settings: Settings, step: int) -> bool:
    """Whether the rollout of a step is written to disk, with the scores of all its rows."""
    return settings.log.rollouts_every > 0 and step % settings.log.rollouts_every == 0


def mini_batches(settings: Settings, step: Array | int) -> list[Array]:
    """Row indices of every optimizer step of a rollout: groups in a seeded order, a new one for each pass."""
    prompts, samples = settings.data.prompts_per_step, settings.data.samples_per_prompt
    batches = []
    for epoch in range(settings.training.epochs):
        order = jnp.arange(prompts)
        if settings.training.mini_batches > 1:
            key = jax.random.fold_in(step_key(settings.seed, ORDER, step), epoch)
            order = jax.random.permutation(key, prompts)
        rows = (order[:, None] * samples + jnp.arange(samples)).reshape(-1)
        batches += jnp.split(rows, settings.training.mini_batches)
    return batches
