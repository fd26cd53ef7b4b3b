"""The engine lab learns as `train` does, with the techniques that it does by code of its own or by other formulas."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxrl_llm.study.lab import engine, lanes, program
from tests.study.lab_runs import lines_of_train, planned, settings

# What all have: the ratio of a completion and its clip, the KL over all tokens, two rollouts of two optimizer steps.
SHARED = {
    "steps": 2,
    "algorithm.scale": "none",
    "algorithm.ratio": "sequence",
    "algorithm.clip_low": 1e-4,
    "algorithm.clip_high": 1e-4,
    "algorithm.kl_estimator": "exact",
    "algorithm.overlong_buffer": 0,
    "algorithm.overlong_penalty": None,
    "algorithm.group_filter": "none",
    "algorithm.resample_rounds": 1,
    "optimizer.warmup_steps": 0,
}
# Of each: the keys, and the effects that it must have. The optimal token baseline refuses a KL in the reward.
RECIPES = {
    "ReMax, CISPO with the ratio of a completion, exact KL in the reward": (
        {"algorithm.baseline": "greedy", "algorithm.surrogate": "cispo", "algorithm.kl_placement": "reward"},
        ("baseline", "ratio", "clip_high", "kl_placement"),
    ),
    "GSPO with the optimal token baseline, exact KL in the loss": (
        {"algorithm.baseline": "optimal_token", "algorithm.aggregation": "sequence_mean"},
        ("baseline", "ratio", "clip_low", "clip_high", "kl_placement"),
    ),
}


@pytest.mark.parametrize(("keys", "effects"), RECIPES.values(), ids=RECIPES)
def test_steps_of_an_algorithm_have_the_metrics_of_train(keys, effects, tmp_path):
    """The steps alone, without evaluations, whose programs would cost as much again."""
    run, host = settings(**SHARED | keys), engine.Host()
    shared, lane = host.setup(planned(run)), engine.stack([host.lane(run)])

    def learn(lane: lanes.Lane) -> dict[str, jax.Array]:
        steps = program._Lane(shared, run, lane)
        start = (steps.first_state(), jnp.int32(0))
        return jax.lax.scan(lambda carry, step: steps.learn(step, carry), start, jnp.arange(1, 3))[1][0]

    found = jax.device_get(jax.jit(jax.vmap(learn, axis_name=program.AXIS))(lane))
    without = dataclasses.replace(run, evaluation=dataclasses.replace(run.evaluation, every=0))
    lines = lines_of_train(without, tmp_path)
    assert set(found) == {name for name in lines[0] if not name.startswith("saved/")} - {"step", "greedy_length"}
    for metric, values in found.items():
        counts = metric in ("effect/kl_placement", "effect/ratio")  # tokens with any difference: rounding decides
        # other shapes sum in another order, and each optimizer step carries that on
        expected = pytest.approx(
            [line[metric] for line in lines], rel=0 if counts else 2e-3, abs=0.2 if counts else 2e-5
        )
        assert values[0].tolist() == expected, metric
    for metric in effects:
        assert max(abs(line[f"effect/{metric}"]) for line in lines) > 0, metric
