"""Which tokens keep a gradient."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.algorithm.rewards import Rewards
from jaxrl_llm.core import masks, shaping
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Mean, Metrics


def keep_groups(algorithm: Algorithm, rewards: Array, prompt_id: Array, correct: Array | None = None) -> Array:
    """bool [B]: rows whose group stays.

    `zero_variance`: a group whose scored rewards are all equal goes; it reads the group's own spread, whatever the
    scale. `difficulty`: a group stays if difficulty_low < share of right answers < difficulty_high.

    Args:
      rewards: [B], as judged, before any shaping; NaN where it could not be scored.
      correct: bool [B]; read by `difficulty`.
    """
    scored = ~jnp.isnan(masks.as_float(rewards))
    if algorithm.group_filter == "none":
        return jnp.ones_like(scored)
    if algorithm.group_filter == "zero_variance":
        return shaping.has_spread(rewards, prompt_id, scored)
    if correct is None:
        raise ValueError("algorithm.group_filter = 'difficulty' but correct is None: expected bool [B]")
    assert algorithm.difficulty_low is not None and algorithm.difficulty_high is not None
    bounds = {"low": algorithm.difficulty_low, "high": algorithm.difficulty_high}
    return shaping.mean_between(masks.as_float(correct), prompt_id, scored, **bounds)


def filter_tokens(
    a: Algorithm, tokens: Array, rewards: Rewards, prompt_id: Array, truncated: Array, correct: Array | None
) -> tuple[Array, Metrics]:
    """The tokens that the filters leave, and what they took."""
    metrics: Metrics = {}
    if a.overlong_filter:
        metrics["effect/overlong_filter"] = Mean.of(truncated.astype(bool))
        tokens = tokens & ~truncated.astype(bool)[:, None]
    if a.group_filter != "none":
        kept = keep_groups(a, rewards.judged, prompt_id, correct)
        metrics["effect/group_filter"] = Mean.of(~kept)
        tokens = tokens & kept[:, None]
    return tokens, metrics
