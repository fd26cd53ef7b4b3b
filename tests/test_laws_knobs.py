"""No knob is inert: each value of the grid that tests draw from changes what is computed, and its effect is counted."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxrl_llm.algorithm import Algorithm
from jaxrl_llm.knobs import levels
from tests.strategies import GRID, Step, algorithm, differentiate, step

# What a knob of the grid needs beside it to be read at all.
BESIDE: dict[str, dict[str, Any]] = {
    "scale_ddof": {"scale": "batch"},
    "scale_epsilon": {"scale": "batch"},
    "batch_statistics": {"baseline": "batch"},
    "reward_combination": {"format_coefficient": 0.3, "scale": "batch"},
    "drop_clipped": {"surrogate": "cispo"},
    "dppo_by_sign": {"surrogate": "dppo"},
    "correction_normalize": {"old_logprobs": "trainer", "correction": "truncate"},
    "kl_importance": {"kl_placement": "loss", "kl_coefficient": 0.3},
    "kl_target": {"kl_placement": "loss", "kl_coefficient": 0.3},
    "aggregation_constant": {"aggregation": "constant"},
}
UNREAD_HERE = ("value_clip",)  # of the critic's own loss
OPTIONS = [option for options in GRID for option in options if option and not set(option) & set(UNREAD_HERE)]


class Switch(NamedTuple):
    """An algorithm with a knob off, and with it on."""

    off: Algorithm
    on: Algorithm
    knobs: tuple[str, ...]


def switches() -> list[Switch]:
    """One for each option of the grid that is not the base config's own value."""
    result = []
    for option in OPTIONS:
        beside = {k: v for name in option for k, v in BESIDE.get(name, {}).items() if k not in option}
        off, on = algorithm(**beside), algorithm(**beside | option)
        if off != on:
            result.append(Switch(off, on, tuple(k for k in option if getattr(off, k) != getattr(on, k))))
    return result


def name_of(switch: Switch) -> str:
    return "-".join(f"{name}={getattr(switch.on, name)}" for name in switch.knobs)


def computed(a: Algorithm, s: Step) -> tuple[list[np.ndarray], dict[str, float]]:
    """(mask, weights, advantages, loss and gradients, the effects that were counted)."""
    result, batch = s.advantages(a), s.batch(a)
    found = differentiate(a, s.logprobs, s.entropy, batch, s.exact_kl)
    arrays = [batch.mask, batch.weights, batch.advantages, found.loss, found.by_logprobs, found.by_entropy]
    return [np.asarray(x) for x in arrays], {
        name: float(mean.total) for name, mean in (result.metrics | found.metrics).items() if name.startswith("effect/")
    }


@pytest.mark.parametrize("switch", switches(), ids=name_of)
def test_a_knob_that_is_on_changes_what_is_computed_and_is_counted(switch: Switch):
    for seed in range(4):
        s = dataclasses.replace(step(seed, binary=seed % 2 == 0), truncated=np.arange(6) % 2 == 0)
        (before, _), (after, effects) = computed(switch.off, s), computed(switch.on, s)
        if any(np.any(x != y) for x, y in zip(before, after, strict=True)):
            counted = [effects[f"effect/{name}"] for name in switch.knobs if f"effect/{name}" in effects]
            assert not counted or any(counted)
            return
    pytest.fail("changed nothing in four steps")


def test_every_level_of_every_knob_of_named_levels_is_in_the_grid():
    named = {(name, value) for option in OPTIONS for name, value in option.items()}
    named |= {(name, value) for name, value in dataclasses.asdict(algorithm()).items()}
    missing = [
        (field.name, level)
        for field in dataclasses.fields(Algorithm)
        for level in levels(field.name)
        if (field.name, level) not in named
    ]
    assert not missing
