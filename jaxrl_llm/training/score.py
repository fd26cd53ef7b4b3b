"""Log-probabilities and entropies of given completions, by chunks of logits: [B, T, V] is never held."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxrl_llm.core import kl
from jaxrl_llm.core.logprobs import log_prob_and_entropy, sum_pi_squared
from jaxrl_llm.sampling.support import Sampling, support_logits
from jaxrl_llm.sharding import column_devices, constrain_rows, constrain_tokens, head_devices
from jaxrl_llm.training.chunks import (
    Chunks,
    by_columns,
    chunks_of,
    may_cut_entries,
    on_flat_tokens,
    on_own_rows,
    row_ways,
)
from jaxrl_llm.training.packing import Packing, plain
from jaxrl_llm.training.vocabulary import Blocks, score_by_vocabulary
from jaxrl_llm.types import Array, Critic, Model, Params, Rollout, Routing, TrainBatch

HeadScorer = Callable[[list[Params], list[Array], Array], "Scores"]  # (heads, hidden, tokens [R, C]) -> [R, C]


class Scores(NamedTuple):
    """float32 [B, T] each, of the distribution that is sampled from. 0 where the mask is False.

    Attributes:
      logprobs: of the completion's tokens, nats.
      entropy: nats.
      sum_pi_squared: Σ_v π(v)²; None unless asked for.
      exact_kl: KL(policy ‖ reference), nats; None without a reference.
      routing: of the tokens of the mask, at the columns that predict them; None unless asked for.
    """

    logprobs: Array
    entropy: Array
    sum_pi_squared: Array | None = None
    exact_kl: Array | None = None
    routing: Routing | None = None


class Predictions(NamedTuple):
    """The hidden states [R, C, D] that predict tokens of completions, those tokens [R, C], and their place, see
    :class:`~jaxrl_llm.training.packing.Packing`; also the routing of the tokens of the mask, where it is asked for."""

    hidden: Array
    tokens: Array
    target: Array
    routing: Routing | None


def predictions(
    apply: Callable[..., Any],
    params: Params,
    batch: Rollout | TrainBatch,
    packing: Packing | None = None,
    *,
    routed: bool = False,
) -> Predictions:
    """The forward pass; ``apply`` is of a Model or a Critic. Without a packing, a row is a completion, padded.

    Args:
      routed: whether ``apply`` is the ``apply_routed`` of a Model.
    """
    packing = plain(batch) if packing is None else packing
    sequences = jnp.concatenate([batch.prompt_tokens, batch.tokens], axis=1).reshape(-1)
    tokens = jnp.where(packing.source < 0, 0, sequences[packing.source])
    of_row = packing.prompt, packing.lanes, packing.segments_per_lane
    counted = (_predicted(batch, packing),) if routed else ()
    found = apply(params, *counted, tokens, packing.positions, packing.segments, *of_row)
    hidden, routing = found if routed else (found, None)
    hidden = jnp.take_along_axis(hidden, packing.column[..., None], axis=1)
    if hidden.shape[1] % column_devices(jax.sharding.get_abstract_mesh()) == 0:
        hidden = constrain_tokens(hidden)
    tokens = jnp.take(batch.tokens.reshape(-1), packing.target, mode="clip")
    return Predictions(hidden, tokens, packing.target, routing)


def _predicted(batch: Rollout | TrainBatch, packing: Packing) -> Array:
    """int32 [R, W]: how many tokens of the mask a column predicts; the last of a shared prompt predicts several."""
    counted = jnp.take(batch.mask.reshape(-1), packing.target, mode="fill", fill_value=False)
    rows = jnp.arange(len(packing.column))[:, None]
    return jnp.zeros(packing.source.shape, jnp.int32).at[rows, packing.column].add(counted.astype(jnp.int32))


def _put_back(values: Array, target: Array, batch: Rollout | TrainBatch) -> Array:
    """[B, T] from [R, C]; 0 where nothing was computed, and off the mask."""
    rows, width = batch.tokens.shape
    placed = jnp.zeros(rows * width, values.dtype).at[target].set(values, mode="drop")
    return jnp.where(batch.mask, constrain_rows(placed.reshape(rows, width)), 0.0)


def in_pass(batch: Rollout | TrainBatch, packing: Packing) -> Array:
    """bool [B, T]: tokens of the mask that a pass computes."""
    return _put_back(jnp.ones(packing.target.shape, jnp.float32), packing.target, batch) > 0


def score(
    model: Model,
    params: Params,
    batch: Rollout | TrainBatch,
    sampling: Sampling,
    *,
    chunk: int,
    packing: Packing | None = None,
    concentration: bool = False,
    reference: Params | None = None,
    entropy_gradient: bool = True,
    routed: bool = False,
) -> Scores:
    """Scores completions under the same distribution that the sampler draws from.

    The exact KL is between the policy and the reference on the tokens that the policy's filters keep, both normalized
    over them: the reference's own filters may leave out a token that the policy can choose, and the KL would be
    infinite. Without filters it is the KL over the whole vocabulary.

    The backward pass reads logits that were kept where they are few (KEPT_LOGITS), and computes them again where they
    are many.

    Args:
      model: the policy's functions.
      params: its parameters.
      batch: completions [B, T] and their prompts.
      sampling: temperature and filters, see :func:`support_logits`.
      chunk: tokens on one device whose logits are held at a time, see :func:`~jaxrl_llm.training.chunks.chunks_of`;
        rows stay on their devices.
      packing: how they lie in the forward pass, and which of them; scores of the others are 0. None: one a row, all.
      concentration: whether Σ_v π(v)² is wanted.
      reference: parameters of the reference policy where the exact KL is wanted; they have no gradient.
      entropy_gradient: whether the entropy carries one; it costs a pass over the logits.
      routed: whether the routing is wanted; of a model with experts.
    """
    apply = model.apply_routed if routed else model.apply
    assert apply is not None
    found = [predictions(apply, params, batch, packing, routed=routed)]
    if reference is not None:
        found.append(jax.lax.stop_gradient(predictions(model.apply, reference, batch, packing)))

    hidden, tokens = [part.hidden for part in found], found[0].tokens
    heads = [model.head(part) for part in (params, reference) if part is not None]
    vocabulary = jax.eval_shape(model.unembed, params, hidden[0]).shape[-1]
    more = concentration or reference is not None
    by_entry = may_cut_entries(sampling, more=more, head_ways=head_devices(jax.sharding.get_abstract_mesh()))
    chunks = chunks_of(len(tokens) // row_ways(), tokens.shape[1], vocabulary, chunk, by_entry=by_entry)
    if chunks.entries < vocabulary:
        blocks = Blocks(model.head_axes(), vocabulary, chunks.entries)
        scorer = _entry_scorer(model, sampling, blocks, entropy_gradient=entropy_gradient)
    else:
        wanted = {"concentration": concentration, "entropy_gradient": entropy_gradient}
        scorer = _column_scorer(model, sampling, chunks, **wanted)
    scores = on_own_rows(scorer, len(tokens))(heads, hidden, tokens)
    scores = jax.tree.map(lambda x: _put_back(x, found[0].target, batch), scores)
    return scores._replace(routing=found[0].routing)


def _entry_scorer(model: Model, sampling: Sampling, blocks: Blocks, *, entropy_gradient: bool) -> HeadScorer:
    """By blocks of the vocabulary."""

    def logits_of(head: Params, hidden: Array) -> Array:
        return support_logits(model.unembed(head, hidden), sampling)

    of_tokens = score_by_vocabulary(logits_of, blocks, entropy_gradient=entropy_gradient)

    def scorer(heads: list[Params], hidden: list[Array], tokens: Array) -> Scores:
        return Scores(*on_flat_tokens(of_tokens, heads[0], hidden[0], tokens))

    return scorer


def _column_scorer(
    model: Model, sampling: Sampling, chunks: Chunks, *, concentration: bool, entropy_gradient: bool
) -> HeadScorer:
    """By chunks of columns; with a second head, that of the reference, also the exact KL."""

    def score_columns(heads: list[Params], hidden: list[Array], tokens: Array) -> Scores:
        logits = checkpoint_name(model.unembed(heads[0], hidden[0]), "logits")
        logits = support_logits(logits, sampling, tokens)
        logprobs, entropy = log_prob_and_entropy(logits, tokens)
        scores = Scores(logprobs, entropy if entropy_gradient else jax.lax.stop_gradient(entropy))
        if concentration:
            scores = scores._replace(sum_pi_squared=sum_pi_squared(logits))
        if len(heads) == 2:
            of_reference = model.unembed(heads[1], hidden[1]).astype(jnp.float32) / sampling.temperature
            scores = scores._replace(exact_kl=_exact_kl(logits, jax.lax.stop_gradient(of_reference)))
        return scores

    policy = jax.checkpoint_policies.save_only_these_names("logits") if chunks.kept else None
    of_tokens = jax.checkpoint(score_columns, policy=policy)
    return functools.partial(by_columns, functools.partial(on_flat_tokens, of_tokens), chunks)


def _exact_kl(logits: Array, of_reference: Array) -> Array:
    """[...], of logits [..., V]; -inf in the policy's leaves a token out of both distributions."""
    of_reference = jnp.where(logits > -jnp.inf, of_reference, -jnp.inf)
    return kl.exact(jax.nn.log_softmax(logits), jax.nn.log_softmax(of_reference))


