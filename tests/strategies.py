"""What property tests draw: algorithms whose knobs do not contradict each other, and small ragged steps."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st

from configs.base import get_config
from jaxrl_llm.algorithm import (
    Advantages,
    Algorithm,
    Rewards,
    advantages,
    choose_tokens,
    correct_gap,
    loss_weights,
    policy_loss,
    shape_rewards,
)
from jaxrl_llm.knob_rules import READERS
from jaxrl_llm.knobs import levels
from jaxrl_llm.types import Array, Controls, Metrics, TrainBatch

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

# Values for knobs that a level needs and the base config does not give.
FILL: dict[str, Any] = {
    "length_coefficient": 0.5,
    "gae_lambda": 0.9,
    "gae_lambda_returns": 0.8,
    "critic_learning_rate": 1e-3,
    "critic_warmup": 0,
    "clip_low": 0.2,
    "clip_high": 0.3,
    "sapo_temperature_positive": 1.0,
    "sapo_temperature_negative": 1.5,
    "topr_weight_positive": 1.0,
    "topr_weight_negative": 0.7,
    "square_coefficient": 0.2,
    "vespo_k_positive": 2.0,
    "vespo_lambda_positive": 3.0,
    "vespo_k_negative": 3.0,
    "vespo_lambda_negative": 2.0,
    "dppo_by_sign": True,
    "cov_low": 0.05,
    "cov_high": 5.0,
    "cov_share": 0.2,
    "kl_cov_coefficient": 0.6,
    "correction_high": 1.1,
    "rejection_high": 0.1,
    "kl_estimator": "k3",
    "difficulty_low": 0.2,
    "difficulty_high": 0.9,
}


def algorithm(**changes: Any) -> Algorithm:
    """The base config's algorithm with some knobs changed; a knob that nothing reads becomes None, one that is needed
    and has no value gets that of ``FILL``, or one of its type."""
    knobs = dataclasses.asdict(BASE) | changes
    for name, readers in READERS.items():
        if name in changes:
            continue
        if knobs[readers.selector] not in readers.levels:
            knobs[name] = None
        elif readers.required and knobs[name] is None:
            knobs[name] = FILL[name] if name in FILL else _any_value(name)
    if knobs["overlong_buffer"] > 0 and "overlong_penalty" not in changes:
        knobs["overlong_penalty"] = 1.0
    if knobs["baseline"] == "critic" and knobs["gae_lambda"] is None and knobs["gae_length_alpha"] is None:
        knobs["gae_lambda"] = FILL["gae_lambda"]
    return Algorithm(**knobs)


def _any_value(name: str) -> Any:
    hint = get_type_hints(Algorithm)[name]
    kind = next(arm for arm in get_args(hint) if arm is not types.NoneType)
    return levels(name)[0] if levels(name) else {bool: True, int: 1, float: 0.5}[kind]


LITE_PPO = algorithm(baseline="group", scale="batch")
_GAP = {"old_logprobs": "trainer"}
_KL = {"kl_coefficient": 0.3}
# Each entry is drawn by itself, and the first of it a third of the time; what contradicts the draws before is left out.
GRID: list[list[dict[str, Any]]] = [
    [{}, *({"baseline": level} for level in levels("baseline")), {"baseline": "critic", "gae_length_alpha": 0.3}],
    [{}, *({"scale": level} for level in levels("scale"))],
    [{"scale_ddof": 1}, {"scale_ddof": 0}],
    [{"scale_epsilon": epsilon} for epsilon in (1e-6, 0.0, 0.1)],
    [{}, {"batch_statistics": "source"}],
    [{}, {"reward_clip": 0.7}],
    [{}, {"discount": 0.9}],
    [{}, {"whiten": True}],
    [{}, {"advantage_clip": 0.8}],
    [{}, {"format_coefficient": 0.3}, {"overlong_buffer": 3, "overlong_penalty": 0.6}],
    [{}, *({"length_penalty": level} for level in levels("length_penalty"))],
    [{}, {"repetition_coefficient": 0.4, "repetition_ngram": 2}],
    [{}, {"reward_combination": "separate"}],
    [{"surrogate": level} for level in levels("surrogate")],
    [{}, *({"ratio": level} for level in levels("ratio"))],
    [{}, {"clip_low": 0.1, "clip_high": 0.35}],
    [{}, {"dual_clip": 1.5}, {"ratio_cap": 1.4}, {"drop_clipped": True}, {"dppo_by_sign": False}],
    [{}, {"top_entropy_share": 0.4}],
    [{}, {"bad_row_threshold": 0.05}],
    [{}, {"positive_nll_coefficient": 0.2}],
    [
        {},
        *(_GAP | {"correction": "truncate", "correction_level": level} for level in levels("correction_level")),
        _GAP | {"correction": "mask", "correction_low": 0.8},
    ],
    [{}, *({"correction_normalize": level} for level in levels("correction_normalize"))],
    [
        {},
        *(_GAP | {"rejection": "k3", "rejection_level": level} for level in levels("rejection_level")),
        *(_GAP | {"rejection": level, "rejection_low": -0.2} for level in ("k1", "k2")),
    ],
    [
        {},
        *(_KL | {"kl_placement": "loss", "kl_estimator": level} for level in levels("kl_estimator") if level != "k1"),
        _KL | {"kl_placement": "loss", "kl_estimator": "k1", "kl_importance": True},
        _KL | {"kl_placement": "reward", "kl_estimator": "k1"},
    ],
    [{}, {"kl_importance": True}, {"kl_target": 0.1, "kl_horizon": 100}],
    [{}, {"entropy_coefficient": 0.01}, {"entropy_target": 1.0, "entropy_step": 0.001}],
    [{"aggregation": level} for level in levels("aggregation")],
    [{}, {"aggregation_constant": 4.0}],
    [{}, {"overlong_filter": True}],
    [{}, *({"group_filter": level} for level in levels("group_filter"))],
    [{}, {"value_clip": 0.2}],
]


def random_algorithm(rng: np.random.Generator, **fixed: Any) -> Algorithm:
    """A point of the grid. A draw that contradicts what was drawn before it is left out."""
    result, changes = algorithm(**fixed), dict(fixed)
    for at in rng.permutation(len(GRID)):
        options = GRID[at]
        drawn = options[0] if rng.random() < 1 / 3 else options[rng.integers(len(options))]
        if any(name in fixed for name in drawn):
            continue
        try:
            result = algorithm(**changes | drawn)
        except ValueError:
            continue
        changes |= drawn
    return result


def algorithms(**fixed: Any) -> st.SearchStrategy[Algorithm]:
    return st.integers(0, 2**32 - 1).map(lambda seed: random_algorithm(np.random.default_rng(seed), **fixed))


@dataclasses.dataclass(frozen=True)
class Step:
    """One step's rows, all [ROWS, WIDTH] or [ROWS]: unordered groups of 3, 2 and 1, a mask with gaps."""

    rewards: np.ndarray
    prompt_id: np.ndarray
    mask: np.ndarray
    truncated: np.ndarray
    correct: np.ndarray
    parseable: np.ndarray
    source: np.ndarray
    greedy_rewards: np.ndarray
    row_id: np.ndarray
    tokens: np.ndarray
    logprobs: np.ndarray
    entropy: np.ndarray
    old_logprobs: np.ndarray
    sampler_logprobs: np.ndarray
    ref_logprobs: np.ndarray
    kl: np.ndarray
    exact_kl: np.ndarray
    values: np.ndarray
    sum_pi_squared: np.ndarray

    def shaped(self, a: Algorithm) -> Rewards:
        names = ("mask", "prompt_id", "tokens", "correct", "parseable")
        arrays = {name: jnp.asarray(getattr(self, name)) for name in names}
        return shape_rewards(a, jnp.asarray(self.rewards), max_tokens=MAX_TOKENS, **arrays)

    def advantages(self, a: Algorithm, kl: Any = None) -> Advantages:
        if kl is None and a.kl_placement == "reward":
            kl = jnp.asarray(self.kl)
        names = (
            "prompt_id", "mask", "truncated", "correct", "source", "greedy_rewards", "values", "old_logprobs",
            "sum_pi_squared",
        )  # fmt: skip
        arrays = {name: jnp.asarray(getattr(self, name)) for name in names}
        return advantages(a, self.shaped(a), kl=kl, controls=controls(), **arrays)

    def batch(self, a: Algorithm) -> TrainBatch:
        """The batch of one optimizer step over all rows, with what is computed once for the step."""
        result = self.advantages(a)
        mask, weights = result.mask, None
        if a.old_logprobs == "trainer":
            gap = correct_gap(a, jnp.asarray(self.old_logprobs), jnp.asarray(self.sampler_logprobs), mask)
            mask, weights = gap.mask, gap.weights
        batch = dataclasses.replace(
            self.train_batch(mask, result.values),
            weights=loss_weights(a, mask, jnp.asarray(self.prompt_id), max_tokens=MAX_TOKENS),
            returns=result.returns,
            correction=weights,
        )
        choice = choose_tokens(a, jnp.asarray(self.logprobs), jnp.asarray(self.entropy), batch)
        return dataclasses.replace(batch, choice=choice)

    def train_batch(self, mask: Any, advantages: Array) -> TrainBatch:
        """The batch before anything is computed of the step; its weights are 1."""
        return TrainBatch(
            prompt_tokens=jnp.zeros((len(mask), 1), jnp.int32),
            prompt_length=jnp.ones(len(mask), jnp.int32),
            tokens=jnp.asarray(self.tokens),
            mask=jnp.asarray(mask),
            advantages=advantages,
            old_logprobs=jnp.asarray(self.old_logprobs),
            sampler_logprobs=jnp.asarray(self.sampler_logprobs),
            weights=jnp.ones_like(advantages),
            ref_logprobs=jnp.asarray(self.ref_logprobs),
            values=jnp.asarray(self.values),
            rewards=jnp.asarray(self.rewards),
            row_id=jnp.asarray(self.row_id),
        )


