"""Log-probabilities and entropies of given completions, by chunks of tokens: [B, T, V] is never held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrl_llm.core import kl
from jaxrl_llm.core.logprobs import log_prob_and_entropy, sum_pi_squared
from jaxrl_llm.sampling.support import Sampling, support_logits
from jaxrl_llm.types import Array, Critic, Model, Params, Rollout, TrainBatch


class Scores(NamedTuple):
    """float32 [B, T] each, of the distribution that is sampled from. 0 where the mask is False.

    Attributes:
      logprobs: of the completion's tokens, nats.
      entropy: nats.
      sum_pi_squared: Σ_v π(v)²; None unless asked for.
      exact_kl: KL(policy ‖ reference), nats; None without a reference.
    """

    logprobs: Array
    entropy: Array
    sum_pi_squared: Array | None = None
    exact_kl: Array | None = None


def completion_hidden(apply: Callable[..., Any], params: Params, batch: Rollout | TrainBatch) -> Array:
    """The hidden states that predict the completion's tokens, [B, T, D]; ``apply`` is of a Model or a Critic.

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
    hidden = apply(params, tokens, positions, segments)
    first = jnp.take_along_axis(hidden, (length - 1)[..., None], axis=1)
    return jnp.concatenate([first, hidden[:, prompt_width:-1]], axis=1)


def score(
    model: Model,
    params: Params,
    batch: Rollout | TrainBatch,
    sampling: Sampling,
    *,
    chunk: int,
    concentration: bool = False,
    reference: Params | None = None,
) -> Scores:
    """Scores completions under the same distribution that the sampler draws from.

    The exact KL is between the policy and the reference on the tokens that the policy's filters keep, both normalized
    over them: the reference's own filters may leave out a token that the policy can choose, and the KL would be
    infinite. Without filters it is the KL over the whole vocabulary.

    Args:
      model: the policy's functions.
      params: its parameters.
      batch: completions [B, T] and their prompts.
      sampling: temperature and filters, see :func:`support_logits`.
      chunk: tokens whose logits are held at a time; columns are cut so that rows stay whole on their devices.
      concentration: whether Σ_v π(v)² is wanted.
      reference: parameters of the reference policy where the exact KL is wanted; they have no gradient.
    """
    hidden = [completion_hidden(model.apply, params, batch)]
    if reference is not None:
        hidden.append(jax.lax.stop_gradient(completion_hidden(model.apply, reference, batch)))
    rows, width, _ = hidden[0].shape
    columns = min(width, max(1, chunk // rows))
    chunks = -(-width // columns)

    def score_columns(hidden: list[Array], tokens: Array) -> Scores:
        logits = support_logits(model.unembed(params, hidden[0]), sampling, tokens)
        scores = Scores(*log_prob_and_entropy(logits, tokens))
        if concentration:
            scores = scores._replace(sum_pi_squared=sum_pi_squared(logits))
        if reference is not None:
            of_reference = model.unembed(reference, hidden[1]).astype(jnp.float32) / sampling.temperature
            scores = scores._replace(exact_kl=_exact_kl(logits, jax.lax.stop_gradient(of_reference)))
        return scores

    if chunks == 1:
        scores = score_columns(hidden, batch.tokens)
    else:

        def cut(x: Array) -> Array:
            x = jnp.pad(x, ((0, 0), (0, chunks * columns - width)) + ((0, 0),) * (x.ndim - 2))
            return x.reshape(rows, chunks, columns, *x.shape[2:]).swapaxes(0, 1)

        parts = jax.tree.map(cut, (hidden, batch.tokens))
        scores = jax.lax.map(lambda xs: jax.checkpoint(score_columns)(*xs), parts)
        scores = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, -1)[:, :width], scores)
    return jax.tree.map(lambda x: jnp.where(batch.mask, x, 0.0), scores)


def _exact_kl(logits: Array, of_reference: Array) -> Array:
    """[...], of logits [..., V]; -inf in the policy's leaves a token out of both distributions."""
    of_reference = jnp.where(logits > -jnp.inf, of_reference, -jnp.inf)
    return kl.exact(jax.nn.log_softmax(logits), jax.nn.log_softmax(of_reference))


def score_values(critic: Critic, params: Params, batch: Rollout | TrainBatch) -> Array:
    """V of the state in which each token is chosen, float32 [B, T]; 0 where the mask is False."""
    values = critic.value(params, completion_hidden(critic.apply, params, batch))
    return jnp.where(batch.mask, values, 0.0)
