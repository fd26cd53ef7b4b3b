"""Which runs may be lanes of one program, and what differs between them: seed, data, parameters and some numbers."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxrl_llm.algorithm import needs_critic
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.types import TrainBatch

Transform = Callable[[TrainBatch], TrainBatch]

# Keys of a run's config that this engine does not read: where and how a run is computed and kept, not what it learns.
LAB_IGNORES = (
    "mesh",
    "distributed",
    "checkpoint",
    "log.tensorboard",
    "log.rollouts_every",
    "model.remat",
    "model.attention",
    "training.pack",
    "training.tokens_per_pass",
    "training.skip_rows",
    "training.score_chunk",
    "training.offload_reference",
    "optimizer.offload",
)

# Numbers that may differ between the lanes of one program; None is a structure of its own.
NUMERIC = (
    "algorithm.overlong_penalty",
    "algorithm.length_coefficient",
    "algorithm.scale_epsilon",
    "algorithm.reward_clip",
    "algorithm.advantage_clip",
    "algorithm.clip_low",
    "algorithm.clip_high",
    "algorithm.dual_clip",
    "algorithm.ratio_cap",
    "algorithm.sapo_temperature_positive",
    "algorithm.sapo_temperature_negative",
    "algorithm.kl_coefficient",
    "algorithm.aggregation_constant",
    "reward.correct",
    "reward.wrong",
    "reward.unparseable",
    "reward.truncated",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
)

# What comes to a lane as data.
_SOURCE = ("source", "tier", "split", "question_key", "answer_key")
_DATA = (
    *("seed", "run_dir", "model.source", "reward.timeout", "reward.timeout_seconds", "reward.sandbox"),
    *(f"data.{key}" for key in (*_SOURCE, "template", "system", "long_prompts")),
    *(f"evaluation.{key}" for key in _SOURCE),
)


def _flat(section: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of every key."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        path, value = prefix + field.name, getattr(section, field.name)
        values |= _flat(value, f"{path}.") if dataclasses.is_dataclass(value) else {path: value}
    return values


def numbers_of(settings: Settings) -> dict[str, float]:
    """The numbers of a run that are data of its lane, by dotted path."""
    found = {path: _value(settings, path) for path in NUMERIC}
    if settings.algorithm.surrogate == "cispo":  # which metrics it has depends on whether clip_low is 1
        del found["algorithm.clip_low"]
    return {path: float(value) for path, value in found.items() if value is not None}


def _value(settings: Settings, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), settings)


def structure_of(settings: Settings) -> tuple[tuple[str, Any], ...]:
    """What two runs must have in common to be lanes of one program."""
    skipped = {*_DATA, *numbers_of(settings)}
    return tuple(
        (path, value)
        for path, value in _flat(settings).items()
        if path not in skipped and not any(path == key or path.startswith(f"{key}.") for key in LAB_IGNORES)
    )


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """A copy in which some keys have traced values, by dotted path; the settings' own checks are not made again."""
    changed = copy.copy(settings)
    sections: dict[str, Any] = {}
    for path, value in values.items():
        holder, (*parents, name) = changed, path.split(".")
        for depth, parent in enumerate(parents):
            of_section = ".".join(parents[: depth + 1])
            if of_section not in sections:
                sections[of_section] = copy.copy(getattr(holder, parent))
                object.__setattr__(holder, parent, sections[of_section])
            holder = sections[of_section]
        object.__setattr__(holder, name, value)
    return changed


def refuse(settings: Settings) -> None:
    """Raises ValueError where a run needs what this engine does not do; it names key, value and the way out."""
    for found, key, value, expected in (
        (needs_critic(settings.algorithm), "algorithm.baseline", settings.algorithm.baseline, "any but critic"),
        (settings.lora.rank is not None, "lora.rank", settings.lora.rank, "None"),
        (settings.model.param_dtype != "float32", "model.param_dtype", settings.model.param_dtype, "'float32'"),
        (settings.reward.verifier != "exact", "reward.verifier", settings.reward.verifier, "'exact'"),
        (settings.reward.answer_format != "hash", "reward.answer_format", settings.reward.answer_format, "'hash'"),
        (not settings.data.source.startswith("task:"), "data.source", settings.data.source, "'task:NAME'"),
        (settings.evaluation.every == 0, "evaluation.every", 0, "1 or more"),
        (jax.process_count() > 1, "processes", jax.process_count(), "one"),
    ):
        if found:
            raise ValueError(f"{key} = {value!r}: expected {expected} with the engine lab; the engine train has it all")


class Problems(NamedTuple):
    """Prompts and gold answers of a lane; N rows.

    Attributes:
      tokens: int32 [N, Q], right-padded.
      length: int32 [N].
      id: int32 [N].
      gold: int32 [N, D], see :func:`jaxrl_llm.study.lab.verify.gold_digits`.
      gold_length: int32 [N].
    """

    tokens: Any
    length: Any
    id: Any
    gold: Any
    gold_length: Any


class Lane(NamedTuple):
    """What a lane of a program has for itself.

    Attributes:
      seed: int32.
      numbers: dotted path -> float32, see :data:`NUMERIC`.
      params: that the run starts from.
      prompts: in the order of the run's stream, as many as it can draw at most.
      held_out: that it is evaluated on.
    """

    seed: Any
    numbers: dict[str, Any]
    params: Any
    prompts: Problems
    held_out: Problems


class Seen(NamedTuple):
    """What a lane leaves; arrays. S rollout steps, E evaluations, N held-out problems, the first X of them with a text.

    Attributes:
      curves: metric -> float32 [S].
      accuracy: float32 [E, N].
      texts: int32 [E, X, T], the first completion of a problem; -1 behind its end.
      right: bool [E, X].
      probability: float32 [6], see ``core.diagnostics.probability_histogram``.
      clipped: float32 [V], tokens whose upper clip bound held the gradient back.
      tokens: float32 [V], tokens sampled.
    """

    curves: dict[str, Any]
    accuracy: Any
    texts: Any
    right: Any
    probability: Any
    clipped: Any
    tokens: Any