def controls() -> Controls:
    """Coefficients and running moments in the middle of a run."""
    numbers = {
        "kl_coefficient": 0.4, "entropy_coefficient": 0.02, "reward_mean": 0.3, "reward_variance": 0.6,
        "reward_count": 9.0,
    }  # fmt: skip
    return Controls(**{name: jnp.asarray(number) for name, number in numbers.items()})


def step(seed: int, *, binary: bool = False, unscored: bool = False) -> Step:
    rng = np.random.default_rng(seed)
    mask = rng.random((ROWS, WIDTH)) < 0.7
    mask[:, 0] = True
    mask[rng.integers(ROWS)] = False
    rewards = rng.integers(0, 2, ROWS).astype(np.float32) if binary else rng.normal(size=ROWS).astype(np.float32)
    if unscored:
        rewards[rng.integers(ROWS)] = np.nan
    logprobs = -rng.exponential(1.0, (ROWS, WIDTH)).astype(np.float32) - np.float32(0.01)

    def near(size: float) -> np.ndarray:
        return (logprobs + size * rng.normal(size=logprobs.shape)).astype(np.float32)

    return Step(
        rewards=rewards,
        prompt_id=rng.permutation(np.array([11, 11, 11, 4, 4, 903], np.int32)),
        mask=mask,
        truncated=rng.random(ROWS) < 0.3,
        correct=rng.random(ROWS) < 0.5,
        parseable=rng.random(ROWS) < 0.7,
        source=rng.permutation(np.array([0, 0, 0, 1, 1, 1], np.int32)),
        greedy_rewards=rng.integers(0, 2, ROWS).astype(np.float32),
        row_id=rng.permutation(ROWS).astype(np.int32),
        tokens=rng.integers(0, 3, (ROWS, WIDTH)).astype(np.int32),
        logprobs=logprobs,
        entropy=rng.exponential(1.0, (ROWS, WIDTH)).astype(np.float32),
        old_logprobs=near(0.4),
        sampler_logprobs=near(0.2),
        ref_logprobs=near(0.5),
        kl=rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
        exact_kl=rng.exponential(0.1, (ROWS, WIDTH)).astype(np.float32),
        values=rng.normal(size=(ROWS, WIDTH)).astype(np.float32),
        sum_pi_squared=rng.uniform(0.1, 1, (ROWS, WIDTH)).astype(np.float32),
    )


