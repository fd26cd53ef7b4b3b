"""One number a row: what a baseline takes from the reward, and what a scale divides the rest by."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxrl_llm.algorithm.rewards import Rewards
from jaxrl_llm.core import advantages as core
from jaxrl_llm.core import masks, running
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Mean, Metrics


class Rows(NamedTuple):
    """One reward a row, and all that a baseline or a scale may read; [B] each.

    Attributes:
      scope: rows with the same number are one batch.
      length: tokens of the completion.
    """

    algorithm: Algorithm
    rewards: Array
    prompt_id: Array
    scored: Array
    scope: Array
    length: Array
    greedy_rewards: Array | None
    moments: running.Moments | None

    def args(self) -> tuple[Array, Array, Array]:
        return self.rewards, self.prompt_id, self.scored

    def batch(self) -> tuple[Array, Array, Array]:
        return self.rewards, self.scope, self.scored


def _minus_greedy(rows: Rows) -> Array:
    if rows.greedy_rewards is None:
        raise ValueError("algorithm.baseline = 'greedy' but greedy_rewards is None: expected the rewards [B]")
    return masks.keep(core.minus_nothing(*rows.args()) - rows.greedy_rewards, rows.scored)


def _moments(rows: Rows) -> running.Moments:
    assert rows.moments is not None
    return rows.moments


BASELINES: dict[str, Callable[[Rows], Array]] = {
    "none": lambda rows: core.minus_nothing(*rows.args()),
    "group": lambda rows: core.minus_group_mean(*rows.args()),
    "batch": lambda rows: core.minus_group_mean(*rows.batch()),  # the batch is one group
    "leave_one_out": lambda rows: core.minus_mean_of_others(*rows.args()),
    "running": lambda rows: masks.keep(core.minus_nothing(*rows.args()) - _moments(rows).mean, rows.scored),
    "length_weighted": lambda rows: core.minus_length_weighted_mean(
        rows.rewards, rows.length, rows.prompt_id, rows.scored
    ),
    "pass_at_k": lambda rows: core.lead_of_best(*rows.args()),
    "greedy": _minus_greedy,
    "optimal_token": lambda rows: core.minus_nothing(*rows.args()),  # what is taken differs by token
    "critic": lambda rows: core.minus_nothing(*rows.args()),
}


def _divide_by(std: Callable[[Rows], Array]) -> Callable[[Rows, Array], Array]:
    def scaled(rows: Rows, centred: Array) -> Array:
        spread = std(rows)
        return jnp.where(spread > 0, core.scaled(centred, spread, epsilon=rows.algorithm.scale_epsilon), 0)

    return scaled


def _centred_batch_std(rows: Rows) -> Array:
    within = core.minus_group_mean(*rows.args())
    return core.group_std(within, rows.scope, rows.scored, ddof=rows.algorithm.scale_ddof)


SCALES: dict[str, Callable[[Rows, Array], Array]] = {
    "none": lambda rows, centred: centred,
    "group": _divide_by(lambda rows: core.group_std(*rows.args(), ddof=rows.algorithm.scale_ddof)),
    "batch": _divide_by(lambda rows: core.group_std(*rows.batch(), ddof=rows.algorithm.scale_ddof)),
    "batch_centered": _divide_by(_centred_batch_std),
    "running": _divide_by(lambda rows: jnp.broadcast_to(running.std(_moments(rows)), rows.rewards.shape)),
    "nonzero_share": lambda rows, centred: core.nonzero_share_scaled(centred, rows.rewards, rows.scored),
}


def row_values(rows: Rows, rewards: Rewards) -> tuple[Array, Metrics]:
    """One number a row, [B]: of the sum of the rewards, or of each by itself and then the weighted sum."""
    a = rows.algorithm

    def normalized(one: Rows) -> tuple[Array, Array]:
        centred = BASELINES[a.baseline](one)
        return centred, SCALES[a.scale](one, centred)

    metrics: Metrics = {}
    if a.reward_combination == "separate":
        columns = rewards.parts.T
        pairs = [normalized(rows._replace(rewards=column)) for column in columns]
        summed = sum(weight * value for weight, (_, value) in zip(rewards.weights, pairs, strict=True))
        # the sum of several normalized rewards has another spread than one: GDPO's last step takes it back
        of_batch = {"rewards": jnp.asarray(summed), "scope": jnp.zeros_like(rows.scope)}
        centred = core.minus_group_mean(*rows._replace(**of_batch).batch())
        result = SCALES["batch"](rows._replace(**of_batch), centred)
        centred_once, value = normalized(rows)
        metrics["effect/reward_combination"] = Mean.of(result != value, rows.scored)
        centred, scaled = centred_once, value
    else:
        centred, scaled = normalized(rows)
        result = scaled
    if a.baseline not in ("none", "critic", "optimal_token"):
        metrics["effect/baseline"] = Mean.of(centred != masks.keep(rows.rewards, rows.scored), rows.scored)
    if a.scale != "none":
        metrics["effect/scale"] = Mean.of(scaled != centred, rows.scored)
    if a.batch_statistics == "source":
        whole = rows._replace(scope=jnp.zeros_like(rows.scope))
        of_step = SCALES[a.scale](whole, BASELINES[a.baseline](whole))
        metrics["effect/batch_statistics"] = Mean.of(scaled != of_step, rows.scored)
    if a.reward_clip is not None:
        metrics["effect/reward_clip"] = Mean.of(jnp.abs(result) > a.reward_clip, rows.scored)
        result = jnp.clip(result, -a.reward_clip, a.reward_clip)
    return result, metrics
