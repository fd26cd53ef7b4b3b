"""jaxrl_llm on the workloads of the speed comparison: the parts of a GRPO step, and what each benchmark prints of them.

`rollout.py`, `score.py`, `update.py` and `step.py` are this module's commands.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import clock, peak_gib, pin, report, versions
from workloads import PAD, STOP, WORKLOADS, Workload

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the configs

COMPILED = "/jax/core/compile/"  # how JAX's events of tracing, lowering and compiling begin
MOST_WARM_UPS = 4


def make_settings(workload: Workload, changes: Sequence[str]) -> Any:
    """GRPO without KL and with one optimizer step a rollout, as the peers are set."""
    from jaxrl_llm import config

    values = {
        "steps": 1000,
        "data.prompts_per_step": workload.prompts,
        "data.samples_per_prompt": workload.samples,
        "data.max_prompt_tokens": workload.max_prompt,
        "sampling.max_tokens": workload.max_tokens,
        "algorithm.kl_placement": "none",
        "algorithm.kl_estimator": None,
        "algorithm.kl_coefficient": 0.0,
        "optimizer.learning_rate": 1e-6,
        "training.mini_batches": 1,
        "evaluation.every": 0,
    }
    changes = [*(f"{key}={value}" for key, value in values.items()), *changes]
    return config.parse(config.load(ROOT / "configs/grpo.py", changes))


def padded_prompts(workload: Workload) -> np.ndarray:
    """int32 [P, max_prompt], right-padded."""
    tokens = np.full((workload.prompts, workload.max_prompt), PAD, np.int32)
    for row, ids in enumerate(workload.prompt_tokens):
        tokens[row, : len(ids)] = ids
    return tokens


def end_at_budgets(model: Any, workload: Workload) -> Any:
    """The model with logits that end every row at its length, and nowhere else.

    A column beside the hidden state says whether the token that comes next is the row's last. While a program samples
    whole groups, it knows its rows by their prompts: beside the keys of a prompt lie the lengths of its completions.
    From then on every row has its own length beside the keys of its first token.
    """
    import jax.numpy as jnp

    given = padded_prompts(workload)
    of_prompts = jnp.asarray(workload.lengths.reshape(workload.prompts, workload.samples))
    is_stop = jnp.arange(workload.shape.vocabulary) == STOP

    def flagged(hidden: Any, last: Any) -> Any:
        return jnp.concatenate([hidden, last[:, None].astype(hidden.dtype)], axis=-1)

    def split(cache: Any) -> tuple[Any, Any]:
        *keys, lengths = cache.keys
        return dataclasses.replace(cache, keys=tuple(keys)), lengths

    def joined(cache: Any, lengths: Any) -> Any:
        return dataclasses.replace(cache, keys=(*cache.keys, lengths))

    def prefill(prepared: Any, tokens: Any, length: Any) -> Any:
        hidden, cache = model.prefill(prepared, tokens, length)
        prompt = (tokens[:, None] == given).all(axis=-1).argmax(axis=1)
        lengths = of_prompts[prompt][:, None, None]  # the axes of keys
        return flagged(hidden, jnp.zeros(len(hidden))), joined(cache, lengths)

    def empty_cache(rows: int, width: int) -> Any:
        return joined(model.empty_cache(rows, width), jnp.zeros((rows, 1, 1, width), of_prompts.dtype))

    def decode(prepared: Any, token: Any, position: Any, prompt: Any, length: Any, cache: Any, column: Any) -> Any:
        (prompt, of_groups), (cache, of_rows) = split(prompt), split(cache)
        if len(token) == of_groups[:, 0, 0].size:  # whole groups
            of_rows = of_rows.at[..., 0].set(of_groups.reshape(-1, 1, 1))
        hidden, cache = model.decode(prepared, token, position, prompt, length, cache, column)
        return flagged(hidden, column + 2 == of_rows[:, 0, 0, 0]), joined(cache, of_rows)

    def unembed_prepared(prepared: Any, hidden: Any) -> Any:
        logits = model.unembed_prepared(prepared, hidden[..., :-1])
        last = hidden[..., -1:] > 0
        return jnp.where(last == is_stop, jnp.where(last, 0.0, logits), -jnp.inf)

    return model._replace(prefill=prefill, empty_cache=empty_cache, decode=decode, unembed_prepared=unembed_prepared)


class Ours:
    """A session with random weights of the workload's shape, and the parts of its step."""

    def __init__(self, workload: Workload, changes: Sequence[str]):
        import jax

        from jaxrl_llm.data.prompts import Problem
        from jaxrl_llm.models import decoder, prepared, weights
        from jaxrl_llm.models.config import ModelConfig
        from jaxrl_llm.rewards.equivalence import Outcome
        from jaxrl_llm.sharding import make_mesh
        from jaxrl_llm.training.setup import Session
        from jaxrl_llm.training.step import make_programs

        self.workload, shape = workload, workload.shape
        self.settings = make_settings(workload, changes)
        config = ModelConfig(
            family="qwen3", vocab_size=shape.vocabulary, width=shape.width, layers=shape.layers, heads=shape.heads,
            kv_heads=shape.kv_heads, head_size=shape.head_size, mlp_width=shape.mlp_width, norm_epsilon=1e-6,
            rope_theta=1e6, max_positions=40960, tied=shape.tied, qkv_bias=False, qk_norm=True,
        )  # fmt: skip
        chosen, mesh = self.settings.model, make_mesh(self.settings.mesh)
        options = {"dtype": chosen.dtype, "remat": chosen.remat, "attention": chosen.attention}
        transposed = prepared.transposes(config, np.dtype(chosen.dtype), mesh)
        model = decoder.functions(config, **options, transposed=transposed)
        jax.set_mesh(mesh)
        params = jax.jit(model.init, out_shardings=weights.shardings(config, mesh))(jax.random.key(workload.seed))
        tokenizer: Any = None  # prompts are ids, and completions are paid by the workload
        self.session = Session(mesh, Path(), config, model, params, tokenizer, stop_ids=(), transposed=transposed)
        self.sampler = end_at_budgets(model, workload) if workload.ragged else model
        self.programs = make_programs(self.settings, model, None)
        self.state = self.programs.init_state(params, self.settings.algorithm)
        self.problems = [Problem(i, "", "", "jsonl:", None) for i in range(workload.prompts)]
        self.outcomes = [Outcome.CORRECT if reward else Outcome.WRONG for reward in workload.rewards]
        self.steps = 0

    def rollout(self) -> Any:
        """Completions of every prompt, on the host; the sampling layout of the weights is made, and dropped."""
        from jaxrl_llm.sampling.keys import ROLLOUT, step_key
        from jaxrl_llm.training.parts import sample_on

        workload = self.workload
        lengths = np.array([len(ids) for ids in workload.prompt_tokens], np.int32)
        rollout = sample_on(
            self.session.mesh,
            self.sampler,
            self.session.prepare(self.state.params),
            padded_prompts(workload),
            lengths,
            np.arange(workload.prompts, dtype=np.int32),
            step_key(self.settings.seed, ROLLOUT, self.steps),
            samples=workload.samples,
            sampling=self.settings.sampling,
            stop_ids=(STOP,) if workload.ragged else (),
            pad_id=PAD,
        )
        found = rollout.mask.sum(axis=1)
        if (found != workload.lengths).any():
            raise RuntimeError(f"lengths of completions {found.tolist()}, expected {workload.lengths.tolist()}")
        return rollout

    def score(self, rollout: Any) -> Any:
        """Log-probabilities and entropies of all rows, without gradient."""
        import jax

        from jaxrl_llm.sharding import shard_rows
        from jaxrl_llm.training.collect import trim
        from jaxrl_llm.training.learn import passes_over

        mesh = self.session.mesh
        groups = np.asarray(rollout.prompt_id)
        rollout = shard_rows(trim(rollout), mesh)
        work = passes_over(self.settings, self.session, rollout, groups)
        return jax.block_until_ready(self.programs.score(self.state.params, rollout, work.passes))

    def update(self, rollout: Any) -> Any:
        """All that follows the rewards: advantages, packing, gradients, AdamW."""
        import jax

        from jaxrl_llm.training.collect import Completions
        from jaxrl_llm.training.learn import learn

        self.steps += 1
        texts = [""] * self.workload.rows
        completions = Completions(rollout, self.problems, texts, self.workload.rewards, self.outcomes, 0.0)
        lesson = learn(self.steps, self.settings, self.session, self.programs, self.state, None, completions, None)
        self.state = jax.block_until_ready(lesson.state)
        return lesson


