"""The optimizer's state: in bfloat16 by rounding at random, and in the memory of the hosts."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrl_llm.sharding import MeshSettings, make_mesh
from jaxrl_llm.training.optimizer import OptimizerSettings, init_optimizer, make_optimizer
from jaxrl_llm.training.update import PolicyUpdate
from jaxrl_llm.types import TrainState
from tests.compilation import optimized_jit

SETTINGS = OptimizerSettings(
    learning_rate=1e-2,
    warmup_steps=0,
    schedule="constant",
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    weight_decay=0.1,
    clip_norm=1.0,
    state_dtype="float32",
    offload=False,
)


def settings(**changes: Any) -> OptimizerSettings:
    return dataclasses.replace(SETTINGS, **changes)


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"a": jnp.asarray(rng.normal(size=(16, 8)), jnp.float32), "b": {"c": jnp.ones(24)}, "d": jnp.ones(24)}


def trained(settings: OptimizerSettings, params: Any, *, steps: int = 3, seed: int = 0) -> tuple[Any, Any]:
    """Parameters and state after a few steps along fixed gradients."""
    optimizer = make_optimizer(settings, 10, seed=seed)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(of_before, count):
        params, state = of_before
        gradients = jax.tree.map(lambda x: jnp.sin(x * 5 + count), params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    run = jax.tree.map(jnp.copy, params), init_optimizer(optimizer, params, offload=settings.offload)
    for count in range(steps):
        run = step(run, count)
    return run


def moments(state: Any) -> list[jax.Array]:
    """Of every parameter: first moments, then second ones."""
    return [x for name in ("mu", "nu") for x in jax.tree.leaves(optax.tree.get(state, name))]


@pytest.mark.parametrize(("clip_norm", "tolerance"), [(None, 0.0), (1.0, 1e-6)], ids=str)
def test_in_float32_it_is_optax_adamw(clip_norm, tolerance):
    """Bit by bit; clipping is the same product in another order, so within rounding."""
    adamw = optax.adamw(lambda _: 1e-2, 0.9, 0.999, 1e-8, weight_decay=0.1)
    reference = optax.chain(optax.clip_by_global_norm(1.0), adamw) if clip_norm else adamw
    params, ours = parameters(), make_optimizer(settings(clip_norm=clip_norm), 10, seed=0)
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(reference.init(params))

    @jax.jit
    def updates(params):
        gradients = jax.tree.map(jnp.sin, params)
        return tuple(optimizer.update(gradients, optimizer.init(params), params)[0] for optimizer in (ours, reference))

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=tolerance), *updates(params))


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_step_holds_nothing_beside_its_state_and_the_gradients(clip_norm):
    """By XLA's own count: neither the squares of all gradients nor the clipped ones, each as large as the model."""
    params = {"a": jax.ShapeDtypeStruct((256, 1024), jnp.float32), "b": jax.ShapeDtypeStruct((4, 64, 512), jnp.float32)}
    optimizer = make_optimizer(settings(clip_norm=clip_norm), 10, seed=0)
    nothing: Any = None  # is read of model, algorithm and controls
    update = PolicyUpdate(nothing, nothing, nothing, optimizer, chunk=1, jit=optimized_jit)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(step, params, {}, jax.eval_shape(optimizer.init, params), nothing, {}, {})  # type: ignore[arg-type]
    memory = update.apply.lower(state, params).compile().memory_analysis()
    of_model = sum(x.size * 4 for x in params.values())
    assert memory.temp_size_in_bytes < 0.1 * of_model


def test_bfloat16_moments_take_half_the_bytes():
    def held(dtype: str) -> int:
        return sum(x.nbytes for x in moments(trained(settings(state_dtype=dtype), parameters(), steps=1)[1]))

    assert held("float32") == 2 * 4 * (16 * 8 + 24 + 24) == 2 * held("bfloat16")


def test_a_step_is_computed_in_float32_and_only_what_is_stored_is_rounded():
    """The first step starts from moments of 0, which a bfloat16 holds."""
    params = parameters()
    (got, state), (wanted, exact) = (trained(settings(state_dtype=d), params, steps=1) for d in ("bfloat16", "float32"))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    for rounded, number in zip(moments(state), moments(exact), strict=True):
        # neighbours in bfloat16, whose fraction has 7 bits, are at most 2^-7 of a number apart
        np.testing.assert_allclose(rounded.astype(jnp.float32), number, rtol=2**-7)
        assert np.any(np.asarray(rounded.astype(jnp.float32)) != np.asarray(number))


TRIALS = [(1, 0), (1, 1), (1, 0)]  # steps, seed


def test_rounding_follows_seed_step_and_parameter():
    """Alike parameters under alike gradients: their moments differ by what was drawn alone."""
    start = parameters()
    drawn = [trained(settings(state_dtype="bfloat16"), start, steps=steps, seed=seed)[1] for steps, seed in TRIALS]
    first, other_seed, again = (np.asarray(optax.tree.get(state, "mu")["d"]) for state in drawn)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other_seed)
    of_path = np.asarray(optax.tree.get(drawn[0], "mu")["b"]["c"])
    assert np.any(first != of_path), "two parameters draw the same"
    assert len(set(first.tolist())) == 2, "every number of a parameter draws the same"
    second = np.asarray(optax.tree.get(drawn[0], "nu")["d"])
    assert np.any((first == first.max()) != (second == second.max())), "both moments draw the same"


