"""The mesh: how it lies over devices, and that the model computes on any of them what it computes on one device."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.models import decoder, weights
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.sharding import (
    MESH_AXES,
    MeshSettings,
    constrain_tokens,
    lay_devices,
    make_mesh,
    sample_axes,
    shard_rows,
)
from tests.models import tiny

# Two key/value heads for eight query heads: `tensor` and `sequence` split the heads further than that.
CONFIG = from_hf(tiny.hf_config("qwen3", num_attention_heads=8, num_key_value_heads=2), "test")
MODEL = decoder.functions(CONFIG)
PROMPT, LANES, WIDTH = 4, 2, 6  # columns of the prompt, lanes, columns of a lane
ROWS, COLUMNS = 8, PROMPT + LANES * WIDTH
# Shapes by axis: data, fsdp, tensor, sequence
MESHES = [
    (1, 8, 1, 1),
    (8, 1, 1, 1),
    (2, 2, 2, 1),
    (1, 4, 1, 2),
    (1, 2, 2, 2),
    (2, 1, 1, 4),
    (1, 1, 2, 4),
    (1, 1, 1, 8),
]


def inputs() -> tuple[np.ndarray, ...]:
    """Rows [prompt | lane | lane] with two sequences in the first lane and padding behind each part."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CONFIG.vocab_size, (ROWS, COLUMNS))
    segments = np.tile([1, 1, 1, 0, 1, 1, 2, 2, 2, 0, 1, 1, 1, 1, 0, 0], (ROWS, 1))
    positions = np.tile([0, 1, 2, 0, 3, 4, 3, 4, 5, 0, 3, 4, 5, 6, 0, 0], (ROWS, 1))
    return tuple(x.astype(np.int32) for x in (tokens, positions, segments))


@functools.cache
def parameters():
    return jax.device_get(jax.jit(MODEL.init)(jax.random.key(0)))


def hidden_and_gradient(params, rows):
    weight = np.random.default_rng(1).standard_normal((ROWS, COLUMNS, CONFIG.width)).astype(np.float32)

    def loss(params):
        hidden = MODEL.apply(params, *rows, PROMPT, LANES)
        return jnp.sum(hidden * weight * (rows[2] != 0)[..., None]), hidden

    (_, hidden), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return jax.device_get((hidden, gradient))


@functools.cache
def on_one_device():
    return hidden_and_gradient(parameters(), tuple(map(jnp.asarray, inputs())))


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_every_mesh_gives_the_hidden_states_and_gradients_of_one_device(shape):
    mesh = make_mesh(MeshSettings(*shape))
    with jax.set_mesh(mesh):
        params = jax.device_put(parameters(), weights.shardings(CONFIG, mesh))
        hidden, gradient = hidden_and_gradient(params, shard_rows(inputs(), mesh))
    expected, expected_gradient = on_one_device()
    real = inputs()[2] != 0
    # Sums over devices come in another order: float32 gives a few 1e-6 of the largest number of an array.
    np.testing.assert_allclose(hidden[real], expected[real], rtol=0, atol=1e-5 * np.abs(expected).max())
    assert jax.tree.structure(gradient) == jax.tree.structure(expected_gradient)
    for found, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_what_the_sequence_axis_does_not_divide_is_refused():
    with jax.set_mesh(make_mesh(MeshSettings(1, 2, 1, 4))):
        with pytest.raises(ValueError, match=r"mesh\.sequence = 4 does not divide the 6 columns of a row"):
            constrain_tokens(jnp.zeros((2, 6, 8)))
        six_heads = decoder.functions(dataclasses.replace(CONFIG, heads=6))
        with pytest.raises(ValueError, match=r"mesh\.sequence = 4 does not divide the 6 heads"):
            jax.eval_shape(six_heads.init, jax.random.key(0))


@pytest.mark.parametrize(
    ("prompts", "samples", "sizes", "axes"),
    [
        (16, 4, (2, 2, 2, 2), ("data", "fsdp", "sequence")),  # two groups a device
        (2, 8, (1, 2, 1, 4), ("data", "fsdp", "sequence")),  # two rows of one group
        (1, 8, (1, 2, 1, 4), ("data", "fsdp", "sequence")),
        (6, 4, (1, 2, 1, 4), ("data", "fsdp")),  # three rows a device, of groups of four
        (6, 3, (1, 2, 1, 4), ("data", "fsdp")),  # 18 rows over 8 devices
        (3, 3, (1, 2, 1, 4), ()),  # 9 rows over 2
        (3, 2, (1, 2, 1, 1), ()),  # three rows a device, of groups of two
    ],
)
def test_a_device_has_whole_groups_of_a_rollout_or_a_part_of_one(prompts, samples, sizes, axes):
    assert sample_axes(prompts * samples, samples, dict(zip(MESH_AXES, sizes, strict=True))) == axes


@dataclasses.dataclass(frozen=True)
class Device:
    """What the layout asks of a device."""

    id: int
    process_index: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5p"
    core_on_chip: int = 0


def box(x: int, y: int, z: int, slices: int = 1) -> list[Device]:
    """The chips of ``slices`` boxes, four to a host."""
    places = [(i, j, k) for k in range(z) for j in range(y) for i in range(x)]
    return [
        Device(s * len(places) + i, (s * len(places) + i) // 4, s, place)
        for s in range(slices)
        for i, place in enumerate(places)
    ]


@pytest.mark.parametrize("shape", [(1, 64, 2, 1), (1, 16, 4, 2), (2, 8, 2, 4), (1, 128, 1, 1)], ids=str)
def test_a_mesh_axis_may_be_a_part_of_a_side_of_a_box(shape):
    placed = lay_devices(shape, box(4, 4, 8))
    assert placed.shape == shape
    assert len({device.id for device in placed.flat}) == math.prod(shape) == 128


def test_data_runs_between_slices_and_everything_else_inside_one():
    placed = lay_devices((4, 4, 2, 2), box(2, 4, 4, slices=2))
    slices = np.vectorize(lambda device: device.slice_index)(placed)
    assert (slices == np.array([0, 0, 1, 1])[:, None, None, None]).all()
    with pytest.raises(ValueError, match=r"mesh\.data = 1: expected a multiple of 2, the slices"):
        lay_devices((1, 32, 2, 1), box(2, 4, 4, slices=2))


def test_data_runs_between_hosts_where_it_divides_over_them():
    devices = [Device(i, i % 2, 0, (0, 0, 0), platform="gpu", device_kind="GPU") for i in range(8)]
    hosts = np.vectorize(lambda device: device.process_index)
    assert (hosts(lay_devices((2, 2, 2, 1), devices)) == np.array([0, 1])[:, None, None, None]).all()
    assert lay_devices((1, 8, 1, 1), devices).shape == (1, 8, 1, 1)


def test_a_mesh_names_its_axes_in_the_order_of_the_settings():
    assert tuple(field.name for field in dataclasses.fields(MeshSettings)) == MESH_AXES