def time_parts(ours: Ours, parts: Sequence[str]) -> dict[str, float]:
    """Seconds of each part, measured once, on one rollout."""
    times: dict[str, float] = {}
    with clock(times, "rollout"):
        rollout = ours.rollout()
    if "score" in parts:
        with clock(times, "score"):
            ours.score(rollout)
    if {"update", "step"} & set(parts):
        with clock(times, "update"):
            ours.update(rollout)
        times["step"] = times["rollout"] + times["update"]
    return {part: times[part] for part in parts}


def warm(measure: Callable[[], dict[str, float]], count: int) -> Iterator[dict[str, float]]:
    """``count`` measurements; one in which JAX traced or compiled anything does not count."""
    import jax

    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(COMPILED):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    thrown_away = 0
    while count:
        compiled.clear()
        found = measure()
        if not compiled:
            count -= 1
            yield found
        elif (thrown_away := thrown_away + 1) > MOST_WARM_UPS:
            raise RuntimeError(f"{thrown_away} measurements, and every one compiled something")


def main(parts: Sequence[str], text: str) -> None:
    """A benchmark's command: measures ``parts`` on one workload, beside the matrix rate before and after."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("--steps", type=int, default=2, help="measurements, after those that compile (default 2)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes a key of the config")
    parser.add_argument("--score", action="store_true", help="time the scoring forward pass too")
    arguments = parser.parse_args()
    pin()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from jaxrl_llm import environment

    environment.prepare()

    from timing import roofline

    workload = WORKLOADS[arguments.workload]
    parts = [*parts, "score"] if arguments.score and "score" not in parts else list(parts)
    before = roofline()
    ours = Ours(workload, arguments.set)
    times: dict[str, list[float]] = {part: [] for part in parts}
    for measured in warm(lambda: time_parts(ours, parts), arguments.steps):
        for part, seconds in measured.items():
            times[part].append(seconds)
            report("ours", workload.name, part, seconds, optimizer="adamw", versions=versions("jax"))
    after = roofline()
    for part, seconds in times.items():
        print(_line(workload, part, seconds, before, after), flush=True)


def _line(workload: Workload, part: str, seconds: list[float], before: float, after: float) -> str:
    """A measurement as a sentence."""
    middle, rate = statistics.median(seconds), (before + after) / 2
    needed = getattr(workload.needed, part)
    return (
        f"{workload.name} {part}: {middle:.2f} s ({min(seconds):.2f}-{max(seconds):.2f}), "
        f"{needed / 1e9:.0f} GFLOP needed, {needed / middle / 1e9:.0f} GFLOP/s, "
        f"{100 * needed / middle / rate:.0f} % of the matrix product's {before / 1e9:.0f} before and "
        f"{after / 1e9:.0f} after; peak {peak_gib():.2f} GiB"
    )
