"""A whole run as one function of arrays: sample, judge, weigh, update, evaluate; many of them run side by side.

It is made of what `train` is made of. What differs: rows are laid out for their widest case instead of packed, all rows
are computed, and the judge reads tokens (:mod:`jaxrl_llm.study.lab.verify`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.algorithm import (
    LOG_RATIO_CLAMP,
    initial_controls,
    keep_groups,
    needs_exact_kl,
    needs_greedy,
    needs_reference,
    next_controls,
)
from jaxrl_llm.core import diagnostics, ratios
from jaxrl_llm.evaluation.evaluate import evaluation_sampling
from jaxrl_llm.sampling.generate import generate
from jaxrl_llm.sampling.keys import EVALUATION, GREEDY, ROLLOUT, step_key
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.study.lab.lanes import Lane, Problems, Seen, Transform, with_values
from jaxrl_llm.study.lab.verify import verify
from jaxrl_llm.training.batch import Judged, rewards_of
from jaxrl_llm.training.collect import greedy_sampling
from jaxrl_llm.training.learn import mini_batches
from jaxrl_llm.training.packing import plain
from jaxrl_llm.training.scoring import score_rollout
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.step import Programs, make_programs
from jaxrl_llm.types import Array, Mean, Metrics, Model, Params, Rollout, TrainBatch, TrainState

AXIS = "lanes"


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What all lanes of a program share.

    Attributes:
      settings: of one of them; keys that differ between lanes are read from the lane.
      kinds: int32 [V], see :func:`jaxrl_llm.study.lab.verify.token_kinds`.
      transform: of the batch of a rollout step, by a user's trick; None: none.
    """

    settings: Settings
    model: Model
    stop_ids: tuple[int, ...]
    pad_id: int
    kinds: np.ndarray
    transform: Transform | None = None


class Judgement(NamedTuple):
    """Completions and what they are worth; rows prompt-major."""

    rollout: Rollout
    judged: Judged


def eval_steps(settings: Settings) -> np.ndarray:
    """int [E], rollout steps after which a run is evaluated, as `train` does."""
    steps = np.arange(settings.steps + 1)
    return steps[(steps % settings.evaluation.every == 0) | (steps == settings.steps)]


def make_program(setup: Setup) -> Callable[[Lane], Seen]:
    """Lanes, stacked along a new first axis -> what they leave, stacked likewise."""
    return jax.jit(jax.vmap(functools.partial(_run, setup), axis_name=AXIS))


