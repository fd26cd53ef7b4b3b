"""The sampling loop: one prefill a prompt, shared by its group, then decoding until every row has stopped."""

from __future__ import annotations

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
    """Samples completions of every prompt.

    Args:
      model: the policy's functions.
      prepared: its parameters in the sampling layout, ``model.prepare(params)``.
      prompt_tokens: int32 [P, Q], right-padded.
      prompt_length: int32 [P], at least 1.
      prompt_id: int32 [P]; with ``key`` and the sample's index it seeds the text.
      key: of this step, see :mod:`jaxrl_llm.sampling.keys`.
      samples: G, completions of each prompt.
      sampling: the distribution, and the width T.
      stop_ids: tokens that end a row. The stop token is part of the completion, and of its mask.
      pad_id: fills columns after the end; what it is does not matter, masks never read ids.
      lanes: the axis name of a `jax.vmap` over calls, which then end together: a loop whose end differs by lane would
        copy the cache at every token.

    Returns:
      A rollout of B = P * G rows, prompt-major.
    """
    prompts, width = prompt_tokens.shape[0], sampling.max_tokens
    rows = prompts * samples

    def repeat(x: Array) -> Array:
        return constrain_samples(jnp.repeat(x, samples, axis=0), samples)

    keys = row_keys(key, repeat(prompt_id), jnp.tile(jnp.arange(samples), prompts))
    start = repeat(prompt_length)
    stops = jnp.asarray(stop_ids, jnp.int32)

    def sample_column(carry: dict[str, Array], column: Array, logprobs: Array) -> dict[str, Array]:
        """Draws column ``column`` of every row that has not stopped."""
        live = ~carry["done"]
        token = jnp.where(live, draw(logprobs, token_uniforms(keys, column)), pad_id)
        logprob = jnp.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0]

        def write(array: Array, values: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(array, values[:, None].astype(array.dtype), column, axis=1)

        return {
            "token": token,
            "done": carry["done"] | (token[:, None] == stops).any(axis=-1),
            "tokens": write(carry["tokens"], token),
            "mask": write(carry["mask"], live),
            "logprobs": write(carry["logprobs"], jnp.where(live, logprob, 0.0)),
        }

    def logprobs_of(hidden: Array) -> Array:
        return jax.nn.log_softmax(support_logits(model.unembed_prepared(prepared, hidden), sampling))

    hidden, prompt_cache = model.prefill(prepared, prompt_tokens, prompt_length)
    # Devices that share a group may have cut its prompt among them, which each token would then have to bring together.
    prompt_cache = _over_columns(constrain_whole, prompt_cache)
    carry = {
        "token": jnp.full(rows, pad_id, jnp.int32),
        "done": jnp.zeros(rows, bool),
        "tokens": jnp.full((rows, width), pad_id, jnp.int32),
        "mask": jnp.zeros((rows, width), bool),
        "logprobs": jnp.zeros((rows, width), jnp.float32),
    }
    carry = sample_column(carry, jnp.int32(0), repeat(logprobs_of(hidden)))

    def step(state: tuple[Array, KVCache, dict[str, Array]]) -> tuple[Array, KVCache, dict[str, Array]]:
        """Feeds the token of column - 1, whose keys and values go there in the cache, and draws column ``column``."""
        column, cache, carry = state
        hidden, cache = model.decode(
            prepared, carry["token"], start + column - 1, prompt_cache, prompt_length, cache, column - 1
        )
        return column + 1, cache, sample_column(carry, column, logprobs_of(hidden))

    def all_done(done: Array) -> Array:
        return done.all() if lanes is None else jax.lax.pmin(done.all().astype(jnp.int32), lanes) > 0

    state = (jnp.int32(1), model.empty_cache(rows, 0), carry)
    for cache_width in cache_widths(width):
        last = min(cache_width, width - 1)  # the cache has room for the tokens before this column
        column, cache, carry = state
        state = jax.lax.while_loop(
            lambda s, last=last: (s[0] <= last) & ~all_done(s[2]["done"]),
            step,
            (column, _grow(cache, cache_width), carry),
        )
    carry = state[2]
    return Rollout(
        prompt_tokens=repeat(prompt_tokens),
        prompt_length=start,
        tokens=carry["tokens"],
        mask=carry["mask"],
        sampler_logprobs=carry["logprobs"],
        truncated=~carry["done"],
        prompt_id=repeat(prompt_id),
    )
