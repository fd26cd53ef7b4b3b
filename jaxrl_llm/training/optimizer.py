"""The optimizer: AdamW with a warm-up and a decay schedule, after clipping of the global gradient norm.

Adam's two moments take twice the memory of the parameters. They may be stored in bfloat16, and in the memory of the
hosts between two updates; an update computes in float32 on the devices either way.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxrl_llm.core.rounding import cheap_bits, stochastic_round
from jaxrl_llm.training.offload import HOST_MEMORY, to_device_memory, to_host_memory


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    learning_rate: float
    warmup_steps: int
    schedule: Literal["constant", "linear", "cosine"]
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float | None
    state_dtype: Literal["float32", "bfloat16"]
    offload: bool


def learning_rate(settings: OptimizerSettings, total_steps: int) -> optax.Schedule:
    """Linear warm-up from learning_rate / warmup_steps, then the schedule, down to 0 after ``total_steps``."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    rest = max(1, total_steps - warmup)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }[settings.schedule]
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup - 1 or 1), after], [warmup])


def make_optimizer(settings: OptimizerSettings, total_steps: int, *, seed: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101).

    Args:
      total_steps: optimizer steps of the run.
      seed: of the run; it draws how moments are rounded.
    """
    moments = optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2, eps=settings.epsilon)
    if settings.state_dtype == "bfloat16":
        moments = store_in_bfloat16(moments, seed)
    if settings.offload:
        moments = keep_on_host(moments)
    adamw = optax.chain(
        moments,
        optax.add_decayed_weights(settings.weight_decay),
        optax.scale_by_learning_rate(learning_rate(settings, total_steps)),
    )
    if settings.clip_norm is None:
        return adamw
    return optax.chain(clip_by_global_norm(settings.clip_norm), adamw)


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """g · min(1, largest / ‖g‖), with the norm over the whole tree (Pascanu et al., 2013, arXiv 1211.5063).

    optax's own divides every number by the norm, which XLA does not repeat for both moments: the clipped gradients
    would stand beside the gradients, memory of another model.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factor = jnp.minimum(1.0, largest / gradient_norm(updates))
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def gradient_norm(gradients: optax.Updates) -> jax.Array:
    """√Σ g² over the whole tree.

    Behind a barrier: XLA would hold the squares of all gradients for Adam's second moment to read, too.
    """
    return optax.tree.norm(jax.lax.optimization_barrier(gradients))


def store_in_bfloat16(adam: optax.GradientTransformation, seed: int) -> optax.GradientTransformation:
    """`optax.scale_by_adam` whose moments are bfloat16 between updates, rounded at random so that none is lost.

    An update reads them as float32, and what it makes of them for this step is not rounded. With β₂ = 0.999 the second
    moment moves by at most a thousandth of itself a step; the nearest bfloat16, whose steps are 1/256 to 1/128, would
    stay where it is for ever.

    The random bits of a number are a fold of the seed, the count of updates, the path of its parameter, and its
    place in it: the same on every mesh and after a restart. The low half of 32 bits rounds the first moment, the high
    half the second.
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        state = adam.init(params)
        return state._replace(mu=_cast(state.mu, jnp.bfloat16), nu=_cast(state.nu, jnp.bfloat16))  # type: ignore[attr-defined]

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        wide = state._replace(mu=_cast(state.mu, jnp.float32), nu=_cast(state.nu, jnp.float32))
        updates, new = adam.update(updates, wide, params)
        key = jax.random.fold_in(jax.random.key(seed), state.count)

        def bits(path: Any, x: jax.Array) -> jax.Array:
            of_leaf = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
            return cheap_bits(of_leaf, x.shape)

        drawn = jax.tree_util.tree_map_with_path(bits, new.mu)  # type: ignore[attr-defined]
        mu = jax.tree.map(stochastic_round, new.mu, drawn)  # type: ignore[attr-defined]
        nu = jax.tree.map(lambda x, b: stochastic_round(x, b >> 16), new.nu, drawn)  # type: ignore[attr-defined]
        return updates, new._replace(mu=mu, nu=nu)  # type: ignore[attr-defined]

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def keep_on_host(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """`adam` whose moments lie in the memory of the hosts between updates; `state_shardings` places the first ones.

    An update brings them to the devices, all of them for a moment, and takes the new ones back.
    """

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        there = state._replace(mu=to_device_memory(state.mu), nu=to_device_memory(state.nu))
        updates, new = adam.update(updates, there, params)
        new: Any
        return updates, new._replace(mu=to_host_memory(new.mu), nu=to_host_memory(new.nu))

    return optax.GradientTransformation(adam.init, update)


def state_shardings(optimizer: optax.GradientTransformation, params: optax.Params, *, offload: bool) -> optax.OptState:
    """Where the optimizer's state lies: moments as their parameters lie, or on the hosts of those devices.

    Args:
      params: arrays, or shapes with shardings.

    Returns:
      A sharding for each moment, and None for what is of no parameter.
    """

    def of_moment(_: jax.Array, parameter: jax.Array) -> jax.sharding.Sharding:
        return parameter.sharding.with_memory_kind(HOST_MEMORY) if offload else parameter.sharding

    abstract = jax.eval_shape(optimizer.init, params)
    return optax.tree.map_params(optimizer, of_moment, abstract, params, transform_non_params=lambda _: None)


def init_optimizer(
    optimizer: optax.GradientTransformation, params: optax.Params, *, offload: bool = False
) -> optax.OptState:
    """The optimizer's first state, placed as `state_shardings` says."""
    placed = state_shardings(optimizer, params, offload=offload)
    return jax.jit(optimizer.init, out_shardings=placed)(params)
