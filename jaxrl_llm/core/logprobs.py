"""Log-probability of a token, and entropy and concentration of its distribution, from logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.core.masks import as_float
from jaxrl_llm.types import Array


def log_prob_and_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """log softmax(z)[label] and H = -Σ_v p_v log p_v, both in nats and in at least float32.

    A logit of -inf is a token that was filtered out: it has probability 0, adds nothing to the entropy and has
    gradient 0. A label that was filtered out has log-probability -inf.

    Args:
      logits: [..., V], at least one of each V finite.
      labels: integers [...].

    Returns:
      (log_prob [...], entropy [...]).
    """
    logits = as_float(logits)
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(shifted)
    mass = jnp.sum(weights, axis=-1)
    log_mass = jnp.log(mass)
    finite = jnp.where(shifted == -jnp.inf, 0, shifted)  # 0 · -inf would be nan
    entropy = log_mass - jnp.sum(weights * finite, axis=-1) / mass
    chosen = jnp.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]
    return chosen - log_mass, entropy


def sum_pi_squared(logits: Array) -> Array:
    """Σ_v softmax(z)_v², in at least float32: the chance that two draws agree, 1 / V to 1.

    Args:
      logits: [..., V], at least one of each V finite; -inf for a token that was filtered out.

    Returns:
      [...].
    """
    return jnp.sum(jnp.square(jax.nn.softmax(as_float(logits), axis=-1)), axis=-1)
