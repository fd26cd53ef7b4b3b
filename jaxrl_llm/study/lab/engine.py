"""Runs the missing runs of a study as lanes of programs, and writes their records."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.data import tokens
from jaxrl_llm.data.prompts import Problem, PromptStream
from jaxrl_llm.data.templates import encode_prompts
from jaxrl_llm.data.tokens import Tokenizer
from jaxrl_llm.environment import cores
from jaxrl_llm.models import decoder, hub
from jaxrl_llm.rewards.combine import Judge
from jaxrl_llm.study import records
from jaxrl_llm.study.lab.lanes import Lane, Problems, Seen, Transform, numbers_of, refuse, structure_of
from jaxrl_llm.study.lab.program import Setup, eval_steps, make_program
from jaxrl_llm.study.lab.verify import gold_digits, token_kinds
from jaxrl_llm.study.plan import Job, Study
from jaxrl_llm.study.records import RunRecord
from jaxrl_llm.training import balancing
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import check_model, evaluation_problems, stop_ids, training_problems

LANES = 16  # of a program on one device or core at a time


class Checkpoint(NamedTuple):
    """A model that runs start from."""

    config: Any
    params: Any
    tokenizer: Tokenizer


class Planned(NamedTuple):
    """A run that is to be a lane."""

    job: Job
    settings: Settings
    transform: Transform | None
    hash: str


class Host:
    """What is read or generated once for all runs: checkpoints, and problems as arrays."""

    def __init__(self) -> None:
        self.checkpoint = functools.cache(self._checkpoint)
        self._of_data: dict[Any, tuple[Problems, list[Problem]]] = {}
        self._lock = threading.Lock()

    def _checkpoint(self, source: str) -> Checkpoint:
        path = hub.resolve(source)
        config = hub.load_config(path)
        return Checkpoint(config, jax.device_get(hub.load_params(path, config)), tokens.load(path))

    def setup(self, run: Planned) -> Setup:
        """Of the program of a run.

        Raises:
          ValueError: the run needs what this engine does not do, or its model is too small for it.
        """
        settings = run.settings
        config, _, tokenizer = self.checkpoint(settings.model.source)
        check_model(settings, settings.model.source, config, tokenizer)
        balancing.check(settings.training.balancing_coefficient, config)
        model = decoder.functions(config, dtype=jnp.dtype(settings.model.dtype), attention="xla")
        ends = stop_ids(settings, tokenizer)
        # one chunk of logits: a vocabulary of characters makes few
        settings = dataclasses.replace(
            settings,
            training=dataclasses.replace(settings.training, score_chunk=1 << 30),
            optimizer=dataclasses.replace(settings.optimizer, offload=False),
        )
        return Setup(settings, model, ends, tokenizer.pad_id, token_kinds(tokenizer), run.transform)

    def key_of(self, run: Planned) -> Any:
        """Runs of one key are lanes of one program."""
        config, _, tokenizer = self.checkpoint(run.settings.model.source)
        words = token_kinds(tokenizer).tobytes(), stop_ids(run.settings, tokenizer), tokenizer.pad_id
        return structure_of(run.settings), config, words, run.transform

    def lane(self, settings: Settings) -> Lane:
        """The data of a run."""
        prompts, held_out = self.prompts(settings)[0], self.held_out(settings)[0]
        numbers = {path: np.float32(value) for path, value in numbers_of(settings).items()}
        return Lane(np.int32(settings.seed), numbers, self.checkpoint(settings.model.source).params, prompts, held_out)

    def prompts(self, settings: Settings) -> tuple[Problems, list[Problem]]:
        """All problems that a run can draw, in the order of its stream."""
        count = settings.steps * settings.data.prompts_per_step * settings.algorithm.resample_rounds
        key = (settings.data, settings.model.source, settings.seed, count)

        def read(judge: Judge, tokenizer: Tokenizer) -> list[Problem]:
            return PromptStream(training_problems(settings, tokenizer, judge)[0], settings.seed).next(count)

        return self._table(key, settings, read)

    def held_out(self, settings: Settings) -> tuple[Problems, list[Problem]]:
        """The problems that a run is evaluated on."""
        key = (settings.data, settings.model.source, settings.evaluation)
        return self._table(key, settings, lambda judge, tokenizer: evaluation_problems(settings, tokenizer, judge))

    def _table(
        self, key: Any, settings: Settings, read: Callable[[Judge, Tokenizer], list[Problem]]
    ) -> tuple[Problems, list[Problem]]:
        with self._lock:
            if key not in self._of_data:
                tokenizer = self.checkpoint(settings.model.source).tokenizer
                with Judge(settings.reward) as judge:
                    problems = read(judge, tokenizer)
                self._of_data[key] = _as_arrays(problems, settings, tokenizer), problems
            return self._of_data[key]


def _as_arrays(problems: list[Problem], settings: Settings, tokenizer: Tokenizer) -> Problems:
    prompts = encode_prompts(problems, settings.data, tokenizer)
    table = np.full((len(prompts), settings.data.max_prompt_tokens), tokenizer.pad_id, np.int32)
    for row, prompt in enumerate(prompts):
        table[row, : len(prompt)] = prompt
    ids = np.array([problem.id for problem in problems], np.int32)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    return Problems(table, lengths, ids, *gold_digits([problem.answer for problem in problems]))


def run(study: Study, *, say: Callable[[str], None] = print, limit_lanes: int | None = None) -> None:
    """Writes every missing record of a study.

    Runs that differ only in seed, data, checkpoint and some numbers (:data:`~jaxrl_llm.study.lab.lanes.NUMERIC`) are
    lanes of one program. A block of lanes runs on each device at a time, on a CPU on each core; its records are written
    as it ends. A run whose numbers are no longer finite has the record of a failure; the others go on.

    Args:
      say: told of each block.
      limit_lanes: of a block; None: :data:`LANES`.

    Raises:
      ValueError: a run needs what this engine does not do; it names the arm.
    """
    host, groups = Host(), {}
    transforms = {arm.name: next((t.transform for t in arm.tricks if t.transform), None) for arm in study.arms}
    for job in study.missing():
        planned = Planned(job, study.run_settings(*job), transforms[job.arm], study.hash_of(*job))
        try:
            refuse(planned.settings)
            groups.setdefault(host.key_of(planned), []).append(planned)
        except ValueError as error:
            raise ValueError(f"arm {job.arm}, cell {job.cell}: {error}") from error
    total, done, begun = sum(map(len, groups.values())), 0, time.perf_counter()
    if not total:
        return
    slots = _slots()
    say(f"lab: {total} runs, {len(groups)} programs, {len(slots)} blocks at a time")
    for group in groups.values():
        for block, seconds in _run_group(study, host, group, slots, limit_lanes or LANES):
            done += len(block)
            arms, passed = ", ".join(dict.fromkeys(run.job.arm for run in block)), time.perf_counter() - begun
            say(f"lab: {done}/{total} runs, {passed:.0f} s; {len(block)} of {arms} in {seconds:.0f} s")


def _slots() -> list[Any]:
    """The devices that blocks run on, each once; a CPU once a core, whose programs are too small to use several."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    return [devices[0]] * cores()


