"""The exact expectation and variance of every estimator of the policy gradient, on a problem small enough to enumerate.

Two prompts, three tokens of which one stops, at most two tokens: seven completions a prompt, under a tabular softmax
policy in float64. An estimator sees groups of completions; every group that can be drawn is drawn, with its
probability. What it should find, the gradient of the expected reward or of a KL, is summed over completions.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.algorithm import (
    Algorithm,
    advantages,
    choose_tokens,
    correct_gap,
    initial_controls,
    kl_estimate,
    loss_weights,
    policy_loss,
)
from jaxrl_llm.types import TrainBatch
from tests.strategies import algorithm

PROMPTS, VOCABULARY, WIDTH, STOP = 2, 3, 2, 0
COMPLETIONS = [(0,), *itertools.product((1, 2), (0, 1, 2))]
MASK = np.array([[True, len(text) == 2] for text in COMPLETIONS])
# The state a token is chosen in: nothing written yet, or the first token; where there is no token, any.
STATE = np.array([[0, text[0] if len(text) == 2 else 0] for text in COMPLETIONS])
TOKEN = np.array([[text[0], text[-1]] for text in COMPLETIONS])
TRUNCATED = np.array([len(text) == WIDTH and text[-1] != STOP for text in COMPLETIONS])
# The longer completions of the first prompt are the better ones, the shorter ones of the second.
REWARDS = np.array([[0.0, 0.0, 1.0, 0.0, 1.0, 0.5, 1.0], [1.0, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0]])


class Policy(NamedTuple):
    """A tabular softmax policy; the parameters are ``logits`` [PROMPTS, states, VOCABULARY]."""

    logits: np.ndarray

    @property
    def log_probs(self) -> np.ndarray:
        return self.logits - np.log(np.exp(self.logits).sum(-1, keepdims=True))

    @property
    def of_tokens(self) -> np.ndarray:
        """log π of each token of each completion, [PROMPTS, 7, WIDTH]; 0 off the mask."""
        return np.where(MASK, self.log_probs[:, STATE, TOKEN], 0.0)

    @property
    def of_completions(self) -> np.ndarray:
        """π of each completion, [PROMPTS, 7]."""
        return np.exp(self.of_tokens.sum(-1))

    @property
    def scores(self) -> np.ndarray:
        """∇ log π of each token of each completion, [PROMPTS, 7, WIDTH, parameters]; 0 off the mask."""
        result = np.zeros((PROMPTS, len(COMPLETIONS), WIDTH, *self.logits.shape))
        for p, k, t in itertools.product(range(PROMPTS), range(len(COMPLETIONS)), range(WIDTH)):
            if MASK[k, t]:
                result[p, k, t, p, STATE[k, t]] = -np.exp(self.log_probs[p, STATE[k, t]])
                result[p, k, t, p, STATE[k, t], TOKEN[k, t]] += 1
        return result.reshape(*result.shape[:3], -1)

    @property
    def values(self) -> np.ndarray:
        """The expected reward from each state, [PROMPTS, states]."""
        later = [
            [np.average(REWARDS[p][STATE[:, 1] == s], weights=self.of_completions[p][STATE[:, 1] == s]) for s in (1, 2)]
            for p in range(PROMPTS)
        ]
        return np.column_stack([(self.of_completions * REWARDS).sum(-1), np.array(later)])


def _some_logits(seed: int, size: float) -> np.ndarray:
    return size * np.random.default_rng(seed).normal(size=(PROMPTS, VOCABULARY, VOCABULARY))


POLICY = Policy(_some_logits(0, 0.7))
SAMPLER = Policy(
    POLICY.logits + _some_logits(1, 0.6)
)  # another policy, for what was not sampled by the one that learns
REFERENCE = Policy(POLICY.logits + _some_logits(2, 0.8))
WRONG_VALUES = POLICY.values + np.array([[0.4, -0.3, 0.5], [-0.2, 0.6, 0.1]])


def gradient_of_reward(policy: Policy = POLICY) -> np.ndarray:
    """∇ of the expected reward, mean over prompts."""
    return np.einsum("pk,pk,pktn->n", policy.of_completions, REWARDS, policy.scores) / PROMPTS


def gradient_of_best(samples: int) -> np.ndarray:
    """∇ of the expected largest reward of ``samples`` completions, mean over prompts."""
    result = np.zeros(POLICY.logits.size)
    for p in range(PROMPTS):
        for group in itertools.product(range(len(COMPLETIONS)), repeat=samples):
            chance = math.prod(POLICY.of_completions[p, k] for k in group)
            score = sum(POLICY.scores[p, k].sum(0) for k in group)
            result += chance * max(REWARDS[p, k] for k in group) * score / PROMPTS
    return result


def kl_of_states() -> np.ndarray:
    """KL(π ‖ reference) in each state, [PROMPTS, states]."""
    return (np.exp(POLICY.log_probs) * (POLICY.log_probs - REFERENCE.log_probs)).sum(-1)


def gradient_of_kl_of_states() -> np.ndarray:
    """∇ of :func:`kl_of_states`, [PROMPTS, states, parameters]."""
    pi, x, result = (
        np.exp(POLICY.log_probs),
        POLICY.log_probs - REFERENCE.log_probs,
        np.zeros((*kl_of_states().shape, *POLICY.logits.shape)),
    )
    for p, s in np.ndindex(kl_of_states().shape):
        result[p, s, p, s] = pi[p, s] * (x[p, s] - kl_of_states()[p, s])
    return result.reshape(*result.shape[:2], -1)


def gradient_of_kl(visitor: Policy = POLICY) -> np.ndarray:
    """Σ_t ∇ KL(π ‖ reference) in the states that ``visitor`` comes through, mean over prompts; the states stay as they
    are: what the gradient of a term of the loss can be."""
    each = gradient_of_kl_of_states()[:, STATE] * MASK[None, :, :, None]
    return np.einsum("pk,pktn->n", visitor.of_completions, each) / PROMPTS


def gradient_of_whole_kl() -> np.ndarray:
    """∇ of the KL of whole completions, mean over prompts; the states follow the policy."""
    x = (POLICY.of_tokens - REFERENCE.of_tokens).sum(-1)
    return np.einsum("pk,pk,pktn->n", POLICY.of_completions, x, POLICY.scores) / PROMPTS


class Draws(NamedTuple):
    """Every step that can be drawn: its probability [N], and the completion of each row [N, B]."""

    chance: np.ndarray
    rows: np.ndarray


@functools.cache
def draws(samples: int, of: str) -> Draws:
    """Groups as multisets, each with the number of orders it can come in."""
    sampler = {"policy": POLICY, "other": SAMPLER}[of]
    groups = list(itertools.combinations_with_replacement(range(len(COMPLETIONS)), samples))
    orders = [math.factorial(samples) / math.prod(math.factorial(g.count(k)) for k in set(g)) for g in groups]
    chance = np.array(
        [[n * math.prod(c[k] for k in g) for n, g in zip(orders, groups, strict=True)] for c in sampler.of_completions]
    )
    first, second = np.divmod(np.arange(len(groups) ** 2), len(groups))
    table = np.array(groups)
    return Draws(chance[0][first] * chance[1][second], np.concatenate([table[first], table[second]], axis=1))


class Estimator(NamedTuple):
    """An algorithm as an estimator of a gradient.

    Attributes:
      name: in the table.
      changes: knobs.
      samples: of a prompt.
      sampler: who wrote the completions: policy, or other.
      old: what the ratio is measured against: policy or other.
      values: of the critic: exact, or wrong.
      rewards: False for the gradient of the KL alone.
    """

    name: str
    changes: dict[str, Any]
    samples: int = 3
    sampler: str = "policy"
    old: str = "policy"
    values: str = "exact"
    rewards: bool = True

    @property
    def algorithm(self) -> Algorithm:
        plain = {"surrogate": "reinforce", "aggregation": "sequence_sum", "scale_epsilon": 1e-12}
        return algorithm(**plain | self.changes)


class Moments(NamedTuple):
    """The exact mean of an estimator, and the trace of its covariance."""

    mean: np.ndarray
    variance: float


def moments(estimator: Estimator) -> Moments:
    """Of the direction in which the parameters move: minus the gradient of the loss."""
    with jax.enable_x64(True):
        chance, rows = draws(estimator.samples, estimator.sampler)
        prompt = np.repeat(np.arange(PROMPTS), estimator.samples)
        by_logprobs, by_kl = jax.vmap(lambda k: _gradients(estimator, k, jnp.asarray(prompt)))(jnp.asarray(rows))
        steps = np.einsum("nit,nitm->nm", -np.asarray(by_logprobs), POLICY.scores[prompt, rows])
        if np.any(by_kl):
            of_kl = (gradient_of_kl_of_states()[:, STATE] * MASK[None, :, :, None])[prompt, rows]
            steps = steps - np.einsum("nit,nitm->nm", np.asarray(by_kl), of_kl)
    mean = chance @ steps
    return Moments(mean, float(chance @ np.square(steps).sum(1) - mean @ mean))


def _gradients(estimator: Estimator, rows: jax.Array, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradient of the loss of one step by log π and by the exact KL, [B, T] each."""
    a, policies = estimator.algorithm, {"policy": POLICY, "other": SAMPLER}

    def of(table: np.ndarray) -> jax.Array:
        return jnp.asarray(table)[prompt, rows]

    def of_states(table: np.ndarray) -> jax.Array:
        return jnp.where(mask, jnp.asarray(table)[prompt[:, None], jnp.asarray(STATE)[rows]], 0.0)

    mask = jnp.asarray(MASK)[rows]
    logprobs, reference = of(POLICY.of_tokens), of(REFERENCE.of_tokens)
    old, sampled = of(policies[estimator.old].of_tokens), of(policies[estimator.sampler].of_tokens)
    rewards = of(REWARDS if estimator.rewards else np.zeros_like(REWARDS))
    result = advantages(
        a,
        rewards,
        prompt_id=prompt,
        mask=mask,
        truncated=jnp.asarray(TRUNCATED)[rows],
        kl=kl_estimate(a, logprobs, reference) if a.kl_placement == "reward" else None,
        greedy_rewards=jnp.asarray(REWARDS[np.arange(PROMPTS), POLICY.of_completions.argmax(1)])[prompt],
        values=of_states({"exact": POLICY.values, "wrong": WRONG_VALUES}[estimator.values]),
        old_logprobs=sampled,
        sum_pi_squared=of_states(np.exp(2 * policies[estimator.sampler].log_probs).sum(-1)),
        controls=initial_controls(a),
    )
    kept, correction = result.mask, None
    if a.correction != "none" or a.rejection != "none":
        gap = correct_gap(a, old, sampled, kept)
        kept, correction = gap.mask, gap.weights
    batch = TrainBatch(
        prompt_tokens=jnp.zeros((len(prompt), 1), jnp.int32),
        prompt_length=jnp.ones(len(prompt), jnp.int32),
        tokens=jnp.asarray(TOKEN)[rows],
        mask=kept,
        advantages=result.values,
        old_logprobs=old,
        sampler_logprobs=sampled,
        weights=loss_weights(a, kept, prompt, max_tokens=WIDTH),
        ref_logprobs=reference,
        rewards=rewards,
        correction=correction,
        row_id=jnp.arange(len(prompt)),
    )
    entropy = of_states(-(np.exp(POLICY.log_probs) * POLICY.log_probs).sum(-1))
    batch = dataclasses.replace(batch, choice=choose_tokens(a, logprobs, entropy, batch))

    def loss(logprobs: jax.Array, exact_kl: jax.Array) -> jax.Array:
        given = exact_kl if a.kl_estimator == "exact" else None
        return policy_loss(a, logprobs, entropy, batch, exact_kl=given)[0]

    return jax.grad(loss, argnums=(0, 1))(logprobs, of_states(kl_of_states()))


class Figures(NamedTuple):
    """How an estimator's mean stands to what it should be.

    Attributes:
      cosine: of the angle between the two.
      length: ‖mean‖ / ‖target‖.
      bias: ‖mean - target‖ / ‖target‖.
      noise: trace of the covariance / ‖mean‖².
    """

    cosine: float
    length: float
    bias: float
    noise: float


def figures(found: Moments, target: np.ndarray) -> Figures:
    size, wanted = float(np.linalg.norm(found.mean)), float(np.linalg.norm(target))
    nothing = size < 1e-12 * wanted
    return Figures(
        math.nan if nothing else float(found.mean @ target) / (size * wanted),
        size / wanted,
        float(np.linalg.norm(found.mean - target)) / wanted,
        math.nan if nothing else found.variance / size**2,
    )
