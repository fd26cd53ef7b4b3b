"""Random cases of the reference kinds: sampled params, ragged masks, uneven groups, extremes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.oracles.kinds_basics import Inputs
from tests.oracles.kinds_loss_params import Grid

VOCABULARY = 5


def grid_samples(rng: np.random.Generator, grid: Grid, number: int) -> Iterator[dict[str, Any]]:
    """``number`` points of a grid in which every value of every param occurs, if it has at most ``number`` of them."""
    columns = {}
    for name, values in grid.items():
        order = [i for _ in range(-(-number // len(values))) for i in rng.permutation(len(values))]
        columns[name] = [values[i] for i in order[:number]]
    for i in range(number):
        yield {name: column[i] for name, column in columns.items()}


def a_mask(rng: np.random.Generator, shape: tuple[int, int], style: str) -> np.ndarray:
    rows, width = shape
    mask = np.ones(shape, np.int32)
    if style != "full":
        mask = (np.arange(width) < rng.integers(1, width + 1, rows)[:, None]).astype(np.int32)
    if style in ("gaps", "empty"):
        mask = (rng.random(shape) < 0.7).astype(np.int32)
    if style == "empty":
        mask[rng.integers(rows)] = 0
    if style == "gaps" or not mask.any():
        mask[np.arange(rows), rng.integers(0, width, rows)] = 1
    return mask


def a_group(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Uneven groups in any order, some of one row, with numbers that mean nothing."""
    return np.array([903, -2, 11, 40])[rng.integers(0, rng.integers(1, 5), rows)].astype(np.int32)


def inputs_of(
    rng: np.random.Generator, names: list[str], shape: tuple[int, int], style: str, far: float | None
) -> Inputs:
    """Inputs by name; floats are numbers that float32 holds. ``far``: one log-ratio is this large."""
    rows, width = shape
    log_prob = -rng.exponential(1.0, shape)

    def near(size: float = 0.3) -> np.ndarray:
        return log_prob + size * rng.normal(size=shape)

    def distributions(size: float) -> np.ndarray:
        logits = size * rng.normal(size=(*shape, VOCABULARY))
        return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))

    old = near()
    if far is not None:
        old[rng.integers(rows), rng.integers(width)] += far * rng.choice([-1, 1])
    row_advantages = np.where(rng.random(rows) < 0.15, 0.0, rng.normal(size=rows))
    makers = {
        "mask": lambda: a_mask(rng, shape, style),
        "group": lambda: a_group(rng, rows),
        "rewards": lambda: rng.integers(0, 2, rows) * 1.0 if rng.random() < 0.3 else rng.normal(size=rows),
        "scores": lambda: rng.integers(0, 2, rows) * 1.0,
        "reward_columns": lambda: rng.normal(size=(rows, 3)),
        "reward_batches": lambda: 2 + 3 * rng.normal(size=(4, rows)),
        "weights": lambda: rng.normal(size=3),
        "unscored": lambda: (rng.random(rows) < 0.3).astype(np.int32),
        "row_advantages": lambda: row_advantages,
        "advantages": lambda: row_advantages if rng.random() < 0.5 else rng.normal(size=shape),
        "log_prob": lambda: log_prob,
        "old_log_prob": lambda: old,
        "ref_log_prob": lambda: old if far is not None else near(),
        "rollout_log_prob": lambda: near(),
        "train_log_prob": lambda: log_prob,
        "is_weights": lambda: np.exp(0.3 * rng.normal(size=shape)),
        "entropy": lambda: rng.exponential(1.0, shape),
        "sum_pi_squared": lambda: rng.random(shape),
        "old_log_prob_sum": lambda: log_prob.sum(axis=1) + 0.2 * rng.normal(size=rows),
        "baseline": lambda: rng.normal(size=rows),
        "row_weights": lambda: rng.random(rows),
        "lengths": lambda: rng.integers(0, 110, 12).astype(np.int32),
        "kl_series": lambda: rng.exponential(0.2, 6),
        "samples": lambda: rng.integers(1, 50, 6).astype(np.int32),
        "labels": lambda: rng.integers(0, VOCABULARY, shape).astype(np.int32),
        "logits": lambda: 3 * rng.normal(size=(*shape, VOCABULARY)),
        "log_probs": lambda: distributions(2.0),
        "ref_log_probs": lambda: distributions(2.0),
    }
    known_as = {
        "reward_columns": "rewards",
        "reward_batches": "rewards",
        "row_advantages": "advantages",
        "kl_series": "kl",
    }
    result = {}
    for name in names:
        made = makers[name]() if name in makers else rng.normal(size=shape)
        result[known_as.get(name, name)] = made if made.dtype.kind == "i" else np.float64(np.float32(made))
    return result


def random_inputs(
    rng: np.random.Generator, always: list[str], sometimes: list[str], params: dict[str, Any], shape: tuple[int, int]
) -> Inputs:
    """Inputs for a kind: what it always has, some of what it may have, and what its params ask for."""
    asked_for = {"top_entropy": "entropy", "off_policy_mask": "rollout_log_prob", "kl": "ref_log_prob"}
    names = always + [name for name in sometimes if rng.random() < 0.5]
    names += [name for param, name in asked_for.items() if isinstance(params.get(param), dict | float)]
    far = 25.0 if params.get("log_ratio_clamp") is not None and rng.random() < 0.4 else None
    inputs = inputs_of(rng, names, shape, rng.choice(["full", "prefix", "gaps", "empty"]), far)
    if "when_empty" in params.get("agg", {}):
        inputs["mask"][:] = 0
    return inputs