def score_values(critic: Critic, params: Params, batch: Rollout | TrainBatch, packing: Packing | None = None) -> Array:
    """V of the state in which each token is chosen, float32 [B, T]; 0 off the mask and where nothing is computed."""
    found = predictions(critic.apply, params, batch, packing)
    return _put_back(critic.value(params, found.hidden), found.target, batch)


@functools.partial(jax.jit, donate_argnums=0)
def _add(first: Any, second: Any) -> Any:
    return jax.tree.map(jnp.add, first, second)


@dataclasses.dataclass(frozen=True)
class Scorer:
    """(params, batch, passes, reference or None) -> scores of all rows that the passes compute, without gradient.

    With the parameters of a reference, the exact KL to it is among them; ``concentration`` adds Σ_v π(v)².
    """

    model: Model
    sampling: Sampling
    chunk: int
    concentration: bool = False
    jit: Callable[..., Any] = jax.jit

    def __call__(
        self,
        params: Params,
        batch: Rollout | TrainBatch,
        passes: Sequence[Packing],
        reference: Params | None = None,
    ) -> Scores:
        return functools.reduce(_add, (self.program(params, batch, packing, reference) for packing in passes))

    @functools.cached_property
    def program(self) -> Callable[..., Scores]:
        """(params, batch, packing, reference or None) -> scores of a pass; of the other rows 0."""

        def scorer(params: Params, batch: Rollout | TrainBatch, packing: Packing, reference: Params | None) -> Scores:
            return score(
                self.model,
                params,
                batch,
                self.sampling,
                chunk=self.chunk,
                packing=packing,
                concentration=self.concentration,
                reference=reference,
            )

        return self.jit(scorer)


@dataclasses.dataclass(frozen=True)
class ValueScorer:
    """(params of the critic, batch, passes) -> values float32 [B, T], without gradient."""

    critic: Critic
    jit: Callable[..., Any] = jax.jit

    def __call__(self, params: Params, batch: Rollout | TrainBatch, passes: Sequence[Packing]) -> Array:
        return functools.reduce(_add, (self.program(params, batch, packing) for packing in passes))

    @functools.cached_property
    def program(self) -> Callable[..., Array]:
        """(params, batch, packing) -> values of a pass; of the other rows 0."""
        return self.jit(functools.partial(score_values, self.critic))
