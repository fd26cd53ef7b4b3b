"""Log-probability of a token, and entropy and concentration of its distribution, from logits."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_llm.core.masks import as_float
from jaxrl_llm.types import Array


class Sums(NamedTuple):
    """Sums over a vocabulary or a part of it, [...] each, of weights w_v = exp(z_v - peak).

    Those of the parts of a vocabulary add up to its own, if the peak is the same.

    Attributes:
      mass: Σ_v w_v.
      weighted: Σ_v w_v (z_v - peak).
      chosen: z_label - peak; 0 where the label is not among the entries.
    """

    mass: Array
    weighted: Array
    chosen: Array


def sums(logits: Array, labels: Array, entries: Array, peak: Array) -> Sums:
    """The sums over ``entries``; a logit of -inf adds nothing to the first two.

    Args:
      logits: [..., E], in at least float32.
      labels: integers [...].
      entries: integers [E], which of the vocabulary the logits are of.
      peak: [...], finite; the largest logit of the vocabulary, so that no weight overflows.
    """
    shifted = logits - peak[..., None]
    weights = jnp.exp(shifted)
    finite = jnp.where(shifted == -jnp.inf, 0, shifted)  # 0 · -inf would be nan
    chosen = jnp.where(labels[..., None] == entries, shifted, 0)
    return Sums(jnp.sum(weights, axis=-1), jnp.sum(weights * finite, axis=-1), jnp.sum(chosen, axis=-1))


def from_sums(of_vocabulary: Sums) -> tuple[Array, Array]:
    """(log_prob [...], entropy [...]) from the sums over a whole vocabulary."""
    log_mass = jnp.log(of_vocabulary.mass)
    return of_vocabulary.chosen - log_mass, log_mass - of_vocabulary.weighted / of_vocabulary.mass


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
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    return from_sums(sums(logits, labels, jnp.arange(logits.shape[-1]), peak))


def sum_pi_squared(logits: Array) -> Array:
    """Σ_v softmax(z)_v², in at least float32: the chance that two draws agree, 1 / V to 1.

    Args:
      logits: [..., V], at least one of each V finite; -inf for a token that was filtered out.

    Returns:
      [...].
    """
    return jnp.sum(jnp.square(jax.nn.softmax(as_float(logits), axis=-1)), axis=-1)
