"""The distribution that is sampled from: temperature, top-k, top-p, min-p. The sampler and the scorer both call it.

A trainer that scores under the full softmax what was sampled under a filtered one has importance ratios that are not
1 on-policy. Here both sides normalize over the same kept tokens.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl_llm.sharding import head_devices
from jaxrl_llm.types import Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Knobs of the sampled distribution; filters apply in the order of the fields, each to what the last one kept.

    Attributes:
      max_tokens: tokens of a completion at most, the stop token included.
      temperature: logits are divided by it; 0 is greedy.
      top_k: the k likeliest tokens are kept; 0 keeps all.
      top_p: the smallest set of likeliest tokens whose mass reaches it is kept; 1 keeps all.
      min_p: tokens of at least min_p times the likeliest token's probability are kept; 0 keeps all.
      stop: texts of one token each that end a completion beside the tokenizer's end-of-text tokens.
    """

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    stop: tuple[str, ...]

    def __post_init__(self):
        for name, legal, wanted in (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "at least 0 (0 is greedy)"),
            ("top_k", self.top_k >= 0, "at least 0 (0 keeps all tokens)"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (1 keeps all tokens)"),
            ("min_p", 0 <= self.min_p < 1, "at least 0 and below 1 (0 keeps all tokens)"),
        ):
            if not legal:
                raise ValueError(f"sampling.{name} = {getattr(self, name)}: expected {wanted}")


def support_logits(logits: Array, sampling: Sampling, label: Array | None = None) -> Array:
    """The tempered logits, -inf at tokens that are not kept; their softmax is the distribution sampled from.

    Args:
      logits: [..., V].
      sampling: the knobs; a temperature of 0 puts all mass on the likeliest token (the first, if tied).
      label: int [...]; tokens that were sampled. They count as kept even where rounding, or a policy that has moved
        since, puts them just outside: a token that was sampled has a finite log-probability.

    Returns:
      float32 [..., V]. The choice of kept tokens carries no gradient.
    """
    logits = logits.astype(jnp.float32)
    if sampling.temperature == 0:
        chosen = jnp.argmax(logits, axis=-1, keepdims=True) == jnp.arange(logits.shape[-1])
        return jnp.where(chosen, logits, -jnp.inf)
    logits = logits / sampling.temperature
    threshold = _threshold(jax.lax.stop_gradient(logits), sampling)
    if threshold is None:
        return logits
    kept = logits >= threshold
    if label is not None:
        kept |= label[..., None] == jnp.arange(logits.shape[-1])
    return jnp.where(kept, logits, -jnp.inf)


def keeps_all(sampling: Sampling) -> bool:
    """Whether each logit follows from itself alone: no filter, and not greedy."""
    return sampling.temperature > 0 and sampling.top_k == 0 and sampling.top_p == 1 and sampling.min_p == 0


def _largest(logits: Array, count: int) -> Array:
    """The ``count`` largest of each row, largest first, [..., count].

    Devices that share the vocabulary exchange their own largest, and not their logits.
    """
    ways = head_devices(jax.sharding.get_abstract_mesh())
    own, rest = divmod(logits.shape[-1], ways)
    if ways > 1 and not rest and count < own:
        of_device = jax.lax.top_k(logits.reshape(*logits.shape[:-1], ways, own), count)[0]
        logits = of_device.reshape(*logits.shape[:-1], ways * count)
    return jax.lax.top_k(logits, count)[0]


def _threshold(logits: Array, sampling: Sampling) -> Array | None:
    """The smallest kept logit, [..., 1]; None where everything is kept. Ties with it are kept too."""
    vocabulary = logits.shape[-1]
    by_rank = 0 < sampling.top_k < vocabulary
    if not by_rank and sampling.top_p == 1 and sampling.min_p == 0:
        return None
    if by_rank:  # the tokens that top-p can still choose from, likeliest first
        ranked = _largest(logits, sampling.top_k)
    elif sampling.top_p < 1:
        ranked = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    else:
        ranked = jnp.max(logits, axis=-1, keepdims=True)
    threshold = ranked[..., -1:] if by_rank else jnp.full_like(ranked[..., :1], -jnp.inf)
    if sampling.top_p < 1:
        probabilities = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities  # mass of the likelier tokens
        inside = jnp.where(before < sampling.top_p, ranked, jnp.inf)
        threshold = jnp.maximum(threshold, jnp.min(inside, axis=-1, keepdims=True))
    if sampling.min_p > 0:
        threshold = jnp.maximum(threshold, ranked[..., :1] + jnp.log(jnp.float32(sampling.min_p)))
    return threshold