def test_it_comes_to_the_same_point_as_float32_on_a_noisy_quadratic():
    """loss = Σ curvature · (x - 1)² / 2 with gradient noise, and a learning rate that goes to 0."""
    curvature = jnp.logspace(-1, 1, 256)

    @functools.partial(jax.jit, static_argnums=0)
    def end(dtype):
        optimizer = make_optimizer(
            settings(state_dtype=dtype, schedule="cosine", learning_rate=0.05, weight_decay=0.0), 400, seed=0
        )

        def step(run, count):
            x, state = run
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), count), x.shape)
            updates, state = optimizer.update(curvature * (x - 1 + 0.1 * noise), state, x)
            return (optax.apply_updates(x, updates), state), None

        x = jnp.zeros(256)
        return jax.lax.scan(step, (x, optimizer.init(x)), jnp.arange(400))[0][0]

    exact, rounded = (np.asarray(end(dtype)) for dtype in ("float32", "bfloat16"))
    # Both end about 0.01 from the minimum, where the gradient's noise keeps them; they must be closer to each other.
    noise = np.sqrt(np.mean((exact - 1) ** 2))
    assert noise < 0.02
    assert np.sqrt(np.mean((rounded - exact) ** 2)) < noise / 4
    assert abs(np.mean(rounded - exact)) < noise / 16, "rounding pulls to one side"


def test_the_second_moment_arrives_where_the_nearest_bfloat16_would_stop_on_the_way():
    """Squared gradients of 3/4 and β₂ = 0.999: from 1/4 on, a step is less than half of what a bfloat16 resolves."""
    optimizer = make_optimizer(settings(state_dtype="bfloat16", clip_norm=None), 4000, seed=0)
    x, gradients = jnp.zeros(256), jnp.full(256, 0.75**0.5)

    @jax.jit
    def after():
        def step(run, _):
            state, nearest = run
            moved = 0.999 * nearest.astype(jnp.float32) + 0.001 * 0.75
            return (optimizer.update(gradients, state, x)[1], moved.astype(jnp.bfloat16)), None

        state, nearest = jax.lax.scan(step, (optimizer.init(x), jnp.zeros((), jnp.bfloat16)), length=4000)[0]
        return optax.tree.get(state, "nu").astype(jnp.float32), nearest

    random, nearest = map(np.asarray, after())
    wanted = 0.75 * (1 - 0.999**4000)  # 0.736
    assert nearest == 0.25
    # Between 1/2 and 1 a rounding has a variance of at most ulp² / 4 = 2^-18, which is forgotten over
    # 1 / (1 - 0.999²) = 500 steps: numbers deviate by at most 0.044, and the mean of 256 of them by 0.0027.
    assert abs(random.mean() - wanted) < 4 * 0.0027
    assert np.all(np.abs(random - wanted) < 5 * 0.044)


SPLIT = {"fsdp": 4, "tensor": 2}


@functools.cache
def on_a_mesh(offload: bool, dtype: str = "bfloat16") -> tuple[Any, Any]:
    mesh = make_mesh(
        MeshSettings(**dict.fromkeys([field.name for field in dataclasses.fields(MeshSettings)], 1) | SPLIT)
    )
    places = {"a": P("fsdp", "tensor"), "b": {"c": P("tensor")}, "d": P()}
    with jax.set_mesh(mesh):
        params = jax.tree.map(lambda x, p: jax.device_put(x, NamedSharding(mesh, p)), parameters(), places)
        return trained(settings(state_dtype=dtype, offload=offload), params)


def test_a_mesh_rounds_as_one_device_does():
    """The norm of the gradient is a sum in another order on a mesh; else all were the same to the last bit."""
    got, wanted = on_a_mesh(offload=False), trained(settings(state_dtype="bfloat16"), parameters())
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), got[0], wanted[0])
    same = [np.mean(np.asarray(a) == np.asarray(b)) for a, b in zip(moments(got[1]), moments(wanted[1]), strict=True)]
    assert min(same) > 0.98  # a sum that is off in its last bit changes the rounding of one number in 65536


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_on_the_hosts_are_those_on_the_devices_to_the_last_bit(dtype):
    (params, state), (wanted, of_wanted) = on_a_mesh(True, dtype), on_a_mesh(False, dtype)
    for got, other, host, device in (
        (params, wanted, "device", "device"),
        (moments(state), moments(of_wanted), "pinned_host", "device"),
    ):
        jax.tree.map(np.testing.assert_array_equal, got, other)
        assert {x.sharding.memory_kind for x in jax.tree.leaves(got)} == {host}
        assert {x.sharding.memory_kind for x in jax.tree.leaves(other)} == {device}
    for x, parameter in zip(moments(state), 2 * jax.tree.leaves(params), strict=True):
        assert x.sharding.is_equivalent_to(parameter.sharding.with_memory_kind("pinned_host"), x.ndim)
    assert (
        optax.tree.get(state, "count", filtering=lambda path, _: "Adam" in str(path)).sharding.memory_kind == "device"
    )


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_an_accelerator_moves_the_moments_inside_of_the_update(platform):
    """What the program says where there is no accelerator: each moment goes to the device, and back to the host."""
    params = {"w": jnp.ones((8, 8))}
    optimizer = make_optimizer(settings(offload=True), 10, seed=0)
    state = init_optimizer(optimizer, params, offload=True)
    update = jax.jit(lambda g, s, p: optimizer.update(g, s, p))
    text = update.trace(params, state, params).lower(lowering_platforms=(platform,)).as_text()
    for kind in ("device", "pinned_host"):
        assert text.count(f'_xla_buffer_placement = "{kind}"') == 2
