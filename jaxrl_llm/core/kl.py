"""KL(policy ‖ reference): estimates at the sampled token, with x = log π(o_t) - log π_ref(o_t), and the sum itself.

Each estimate takes ``log_ratio_clamp``, which holds x within ±it first, and ``clamp``, which holds the result within
±it; None is no clamp. The gradient is 0 beyond either.

As a term of a *loss* only k2 has the gradient of the KL; k3's is biased, and k1's is zero on average.

Reference: Schulman, 2020, "Approximating KL divergence".
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl_llm.core.masks import as_float, keep
from jaxrl_llm.types import Array


def _clamped(values: Array, bound: float | None) -> Array:
    return values if bound is None else jnp.clip(values, -bound, bound)


def _difference(logprobs: Array, ref_logprobs: Array, log_ratio_clamp: float | None) -> Array:
    return _clamped(as_float(logprobs) - as_float(ref_logprobs), log_ratio_clamp)


def k1(
    logprobs: Array, ref_logprobs: Array, *, log_ratio_clamp: float | None = None, clamp: float | None = None
) -> Array:
    """x: unbiased, of either sign."""
    return _clamped(_difference(logprobs, ref_logprobs, log_ratio_clamp), clamp)


def k2(
    logprobs: Array, ref_logprobs: Array, *, log_ratio_clamp: float | None = None, clamp: float | None = None
) -> Array:
    """x² / 2: biased, never negative; its gradient is that of the KL."""
    return _clamped(jnp.square(_difference(logprobs, ref_logprobs, log_ratio_clamp)) / 2, clamp)


def k3(
    logprobs: Array, ref_logprobs: Array, *, log_ratio_clamp: float | None = None, clamp: float | None = None
) -> Array:
    """e⁻ˣ + x - 1: unbiased, never negative."""
    x = _difference(logprobs, ref_logprobs, log_ratio_clamp)
    if clamp is None:
        return jnp.expm1(-x) + x
    beyond = jnp.expm1(-x) + x > clamp
    x = jnp.where(beyond, 0, x)  # an overflowed exponential would make a gradient of 0 · inf
    return jnp.where(beyond, clamp, jnp.expm1(-x) + x)


def absolute(
    logprobs: Array, ref_logprobs: Array, *, log_ratio_clamp: float | None = None, clamp: float | None = None
) -> Array:
    """|x|, with gradient 0 at 0, where ``jnp.abs`` has 1."""
    x = _difference(logprobs, ref_logprobs, log_ratio_clamp)
    return _clamped(x * jnp.sign(x), clamp)


def exact(log_probs: Array, ref_log_probs: Array) -> Array:
    """Σ_v π(v) (log π(v) - log π_ref(v)) over the whole vocabulary: no sampling noise, and the gradient of the KL.

    A token that π cannot choose, with log-probability -inf under top-k or top-p, adds 0 and has gradient 0. One that
    only the reference cannot choose makes the KL infinite, as it is.

    Args:
      log_probs: log-distributions [..., V].
      ref_log_probs: [..., V].

    Returns:
      [...], in nats.
    """
    possible = log_probs > -jnp.inf
    log_probs, ref_log_probs = keep(as_float(log_probs), possible), keep(as_float(ref_log_probs), possible)
    return jnp.sum(keep(jnp.exp(log_probs) * (log_probs - ref_log_probs), possible), axis=-1)


def adapted_coefficient(
    coefficient: Array, kl: Array, *, rows: Array | float, target: float, horizon: float, error_clip: float
) -> Array:
    """coefficient · (1 + clip(kl / target - 1, ±error_clip) · rows / horizon): more KL than wanted raises it.

    Args:
      kl: measured, in nats.
      rows: completions that it was measured on.
      target: wanted, in nats.
      horizon: in completions.

    Reference: Ziegler et al., 2019, arXiv 1909.08593, section 2.2.
    """
    error = jnp.clip(kl / target - 1, -error_clip, error_clip)
    return coefficient * (1 + error * rows / horizon)
