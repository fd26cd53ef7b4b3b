"""Log-probabilities and entropies of given completions, by chunks of tokens: [B, T, V] is never held."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_llm.core.logprobs import log_prob_and_entropy
from jaxrl_llm.sampling.support import Sampling, support_logits
from jaxrl_llm.types import Array, Model, Params, Rollout, TrainBatch


class Scores(NamedTuple):
    """float32 [B, T] each, nats; entropy is of the distribution that is sampled from. 0 where the mask is False."""

    logprobs: Array
    entropy: Array


def completion_hidden(model: Model, params: Params, batch: Rollout | TrainBatch) -> Array:
    """The hidden states that predict the completion's tokens, [B, T, D].

    The row is prompt and completion side by side, [B, Q + T]. Padding between them is a segment of its own, and the
    completion's positions go on where the prompt ended.
    """
    prompt_width, width = batch.prompt_tokens.shape[1], batch.tokens.shape[1]
    columns = jnp.arange(prompt_width)[None]
    length = batch.prompt_length[:, None]
    tokens = jnp.concatenate([batch.prompt_tokens, batch.tokens], axis=1)
    positions = jnp.concatenate(
        [jnp.broadcast_to(columns, batch.prompt_tokens.shape), length + jnp.arange(width)[None]], axis=1
    )
    segments = jnp.concatenate([columns < length, jnp.ones_like(batch.tokens, bool)], axis=1).astype(jnp.int32)
    hidden = model.apply(params, tokens, positions, segments)
    first = jnp.take_along_axis(hidden, (length - 1)[..., None], axis=1)
    return jnp.concatenate([first, hidden[:, prompt_width:-1]], axis=1)


def score(model: Model, params: Params, batch: Rollout | TrainBatch, sampling: Sampling, *, chunk: int) -> Scores:
    """Scores completions under the same distribution that the sampler draws from.

    Args:
      model: the policy's functions.
      params: its parameters.
      batch: completions [B, T] and their prompts.
      sampling: temperature and filters, see :func:`support_logits`.
      chunk: tokens whose logits are held at a time; columns are cut so that rows stay whole on their devices.
    """
    hidden = completion_hidden(model, params, batch)
    rows, width, _ = hidden.shape
    columns = min(width, max(1, chunk // rows))
    chunks = -(-width // columns)

    def score_columns(hidden: Array, tokens: Array) -> Scores:
        logits = support_logits(model.unembed(params, hidden), sampling, tokens)
        return Scores(*log_prob_and_entropy(logits, tokens))

    if chunks == 1:
        scores = score_columns(hidden, batch.tokens)
    else:

        def cut(x: Array) -> Array:
            x = jnp.pad(x, ((0, 0), (0, chunks * columns - width)) + ((0, 0),) * (x.ndim - 2))
            return x.reshape(rows, chunks, columns, *x.shape[2:]).swapaxes(0, 1)

        scores = jax.lax.map(lambda xs: jax.checkpoint(score_columns)(*xs), (cut(hidden), cut(batch.tokens)))
        scores = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, -1)[:, :width], scores)
    return jax.tree.map(lambda x: jnp.where(batch.mask, x, 0.0), scores)
