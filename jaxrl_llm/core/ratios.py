"""Importance ratios between the policy that learns and the one that the data came from."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.core.masks import as_float, keep, masked_mean, masked_sum
from jaxrl_llm.types import Array


def log_ratio(logprobs: Array, old_logprobs: Array, mask: Array, *, clamp: float | None = None) -> Array:
    """d_t = log π(o_t) - log π_old(o_t), in nats.

    Args:
      logprobs: [B, T], of the policy that learns.
      old_logprobs: [B, T].
      mask: bool [B, T]; d is 0 where it is False.
      clamp: d is held within ±clamp, with gradient 0 beyond; None: it is not.
    """
    difference = keep(as_float(logprobs), mask) - keep(as_float(old_logprobs), mask)
    return difference if clamp is None else jnp.clip(difference, -clamp, clamp)


def token_ratio(log_ratios: Array, mask: Array) -> Array:
    """ρ_t = exp(d_t), [B, T]; 1 where the mask is False."""
    return jnp.exp(keep(log_ratios, mask))


def sequence_ratio(log_ratios: Array, mask: Array, *, highest: float | None = None) -> Array:
    """s_i = exp(mean over row i's tokens of d), the same number at every token of the row, [B, T].

    The gradient flows through s_i, to every token of the row. A row without tokens has ratio 1.

    Args:
      log_ratios: d, [B, T].
      highest: the exponent is at most this, with gradient 0 beyond; None: it is not held.

    Reference: Zheng et al., 2025, arXiv 2507.18071 (GSPO), eq. 7.
    """
    exponent = masked_mean(log_ratios, mask, axis=1, keepdims=True)
    return jnp.broadcast_to(jnp.exp(_at_most(exponent, highest)), log_ratios.shape)


def sequence_product_ratio(log_ratios: Array, mask: Array, *, highest: float | None = None) -> Array:
    """s_i = exp(Σ d over row i's tokens), the ratio of the whole sequence's probability, at every token, [B, T].

    It is unbiased, and its variance grows exponentially with the length. The gradient flows to every token of the row.

    Args:
      log_ratios: d, [B, T].
      highest: the exponent is at most this, with gradient 0 beyond; None: it is not held.

    Reference: Precup, Sutton and Singh, 2000, "Eligibility traces for off-policy policy evaluation".
    """
    exponent = masked_sum(log_ratios, mask, axis=1, keepdims=True)
    return jnp.broadcast_to(jnp.exp(_at_most(exponent, highest)), log_ratios.shape)


def sequence_ratio_of_token(logprobs: Array, log_ratios: Array, mask: Array, *, highest: float | None = None) -> Array:
    """The value of :func:`sequence_ratio` with each token's own gradient: exp(log π - sg(log π) + sg(mean d)), [B, T].

    It differs from :func:`sequence_ratio` where advantages vary within a row.

    Reference: Zheng et al., 2025, arXiv 2507.18071 (GSPO-token), eq. 14.
    """
    logprobs = keep(as_float(logprobs), mask)
    mean = jax.lax.stop_gradient(masked_mean(log_ratios, mask, axis=1, keepdims=True))
    return jnp.exp(_at_most(logprobs - jax.lax.stop_gradient(logprobs) + mean, highest))


def _at_most(values: Array, highest: float | None) -> Array:
    return values if highest is None else jnp.where(values > highest, highest, values)
