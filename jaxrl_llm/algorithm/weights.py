"""What needs all rows of an optimizer step at once: the weight of each token, and tokens chosen by comparison."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl_llm.algorithm.ratio import LOG_RATIO_CLAMP, RATIOS
from jaxrl_llm.algorithm.surrogates import clip_bounds
from jaxrl_llm.core import aggregation, covariance, diagnostics, masks, mismatch, ratios
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Choice, TrainBatch

AGGREGATIONS: dict[str, Callable[[Array, Array, float], Array]] = {
    "token_mean": lambda mask, prompt_id, tokens_per_row: aggregation.token_mean(mask),
    "sequence_mean": lambda mask, prompt_id, tokens_per_row: aggregation.sequence_mean(mask),
    "prompt_mean": lambda mask, prompt_id, tokens_per_row: aggregation.prompt_mean(mask, prompt_id),
    "sequence_sum": lambda mask, prompt_id, tokens_per_row: aggregation.sequence_sum(mask),
    "constant": lambda mask, prompt_id, tokens_per_row: aggregation.constant(mask, tokens_per_row=tokens_per_row),
}


def loss_weights(algorithm: Algorithm, mask: Array, prompt_id: Array, *, max_tokens: int) -> Array:
    """float [B, T]: what each token weighs in the loss; see ``core.aggregation``.

    Args:
      mask: bool [B, T] of all rows of an optimizer step, after filters and rejection.
      prompt_id: int [B].
      max_tokens: the limit of a completion, in tokens; aggregation "constant" divides by it if it has no other.
    """
    tokens_per_row = max_tokens if algorithm.aggregation_constant is None else algorithm.aggregation_constant
    return AGGREGATIONS[algorithm.aggregation](mask, prompt_id, tokens_per_row)


def rows_with_gradient(algorithm: Algorithm, batch: TrainBatch) -> Array:
    """bool [B]: rows whose tokens must be scored for the policy's loss and its gradient; the others add nothing.

    Where the advantages or weights of a row are 0, so is its surrogate, and nothing is left of it unless a KL, an
    entropy, a likelihood or a squared ratio stands beside, a coefficient adapts to the KL or the entropy, or its tokens
    are compared with the others' (clip_cov, kl_cov, top_entropy_share).
    """
    a, mask = algorithm, batch.mask.astype(bool)
    if a.cov_share is not None or a.top_entropy_share is not None:
        return jnp.any(mask, axis=1)
    weighed = mask & (batch.weights != 0)
    beside = (
        a.kl_placement == "loss"
        or a.entropy_coefficient != 0
        or a.entropy_target is not None
        or a.kl_target is not None  # the coefficient follows the mean KL of all rows, also of one in the reward
        or (a.square_coefficient or 0) > 0
    )
    if beside:
        return jnp.any(weighed, axis=1)
    moved = batch.advantages != 0
    if a.positive_nll_coefficient != 0:
        assert batch.rewards is not None
        moved |= (batch.rewards > 0)[:, None]
    return jnp.any(weighed & moved, axis=1)


def choose_tokens(
    algorithm: Algorithm, logprobs: Array, entropy: Array, batch: TrainBatch, *, step: Array | int = 0
) -> Choice:
    """The tokens that clip_cov, kl_cov and top_entropy_share single out, without gradient.

    They compare tokens of the whole optimizer step: micro-batches, which would each find others, are given the result.

    Args:
      logprobs: [B, T], of the policy that learns, of all rows of the step.
      entropy: [B, T], nats.
      batch: ``row_id`` is read by clip_cov.
      step: of the optimizer; seeds what clip_cov draws among its candidates.

    Raises:
      ValueError: clip_cov and ``batch.row_id`` is None.
    """
    a, mask = algorithm, batch.mask.astype(bool)
    logprobs, entropy = (masks.keep(masks.as_float(jax.lax.stop_gradient(x)), mask) for x in (logprobs, entropy))
    of_entropy = None
    if a.top_entropy_share is not None:
        of_entropy = mismatch.keep_high_entropy(entropy, mask, share=a.top_entropy_share)
    return Choice(_of_covariance(a, logprobs, batch, mask, step), of_entropy)


def _of_covariance(a: Algorithm, logprobs: Array, batch: TrainBatch, mask: Array, step: Array | int) -> Array | None:
    if a.cov_share is None:
        return None
    advantage = masks.keep(batch.advantages, mask)
    of_token = covariance.token_covariance(logprobs, advantage, mask)
    if a.surrogate == "kl_cov":
        return covariance.kl_cov_tokens(of_token, mask, share=a.cov_share)
    if batch.row_id is None:
        raise ValueError("algorithm.surrogate = 'clip_cov' but batch.row_id is None: expected int [B]")
    assert a.cov_low is not None and a.cov_high is not None
    low, high = clip_bounds(a)
    log_ratio = ratios.log_ratio(logprobs, batch.old_logprobs, mask, clamp=LOG_RATIO_CLAMP)
    ratio = RATIOS[a.ratio](logprobs, log_ratio, mask)
    binds = diagnostics.clip_binds_low(ratio, advantage, low) | diagnostics.clip_binds_high(ratio, advantage, high)
    scores = _random_scores(jax.random.fold_in(jax.random.key(0), step), batch.row_id, mask.shape[1])
    bounds = {"lowest": a.cov_low, "highest": a.cov_high, "budget": a.cov_share}
    return covariance.clip_cov_tokens(of_token, mask, binds, scores, **bounds)


def _random_scores(key: Array, row_id: Array, width: int) -> Array:
    """[B, T] in [0, 1): a number for each token that follows its row and column, not the layout of the batch."""

    def score(row: Array, column: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, row), column))

    return jax.vmap(jax.vmap(score, (None, 0)), (0, None))(row_id, jnp.arange(width))
