"""The sampling loop: one prefill a prompt, shared by its group, then decoding until every row has stopped."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl_llm.sampling.keys import row_keys, token_uniforms
from jaxrl_llm.sampling.support import Sampling, support_logits
from jaxrl_llm.sharding import constrain_samples, constrain_whole
from jaxrl_llm.types import Array, KVCache, Model, Params, Rollout

BLOCK = 128  # vocabulary entries whose sum is one step of the inverse CDF
MIN_WIDTH = 32  # columns of the narrowest cache
CACHES = 4  # cache widths at most; each is one compiled loop


def draw(logprobs: Array, uniform: Array) -> Array:
    """A token a row by inverse CDF: the first whose cumulative probability exceeds ``uniform``.

    One uniform a row instead of one Gumbel draw an entry. Sums run over blocks first, so that the cumulative sum is
    never taken over the whole vocabulary.

    Args:
      logprobs: [B, V], -inf at tokens that cannot be drawn.
      uniform: [B] in [0, 1).

    Returns:
      int32 [B].
    """
    rows, vocabulary = logprobs.shape
    size = min(BLOCK, vocabulary)
    blocks = -(-vocabulary // size)
    mass = jnp.exp(jnp.pad(logprobs, ((0, 0), (0, blocks * size - vocabulary)), constant_values=-jnp.inf))
    mass = mass.reshape(rows, blocks, size)
    up_to_block = jnp.cumsum(mass.sum(axis=-1), axis=-1)
    total = up_to_block[:, -1]
    # Below the total even after rounding, so that some block exceeds it.
    target = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))
    block = jnp.argmax(up_to_block > target[:, None], axis=-1)
    inside = jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]
    before = jnp.take_along_axis(up_to_block, block[:, None], axis=-1)[:, 0] - inside.sum(axis=-1)
    within = jnp.cumsum(inside, axis=-1)
    # The sum of a block and its cumulative sum may round apart; the last token with mass is then the one meant.
    rest = jnp.minimum(target - before, jnp.nextafter(within[:, -1], jnp.zeros_like(total)))
    return (block * size + jnp.argmax(within > rest[:, None], axis=-1)).astype(jnp.int32)


def cache_widths(max_tokens: int) -> tuple[int, ...]:
    """Widths that the completion cache grows through: attention reads little more than what is filled."""
    step = max(MIN_WIDTH, -(-max_tokens // CACHES))
    return tuple(min(width, max_tokens) for width in range(step, max_tokens + step, step))


def _over_columns(function: Callable[[Array, int], Array], cache: KVCache) -> KVCache:
    """``function`` of every array of a cache and its axis of columns."""
    return KVCache(tuple(function(k, 3) for k in cache.keys), tuple(function(v, 2) for v in cache.values))


def _grow(cache: KVCache, width: int) -> KVCache:
    def pad(x: Array, axis: int) -> Array:
        spread = [(0, 0)] * x.ndim
        spread[axis] = (0, width - x.shape[axis])
        return jnp.pad(x, spread)

    return _over_columns(pad, cache)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """R rows on their way, R a multiple of the prompts P whose cache they share.

    Attributes:
      column: int32, the next to be drawn.
      keys: [R], of :func:`~jaxrl_llm.sampling.keys.row_keys`.
      prompt_length: int32 [P].
      prompt_cache: of [P, Q] prompt tokens.
      cache: of the tokens before ``column``, but for the last one.
      token: int32 [R], the last one.
      done: bool [R], whether a stop token was drawn.
      tokens, mask, logprobs: [R, T], of a :class:`~jaxrl_llm.types.Rollout`.
    """

    column: Array
    keys: Array
    prompt_length: Array
    prompt_cache: KVCache
    cache: KVCache
    token: Array
    done: Array
    tokens: Array
    mask: Array
    logprobs: Array

    @property
    def prompts(self) -> int:
        """P."""
        return self.prompt_length.shape[0]

    @property
    def rows(self) -> int:
        """R."""
        return self.done.shape[0]


@dataclasses.dataclass(frozen=True)
class Draws:
    """How tokens are drawn, and where rows end.

    Attributes:
      sampling: the distribution, and the width T.
      stop_ids: tokens that end a row. The stop token is part of the completion, and of its mask.
      pad_id: fills columns after the end; what it is does not matter, masks never read ids.
    """

    sampling: Sampling
    stop_ids: tuple[int, ...]
    pad_id: int

    def logprobs(self, model: Model, prepared: Params, hidden: Array) -> Array:
        return jax.nn.log_softmax(support_logits(model.unembed_prepared(prepared, hidden), self.sampling))

    def into(self, progress: Progress, logprobs: Array) -> Progress:
        """With the next column drawn of every row that has not stopped."""
        live, column = ~progress.done, progress.column
        token = jnp.where(live, draw(logprobs, token_uniforms(progress.keys, column)), self.pad_id)
        logprob = jnp.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0]

        def write(array: Array, values: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(array, values[:, None].astype(array.dtype), column, axis=1)

        return dataclasses.replace(
            progress,
            column=column + 1,
            token=token,
            done=progress.done | (token[:, None] == jnp.asarray(self.stop_ids, jnp.int32)).any(axis=-1),
            tokens=write(progress.tokens, token),
            mask=write(progress.mask, live),
            logprobs=write(progress.logprobs, jnp.where(live, logprob, 0.0)),
        )


def begin(
    model: Model,
    prepared: Params,
    prompt_tokens: Array,
    prompt_length: Array,
    prompt_id: Array,
    key: Array,
    samples: int,
    draws: Draws,
) -> Progress:
    """Every prompt prefilled, and the first column drawn of its completions; arguments as of :func:`generate`."""
    prompts, width = prompt_tokens.shape[0], draws.sampling.max_tokens
    rows = prompts * samples
    hidden, prompt_cache = model.prefill(prepared, prompt_tokens, prompt_length)
    nothing = Progress(
        column=jnp.int32(0),
        keys=row_keys(key, _repeat(prompt_id, samples), jnp.tile(jnp.arange(samples), prompts)),
        prompt_length=prompt_length,
        # Devices that share a group may have cut its prompt among them, which each token then had to bring together.
        prompt_cache=_over_columns(constrain_whole, prompt_cache),
        cache=model.empty_cache(rows, 0),
        token=jnp.full(rows, draws.pad_id, jnp.int32),
        done=jnp.zeros(rows, bool),
        tokens=jnp.full((rows, width), draws.pad_id, jnp.int32),
        mask=jnp.zeros((rows, width), bool),
        logprobs=jnp.zeros((rows, width), jnp.float32),
    )
    return draws.into(nothing, _repeat(draws.logprobs(model, prepared, hidden), samples))


def extend(
    model: Model,
    prepared: Params,
    progress: Progress,
    draws: Draws,
    width: int,
    few: Array | int = 0,
    lanes: str | None = None,
) -> Progress:
    """Draws columns until the cache, grown to ``width``, is full, or no more than ``few`` rows have not stopped.

    Args:
      model, prepared, lanes: as of :func:`generate`.
      progress: with a cache of at most ``width`` columns.
      draws: of the tokens.
      width: one of ``cache_widths``.
      few: 0 for all rows to stop.
    """
    last = min(width, draws.sampling.max_tokens - 1)  # the cache has room for the tokens before this column
    start = _repeat(progress.prompt_length, progress.rows // progress.prompts)

    def step(progress: Progress) -> Progress:
        """Feeds the last token, whose keys and values go to its column of the cache, and draws the next."""
        fed = progress.column - 1
        hidden, cache = model.decode(
            prepared,
            progress.token,
            start + fed,
            progress.prompt_cache,
            progress.prompt_length,
            progress.cache,
            fed,
        )
        progress = dataclasses.replace(progress, cache=cache)
        return draws.into(progress, draws.logprobs(model, prepared, hidden))

    def goes_on(progress: Progress) -> Array:
        many = (~progress.done).sum() > few
        if lanes is not None:
            many = jax.lax.pmax(many.astype(jnp.int32), lanes) > 0
        return (progress.column <= last) & many

    return jax.lax.while_loop(goes_on, step, dataclasses.replace(progress, cache=_grow(progress.cache, width)))


def _repeat(x: Array, samples: int) -> Array:
    return constrain_samples(jnp.repeat(x, samples, axis=0), samples)


@functools.partial(jax.jit, static_argnames=("model", "samples", "sampling", "stop_ids", "pad_id", "lanes"))
def generate(
    model: Model,
    prepared: Params,
    prompt_tokens: Array,
    prompt_length: Array,
    prompt_id: Array,
    key: Array,
    *,
    samples: int,
    sampling: Sampling,
    stop_ids: tuple[int, ...],
    pad_id: int,
    lanes: str | None = None,
) -> Rollout:
    """Samples completions of every prompt, all in one program.

    Args:
      model: the policy's functions.
      prepared: its parameters in the sampling layout, ``model.prepare(params)``.
      prompt_tokens: int32 [P, Q], right-padded.
      prompt_length: int32 [P], at least 1.
      prompt_id: int32 [P]; with ``key`` and the sample's index it seeds the text.
      key: of this step, see :mod:`jaxrl_llm.sampling.keys`.
      samples: G, completions of each prompt.
      sampling, stop_ids, pad_id: see :class:`Draws`.
      lanes: the axis name of a `jax.vmap` over calls, which then end together: a loop whose end differs by lane would
        copy the cache at every token.

    Returns:
      A rollout of B = P * G rows, prompt-major.
    """
    draws = Draws(sampling, stop_ids, pad_id)
    progress = begin(model, prepared, prompt_tokens, prompt_length, prompt_id, key, samples, draws)
    for width in cache_widths(sampling.max_tokens):
        progress = extend(model, prepared, progress, draws, width, lanes=lanes)
    return Rollout(
        prompt_tokens=_repeat(prompt_tokens, samples),
        prompt_length=_repeat(prompt_length, samples),
        tokens=progress.tokens,
        mask=progress.mask,
        sampler_logprobs=progress.logprobs,
        truncated=~progress.done,
        prompt_id=_repeat(prompt_id, samples),
    )
