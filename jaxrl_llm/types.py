"""The data that travels between modules, and the letters that name its axes.

Axis letters, used in annotations, einsums and docstrings everywhere:

    P  prompts of a step                 L  layers
    G  samples per prompt                D  model width
    B  rows: B = P * G, prompt-major     N  query heads
    Q  prompt width, in tokens           K  key/value heads
    T  completion width, in tokens       H  head size
    S  sequence width: S = Q + T         F  hidden width of the MLP
    M  micro-batches                     V  vocabulary
    R  adapter rank

Every array of tokens is right-padded, and the positions of every row start at 0. Column ``t`` of every ``[B, T]``
array speaks about completion token ``t``: no shifted array travels between functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = dict[str, Any]  # plain nested dict; leaves are arrays
Metrics = dict[str, "Mean"]

ADAPTER = "lora"  # the key of a policy tree under which the adapter stands, beside the keys of the base

# Segments BRANCHES · g + 1, BRANCHES · g + 2, ... of a row each see segment BRANCHES · g too, their trunk, for g > 0.
BRANCHES = 1 << 10


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
    """Completions as the sampler wrote them, one row a completion, rows of a prompt next to each other.

    Attributes:
      prompt_tokens: int32 [B, Q].
      prompt_length: int32 [B], tokens of the prompt, at least 1.
      tokens: int32 [B, T]; the pad id after the end.
      mask: bool [B, T], True at tokens that the policy sampled, the stop token included. Gaps are allowed (text of a
        tool, say).
      sampler_logprobs: float32 [B, T], nats, under the distribution that was sampled from (tempered and filtered);
        0 where mask is False.
      truncated: bool [B], True where the row reached the limit without a stop token.
      prompt_id: int32 [B]; rows with the same number are one group.
    """

    prompt_tokens: Array
    prompt_length: Array
    tokens: Array
    mask: Array
    sampler_logprobs: Array
    truncated: Array
    prompt_id: Array


class Choice(NamedTuple):
    """Tokens that a rule over all tokens of an optimizer step has chosen, bool [B, T] each; None without such a rule.

    Attributes:
      covariance: tokens that clip_cov or kl_cov treat apart.
      high_entropy: tokens that alone have a policy loss.
    """

    covariance: Array | None = None
    high_entropy: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """What one optimizer step learns from. Shapes as in :class:`Rollout`.

    Attributes:
      advantages: float32 [B, T].
      old_logprobs: float32 [B, T], of the policy that the ratio is measured against.
      sampler_logprobs: float32 [B, T], see :class:`Rollout`.
      weights: float32 [B, T]; the loss is sum(weights * token loss), see ``core.aggregation``. Computed once for the
        whole optimizer step, so that any split of the rows sums to the same loss.
      ref_logprobs: float32 [B, T] of the reference policy, or None where nothing needs it; so for all that follows.
      values: float32 [B, T] of the critic, when the advantages were computed.
      returns: float32 [B, T], what the critic learns.
      rewards: float32 [B], as judged, before any shaping.
      correction: float32 [B, T], weights for the gap between sampler and trainer.
      row_id: int32 [B], a number of its own for each row of the step: what is drawn at random for a row follows it.
      choice: tokens chosen by comparing all tokens of an optimizer step.
    """

    prompt_tokens: Array
    prompt_length: Array
    tokens: Array
    mask: Array
    advantages: Array
    old_logprobs: Array
    sampler_logprobs: Array
    weights: Array
    ref_logprobs: Array | None = None
    values: Array | None = None
    returns: Array | None = None
    rewards: Array | None = None
    correction: Array | None = None
    row_id: Array | None = None
    choice: Choice | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Controls:
    """What an algorithm carries from one rollout step to the next beside parameters; float32 scalars.

    Attributes:
      kl_coefficient: of the KL.
      entropy_coefficient: of the entropy.
      reward_mean: running moments of the rewards, see ``core.running``.
      reward_variance: divided by the count.
      reward_count: rows that they are of.
    """

    kl_coefficient: Array
    entropy_coefficient: Array
    reward_mean: Array
    reward_variance: Array
    reward_count: Array


def split_policy(policy: Params) -> tuple[Params, Params]:
    """(what is trained, what is frozen) of a policy tree: its adapter and its base, or all of it and nothing."""
    if ADAPTER not in policy:
        return policy, {}
    return policy[ADAPTER], {name: tree for name, tree in policy.items() if name != ADAPTER}


def join_policy(trained: Params, frozen: Params) -> Params:
    """The inverse of :func:`split_policy`."""
    return frozen | {ADAPTER: trained} if frozen else trained


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What an optimizer step starts from.

    Attributes:
      step: int32, counts optimizer steps.
      params: of the policy, what the optimizer trains: with an adapter the adapter's alone.
      frozen: base weights under an adapter, else an empty dict. Never donated, and in no checkpoint.
      opt_state: of the policy's optimizer.
      controls: see :class:`Controls`.
      critic_params: of the critic; an empty dict without one, as is its optimizer's state.
      critic_opt_state: of the critic's optimizer.
    """

    step: Array
    params: Params
    frozen: Params
    opt_state: Any
    controls: Controls
    critic_params: Params
    critic_opt_state: Any

    @property
    def policy(self) -> Params:
        """The tree that the functions of a :class:`Model` take."""
        return join_policy(self.params, self.frozen)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values, one array a layer: keys [rows, K, H, S], values [rows, K, S, H].

    Keys lie with the position last, so that the score product of a decode step runs without a transpose.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean that sums correctly over micro-batches, hosts and steps: total and weight are added apart."""

    total: Array
    weight: Array

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Array:
        """total / weight; nan where nothing was counted."""
        return self.total / self.weight

    @classmethod
    def of(cls, values: Array, where: Array | None = None) -> Mean:
        """The mean of ``values`` at the entries where ``where`` is True (everywhere if None)."""
        if where is None:
            return cls(jnp.sum(values, dtype=jnp.float32), jnp.asarray(values.size, jnp.float32))
        kept = jnp.where(where, values, 0)  # garbage, even NaN, off the mask must not matter
        return cls(jnp.sum(kept, dtype=jnp.float32), jnp.sum(where, dtype=jnp.float32))


class Routing(NamedTuple):
    """Where the routers of a model send the tokens that count, of each layer and expert; parts of a step add up.

    Attributes:
      chosen: int32 [L, E], tokens that an expert is chosen for.
      likely: float32 [L, E], the sum of its probabilities; the gradient of a router comes from here alone.
      tokens: int32 [L], that count.
    """

    chosen: Array
    likely: Array
    tokens: Array


class Model(NamedTuple):
    """A policy as functions of its parameters. ``sampling`` and ``training`` receive one and know nothing else of
    models; ``models.decoder.functions`` makes one.

    Attributes:
      init: (key) -> params, float32.
      apply: (params, tokens [B, S], positions [B, S], segments [B, S], prompt = 0, lanes = 1, segments_per_lane = 1)
        -> hidden states [B, S, D] after the final norm. The first ``prompt`` columns of a row are a prompt that the
        rest of the row shares; the rest is cut into ``lanes`` of equal width. A token sees the tokens at or before its
        own column that are of its own lane and of its own segment or that one's trunk, see BRANCHES (the prompt is a
        lane of its own), and from a lane also the whole prompt. Segment 0 is padding. The kernel of TPU has no trunks,
        and behind a prompt it wants the segments of a lane to be 1 to ``segments_per_lane``; else it gives NaN.
      head: (params) -> the part of them that ``unembed`` reads, in their structure.
      head_axes: () -> in that structure, the axis of each array that goes over the vocabulary.
      unembed: (params or that part, hidden [..., D]) -> logits float32 [..., V]. Of a block of that part along
        ``head_axes``, the logits of the block.
      prepare: (params) -> sampling layout: compute dtype, layers unstacked, head as [D, V]. Made once per rollout.
      prefill: (prepared, tokens [P, Q], length [P]) -> (hidden [P, D] at the last prompt token, KVCache of P rows).
      decode: (prepared, token [B], position [B], prompt cache of P rows, prompt_length [P], cache of B rows, column)
        -> (hidden [B, D], cache with ``column`` written). Row b belongs to prompt b // (B // P).
      unembed_prepared: (prepared, hidden [..., D]) -> logits float32 [..., V].
      empty_cache: (rows, width) -> KVCache of zeros.
      apply_routed: (params, counted [B, S], and the rest as of ``apply``) -> (hidden states, :class:`Routing`). A
        column counts as many tokens as ``counted`` says, int32. None of a model without experts.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    head: Callable[..., Any]
    head_axes: Callable[..., Any]
    unembed: Callable[..., Any]
    prepare: Callable[..., Any]
    prefill: Callable[..., Any]
    decode: Callable[..., Any]
    unembed_prepared: Callable[..., Any]
    empty_cache: Callable[..., Any]
    apply_routed: Callable[..., Any] | None = None


class Critic(NamedTuple):
    """A critic as functions of its parameters; ``models.value_head.functions`` makes one.

    Attributes:
      init: (params of a decoder) -> params of the critic, float32; arrays that are that already are shared.
      apply: as of a Model.
      value: (params, hidden [..., D]) -> float32 [...].
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    value: Callable[..., Any]