def _run(setup: Setup, lane: Lane) -> Seen:
    settings = with_values(setup.settings, {**lane.numbers, "seed": lane.seed})
    run = _Lane(setup, settings, lane)
    steps = np.arange(settings.steps + 1)
    due = np.isin(steps, eval_steps(settings))
    state = (run.first_state(), jnp.int32(0))

    def step(carry: Any, xs: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        """Evaluates what ``done`` steps have made of the policy, and takes the next one."""
        done, evaluates, learns = xs
        seen = _if(evaluates, run.evaluate, carry[0].params)
        (carry, of_step) = jax.lax.cond(learns, run.learn, run.rest, done + 1, carry)
        return carry, (seen, of_step)

    _, (seen, of_steps) = jax.lax.scan(step, state, jax.tree.map(jnp.asarray, (steps, due, steps < settings.steps)))
    evaluations = jax.tree.map(lambda x: x[np.flatnonzero(due)], seen)
    curves, counts = jax.tree.map(lambda x: x[:-1], of_steps)
    return Seen(curves, **evaluations, **jax.tree.map(lambda x: x.sum(axis=0), counts))


def _if(condition: Array, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, or zeros of its shapes; what is not computed costs nothing."""
    shapes = jax.eval_shape(function, *arguments)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.cond(condition, function, lambda *_: zeros, *arguments)


class _Lane:
    """The steps of one run. Everything in it may be traced but the structure of its settings."""

    def __init__(self, setup: Setup, settings: Settings, lane: Lane):
        self.setup, self.settings, self.lane = setup, settings, lane
        self.algorithm, self.samples = settings.algorithm, settings.data.samples_per_prompt
        self.programs: Programs = make_programs(settings, setup.model, None)
        self.update = dataclasses.replace(self.programs.update, observe=self._count_clipped)
        self.reference = lane.params if needs_reference(self.algorithm) else None
        parts = settings.training.mini_batches
        self.shared = self.samples if settings.data.prompts_per_step % parts == 0 else 1  # else a group is split

    def first_state(self) -> TrainState:
        params = self.lane.params
        of_optimizer, controls = self.programs.optimizer.init(params), initial_controls(self.algorithm)
        return TrainState(jnp.int32(0), params, {}, of_optimizer, controls, {}, {})

    # --- sampling and judging ---------------------------------------------------------------------------------------

    def complete(self, prepared: Params, problems: Problems, key: Array, samples: int, sampling: Sampling) -> Judgement:
        """Completions of every problem, judged."""
        rollout = generate(
            self.setup.model,
            prepared,
            problems.tokens,
            problems.length,
            problems.id,
            key,
            samples=samples,
            sampling=sampling,
            stop_ids=self.setup.stop_ids,
            pad_id=self.setup.pad_id,
            lanes=AXIS,
        )
        gold, length = (jnp.repeat(x, samples, axis=0) for x in (problems.gold, problems.gold_length))
        verdicts = verify(rollout.tokens, rollout.mask, jnp.asarray(self.setup.kinds), gold, length)
        paid = self.settings.reward
        unequal = jnp.where(verdicts.parseable, paid.wrong, paid.unparseable)
        rewards = jnp.where(verdicts.correct, paid.correct, unequal)
        if paid.truncated is not None:
            rewards = jnp.where(rollout.truncated, paid.truncated, rewards)
        return Judgement(rollout, Judged(rewards.astype(jnp.float32), verdicts.correct, verdicts.parseable))

    def evaluate(self, params: Params) -> dict[str, Array]:
        wanted, problems = self.settings.evaluation, self.lane.held_out
        key = step_key(self.settings.seed, EVALUATION, 0)
        sampling = evaluation_sampling(self.setup.settings)
        found = self.complete(self.setup.model.prepare(params), problems, key, wanted.samples, sampling)
        correct = found.judged.correct.reshape(-1, wanted.samples)
        texts = jnp.where(found.rollout.mask, found.rollout.tokens, -1)[:: wanted.samples][: wanted.texts]
        return {
            "accuracy": jnp.mean(correct, axis=1, dtype=jnp.float32),
            "texts": texts,
            "right": correct[: wanted.texts, 0],
        }

    def collect(self, prepared: Params, cursor: Array, key: Array) -> tuple[Judgement, Array, dict[str, Array]]:
        """What a step learns from, the place in the data after it, and counts; see ``training.collect.collect``."""
        prompts, rounds = self.settings.data.prompts_per_step, self.algorithm.resample_rounds

        def draw(cursor: Array) -> Judgement:
            problems = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, cursor, prompts), self.lane.prompts)
            return self.complete(prepared, Problems(*problems), key, self.samples, self.setup.settings.sampling)

        def keeps(part: Judgement) -> Array:
            """bool [P]."""
            ids, judged = part.rollout.prompt_id, part.judged
            kept = keep_groups(self.algorithm, judged.rewards, ids, correct=judged.correct)
            return kept[:: self.samples]

        if rounds == 1:
            part = draw(cursor)
            kept, used = keeps(part), jnp.int32(1)
        else:
            part, kept, used = self._refill(draw, keeps, cursor, rounds)
        counts = {"rounds": used, "groups_drawn": used * prompts, "groups_kept": jnp.minimum(kept.sum(), prompts)}
        if rounds > 1:
            undrawn = jnp.arange(rounds * prompts) >= used * prompts
            chosen = jnp.argsort(jnp.where(undrawn, 2, ~kept), stable=True)[:prompts]  # kept ones first, in order
            rows = (chosen[:, None] * self.samples + jnp.arange(self.samples)).reshape(-1)
            part = jax.tree.map(lambda x: x[rows], part)
            counts["effect/resample_rounds"] = jnp.mean(chosen >= prompts)
        return part, cursor + used * prompts, counts

    def _refill(
        self, draw: Callable[[Array], Judgement], keeps: Callable[[Judgement], Array], cursor: Array, rounds: int
    ) -> tuple[Judgement, Array, Array]:
        """All groups drawn, [rounds · P · G] rows; which of them are kept, [rounds · P]; and the rounds it took.

        Lanes draw together: one that is done goes along until all are, and what it draws then does not count.
        """
        prompts = self.settings.data.prompts_per_step
        shapes = jax.eval_shape(draw, cursor)
        drawn = jax.tree.map(lambda x: jnp.zeros((rounds * x.shape[0], *x.shape[1:]), x.dtype), shapes)

        def missing(kept: Array) -> Array:
            return kept.sum() < prompts

        def anyone(carry: Any) -> Array:
            turn, _, kept, _ = carry
            return (turn < rounds) & (jax.lax.pmax(missing(kept).astype(jnp.int32), AXIS) > 0)

        def again(carry: Any) -> Any:
            turn, drawn, kept, used = carry
            needed = missing(kept)
            part = draw(cursor + turn * prompts)
            rows = prompts * self.samples
            drawn = jax.tree.map(
                lambda all_, new: jax.lax.dynamic_update_slice_in_dim(all_, new, turn * rows, axis=0), drawn, part
            )
            kept = jax.lax.dynamic_update_slice_in_dim(kept, keeps(part) & needed, turn * prompts, axis=0)
            return turn + 1, drawn, kept, used + needed

        start = (jnp.int32(0), drawn, jnp.zeros(rounds * prompts, bool), jnp.int32(0))
        _, drawn, kept, used = jax.lax.while_loop(anyone, again, start)
        return drawn, kept, used

    # --- learning ---------------------------------------------------------------------------------------------------

    def learn(self, step: Array, carry: tuple[TrainState, Array]) -> tuple[tuple[TrainState, Array], Any]:
        """A rollout and its optimizer steps; see ``training.learn.learn``."""
        state, cursor = carry
        algorithm, programs = self.algorithm, self.programs
        prepared = self.setup.model.prepare(state.params)
        found, cursor, counts = self.collect(prepared, cursor, step_key(self.settings.seed, ROLLOUT, step))
        rollout, judged = found
        if needs_greedy(algorithm):
            judged = judged._replace(greedy_rewards=self._greedy_rewards(prepared, rollout, step))
        passes = [plain(rollout, self.samples)]
        scored = score_rollout(algorithm, programs, state, self.reference, rollout, lambda: passes)
        batch, controls, metrics = programs.batch(rollout, judged, scored, state.controls)
        state = dataclasses.replace(state, controls=controls)
        if self.setup.transform is not None:
            batch = self.setup.transform(batch)
        in_loss = needs_exact_kl(algorithm) and algorithm.kl_placement == "loss"
        others = [self.reference] if in_loss else []

        def update(state: TrainState, rows: Array) -> tuple[TrainState, Metrics]:
            part = programs.slice(batch, rollout.prompt_id, rows)
            return self.update(state, part, [plain(part, self.shared)], *others)

        state, of_updates = jax.lax.scan(update, state, jnp.stack(mini_batches(self.settings, step)))
        of_policy: Metrics = jax.tree.map(lambda x: x.sum(axis=0), of_updates)
        clipped = of_policy.pop("clipped").total
        controls, of_controls = next_controls(
            algorithm,
            state.controls,
            kl=of_policy["kl_ref"].value if "kl_ref" in of_policy else None,
            entropy=of_policy["entropy"].value,
            rows=rollout.mask.shape[0],
        )
        state = dataclasses.replace(state, controls=controls)
        metrics = metrics | of_policy | of_controls | _outcomes(judged)
        curves: dict[str, Any] = {name: mean.value for name, mean in metrics.items()} | counts
        curves["learning_rate"] = programs.learning_rate(state.step - 1)
        of_step = {
            "probability": diagnostics.probability_histogram(rollout.sampler_logprobs, rollout.mask),
            "clipped": clipped,
            "tokens": diagnostics.token_counts(rollout.tokens, rollout.mask, len(self.setup.kinds)),
        }
        return (state, cursor), (jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), curves), of_step)

    def rest(self, step: Array, carry: tuple[TrainState, Array]) -> tuple[tuple[TrainState, Array], Any]:
        """Nothing, in the shapes of :meth:`learn`."""
        shapes = jax.eval_shape(self.learn, step, carry)[1]
        return carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def _greedy_rewards(self, prepared: Params, rollout: Rollout, step: Array) -> Array:
        """float32 [B], with all additions, of a greedy completion of each row's prompt."""
        first = slice(None, None, self.samples)
        of_table = jnp.searchsorted(self.lane.prompts.id, rollout.prompt_id[first])  # rows of a task are in order
        problems = Problems(*jax.tree.map(lambda x: x[of_table], self.lane.prompts))
        key, sampling = step_key(self.settings.seed, GREEDY, step), greedy_sampling(self.setup.settings.sampling)
        greedy = self.complete(prepared, problems, key, 1, sampling)
        rewards = rewards_of(self.algorithm, greedy.rollout, greedy.judged, self.settings.sampling.max_tokens)
        return jnp.repeat(rewards.total, self.samples)

    def _count_clipped(self, logprobs: Array, batch: TrainBatch) -> Metrics:
        """Of each token of the vocabulary, how often its ratio was above the bound where A > 0."""
        high, vocabulary = self.algorithm.clip_high, len(self.setup.kinds)
        counts = jnp.zeros(vocabulary, jnp.float32)
        if high is not None:
            log_ratio = ratios.log_ratio(logprobs, batch.old_logprobs, batch.mask, clamp=LOG_RATIO_CLAMP)
            binds = diagnostics.clip_binds_high(jnp.exp(log_ratio), batch.advantages, high) & batch.mask
            counts = diagnostics.token_counts(batch.tokens, binds, vocabulary)
        return {"clipped": Mean(counts, jnp.ones(()))}


def _outcomes(judged: Judged) -> Metrics:
    correct, parseable = judged.correct, judged.parseable
    shares = {"correct": correct, "wrong": parseable & ~correct, "unparseable": ~parseable}
    none = {"outcome/timeout": Mean(jnp.zeros(()), jnp.ones(()))}
    return {f"outcome/{name}": Mean.of(where) for name, where in shares.items()} | none