def _run_group(
    study: Study, host: Host, group: list[Planned], slots: list[Any], limit: int
) -> Iterator[tuple[list[Planned], float]]:
    """Runs the lanes of one program, block after block, as many at a time as there are slots."""
    program = make_program(host.setup(group[0]))
    blocks = -(-len(group) // limit)
    blocks = -(-blocks // len(slots)) * len(slots) if len(group) >= len(slots) else blocks
    width = -(-len(group) // blocks)
    parts = [group[start : start + width] for start in range(0, len(group), width)]
    free = list(slots)

    def work(block: Sequence[Planned]) -> tuple[list[Planned], float]:
        device, begun = free.pop(), time.perf_counter()
        try:
            lanes = [host.lane(run.settings) for run in block]
            lanes += lanes[:1] * (width - len(lanes))  # one shape, one compilation
            stacked = jax.device_put(stack(lanes), device)
            seen = jax.device_get(program(stacked))
        finally:
            free.append(device)
        seconds = time.perf_counter() - begun
        for index, run_ in enumerate(block):
            of_lane = jax.tree.map(lambda x, index=index: x[index], seen)
            records.save(study.folder, record_of(host, run_, of_lane, seconds / len(block)))
        return list(block), seconds

    with concurrent.futures.ThreadPoolExecutor(len(slots)) as pool:
        for ended in concurrent.futures.as_completed([pool.submit(work, part) for part in parts]):
            yield ended.result()


def stack(lanes: list[Lane]) -> Lane:
    """Lanes along a new first axis; gold answers are padded to the longest."""

    def stack(*arrays: Any) -> np.ndarray:
        width = max((np.shape(x)[-1] for x in arrays if np.ndim(x) == 2), default=0)
        return np.stack([np.pad(x, ((0, 0), (0, width - x.shape[-1]))) if np.ndim(x) == 2 else x for x in arrays])

    return jax.tree.map(stack, *lanes)


def record_of(host: Host, run: Planned, seen: Seen, seconds: float) -> RunRecord:
    """What a lane leaves, or why it failed."""
    norms = seen.curves["gradient_norm"]
    if not np.isfinite(norms).all():
        step = int(np.flatnonzero(~np.isfinite(norms))[0]) + 1
        reason = f"the gradient was not finite in step {step}"
        return records.failure(*run.job, reason, seconds=seconds, config_hash=run.hash)
    tokenizer = host.checkpoint(run.settings.model.source).tokenizer
    steps = eval_steps(run.settings)
    return RunRecord(
        *run.job,
        curves=dict(seen.curves),
        eval_steps=steps,
        accuracy=seen.accuracy,
        counts={"probability": seen.probability, "clipped": seen.clipped, "tokens": seen.tokens},
        seconds=seconds,
        vocabulary=tuple(tokenizer.decode([i], keep_special=True) for i in range(len(seen.clipped))),
        samples=tuple(_samples(host, run.settings, seen, tokenizer)),
        config_hash=run.hash,
    )


def _samples(host: Host, settings: Settings, seen: Seen, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """The texts of the first evaluation and of the last."""
    steps, problems = eval_steps(settings), host.held_out(settings)[1]
    for evaluation in (0, len(steps) - 1):
        for row, problem in enumerate(problems[: settings.evaluation.texts]):
            text = seen.texts[evaluation, row]
            yield {
                "question": problem.question,
                "answer": problem.answer,
                "completion": tokenizer.decode(text[text >= 0]),
                "correct": bool(seen.right[evaluation, row]),
                "step": int(steps[evaluation]),
            }