def stacked(steps: Sequence[Step]) -> Step:
    """Several steps as one whose arrays have a leading axis, for :func:`each`."""
    return Step(*(np.stack(arrays) for arrays in zip(*(fields_of(s).values() for s in steps), strict=True)))


def fields_of(s: Step) -> dict[str, Any]:
    return {field.name: getattr(s, field.name) for field in dataclasses.fields(s)}


def each(function: Callable[..., Any], s: Step, *others: Any) -> Any:
    """``function(step, *other)`` at every entry of the leading axis, as one batch of operations."""
    return jax.vmap(lambda fields, *rest: function(Step(**fields), *rest))(
        {name: jnp.asarray(x) for name, x in fields_of(s).items()}, *others
    )


@st.composite
def steps(draw: st.DrawFn) -> Step:
    return step(draw(st.integers(0, 10_000)), binary=draw(st.booleans()), unscored=draw(st.booleans()))


def rows_of(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda x: x[rows], tree)


class Result(NamedTuple):
    loss: float
    by_logprobs: np.ndarray
    by_entropy: np.ndarray
    by_exact_kl: np.ndarray
    metrics: Metrics


def differentiate(a: Algorithm, logprobs: Any, entropy: Any, batch: TrainBatch, exact_kl: Any = None) -> Result:
    """Eagerly: the operations of many algorithms compile once each, which is quicker than one program for each."""

    def loss(logprobs: jax.Array, entropy: jax.Array, exact_kl: jax.Array) -> tuple[jax.Array, Metrics]:
        given = exact_kl if a.kl_estimator == "exact" else None
        return policy_loss(a, logprobs, entropy, batch, controls=controls(), exact_kl=given)

    exact_kl = jnp.zeros(np.shape(logprobs)) if exact_kl is None else exact_kl
    function = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (value, metrics), gradients = function(jnp.asarray(logprobs), jnp.asarray(entropy), jnp.asarray(exact_kl))
    by_logprobs, by_entropy, by_exact_kl = (np.asarray(gradient) for gradient in gradients)
    return Result(float(value), by_logprobs, by_entropy, by_exact_kl, metrics)
