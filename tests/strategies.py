"""What property tests draw: algorithms whose knobs do not contradict each other, and small ragged batches."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st

from configs.base import get_config
from jaxrl_llm.algorithm import Advantages, Algorithm, advantages, loss_weights, policy_loss
from jaxrl_llm.types import Metrics, TrainBatch

few = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # a seed cannot be shrunk
)

BASE = Algorithm(**get_config().to_dict()["algorithm"])
MAX_TOKENS = 7
ROWS, WIDTH = 6, 5
FLOATS = ("advantages", "old_logprobs", "sampler_logprobs", "weights", "ref_logprobs")


def algorithm(**changes: Any) -> Algorithm:
    return dataclasses.replace(BASE, **changes)


LITE_PPO = algorithm(baseline="group", scale="batch")
SAMPLED = {
    "baseline": ["none", "group", "batch", "leave_one_out"],
    "scale": ["none", "group", "batch", "batch_centered"],
    "scale_ddof": [0, 1],
    "scale_epsilon": [0.0, 1e-6, 0.1],
    "whiten": [False, True],
    "advantage_clip": [None, 0.8],
    "clip_low": [0.1, 0.2],
    "clip_high": [0.2, 0.28],
    "entropy_coefficient": [0.0, 0.01],
    "aggregation": ["token_mean", "sequence_mean", "prompt_mean", "sequence_sum", "constant"],
    "overlong_filter": [False, True],
    "group_filter": ["none", "zero_variance"],
}
TOGETHER = [  # knobs that constrain each other are drawn as one
    [
        {"surrogate": "reinforce"},
        {},
        {"ratio": "sequence"},
        {"dual_clip": 1.5},
        {"dual_clip": 3.0, "ratio": "sequence"},
    ],
    [
        {},
        {"kl_placement": "loss", "kl_estimator": "k2", "kl_coefficient": 0.3},
        {"kl_placement": "loss", "kl_estimator": "k3", "kl_coefficient": 0.3},
        {"kl_placement": "reward", "kl_estimator": "k1", "kl_coefficient": 0.2},
    ],
]


@st.composite
def algorithms(draw: st.DrawFn) -> Algorithm:
    changes = {name: draw(st.sampled_from(values)) for name, values in SAMPLED.items()}
    for choices in TOGETHER:
        changes |= draw(st.sampled_from(choices))
    if changes["aggregation"] == "constant":
        changes["aggregation_constant"] = draw(st.sampled_from([None, 4.0]))
    return algorithm(**changes)


@dataclasses.dataclass(frozen=True)
class Step:
    """One step's rows, all [ROWS, WIDTH] or [ROWS]: unordered groups of 3, 2 and 1, a mask with gaps."""

    rewards: np.ndarray
    prompt_id: np.ndarray
    mask: np.ndarray
    truncated: np.ndarray
    logprobs: np.ndarray
    entropy: np.ndarray
    old_logprobs: np.ndarray
    sampler_logprobs: np.ndarray
    ref_logprobs: np.ndarray
    kl: np.ndarray

    def advantages(self, a: Algorithm, kl: Any = None) -> Advantages:
        if kl is None and a.kl_placement == "reward":
            kl = jnp.asarray(self.kl)
        rows = {name: jnp.asarray(getattr(self, name)) for name in ("prompt_id", "mask", "truncated")}
        return advantages(a, jnp.asarray(self.rewards), kl=kl, **rows)

    def batch(self, a: Algorithm) -> TrainBatch:
        result = self.advantages(a)
        return TrainBatch(
            prompt_tokens=jnp.zeros((ROWS, 1), jnp.int32),
            prompt_length=jnp.ones(ROWS, jnp.int32),
            tokens=jnp.zeros((ROWS, WIDTH), jnp.int32),
            mask=result.mask,
            advantages=result.values,
            old_logprobs=jnp.asarray(self.old_logprobs),
            sampler_logprobs=jnp.asarray(self.sampler_logprobs),
            weights=loss_weights(a, result.mask, jnp.asarray(self.prompt_id), max_tokens=MAX_TOKENS),
            ref_logprobs=jnp.asarray(self.ref_logprobs),
        )


def step(seed: int, *, binary: bool = False, unscored: bool = False) -> Step:
    rng = np.random.default_rng(seed)
    mask = rng.random((ROWS, WIDTH)) < 0.7
    mask[:, 0] = True
    mask[rng.integers(ROWS)] = False
    rewards = rng.integers(0, 2, ROWS).astype(np.float32) if binary else rng.normal(size=ROWS).astype(np.float32)
    if unscored:
        rewards[rng.integers(ROWS)] = np.nan
    logprobs = -rng.exponential(1.0, (ROWS, WIDTH)).astype(np.float32)

    def near(size: float) -> np.ndarray:
        return (logprobs + size * rng.normal(size=logprobs.shape)).astype(np.float32)

    return Step(
        rewards=rewards,
        prompt_id=rng.permutation(np.array([11, 11, 11, 4, 4, 903], np.int32)),
        mask=mask,
        truncated=rng.random(ROWS) < 0.3,
        logprobs=logprobs,
        entropy=rng.exponential(1.0, (ROWS, WIDTH)).astype(np.float32),
        old_logprobs=near(0.4),
        sampler_logprobs=near(0.1),
        ref_logprobs=near(0.5),
        kl=rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
    )


@st.composite
def steps(draw: st.DrawFn) -> Step:
    return step(draw(st.integers(0, 10_000)), binary=draw(st.booleans()), unscored=draw(st.booleans()))


def rows_of(batch: TrainBatch, rows: np.ndarray) -> TrainBatch:
    return jax.tree.map(lambda x: x[rows], batch)


class Result(NamedTuple):
    loss: float
    by_logprobs: np.ndarray
    by_entropy: np.ndarray
    metrics: Metrics


def differentiate(a: Algorithm, logprobs: Any, entropy: Any, batch: TrainBatch) -> Result:
    """Eagerly: the operations of many algorithms compile once each, which is quicker than one program for each."""

    def loss(logprobs: jax.Array, entropy: jax.Array) -> tuple[jax.Array, Metrics]:
        return policy_loss(a, logprobs, entropy, batch)

    function = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, metrics), gradients = function(jnp.asarray(logprobs), jnp.asarray(entropy))
    return Result(float(value), np.asarray(gradients[0]), np.asarray(gradients[1]), metrics)
