"""The mesh, the rules from logical axes to mesh axes, and the shardings of parameters and batches.

Mesh axes: `data` (slices, over the slow network), `fsdp` (parameters, optimizer and rows), `tensor` (heads, MLP,
vocabulary), `sequence` (columns of a row). Axes are Auto: XLA places what the constraints leave open; nothing in the
library names a device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor", "sequence")
ROW_AXES = ("data", "fsdp")  # mesh axes that rows of a batch are split over
SAMPLE_AXES = (*ROW_AXES, "sequence")  # and those of a rollout, whose columns are never split

# Logical axes of the weight tables -> mesh axis. No catch-all: an unknown axis is an error.
RULES: dict[str, str | None] = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head": None,
    "mlp": "tensor",
    "norm": None,
    "qkv": None,
    "experts": None,
    "positions": None,
    "rank": None,  # of an adapter
}


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis; -1 on at most one axis takes the devices that are left."""

    data: int
    fsdp: int
    tensor: int
    sequence: int


def mesh_shape(settings: MeshSettings, devices: int) -> tuple[int, int, int, int]:
    """The sizes of the mesh axes with -1 resolved.

    Raises:
      ValueError: two axes are -1, an axis is 0 or below -1, or the product is not the number of devices.
    """
    sizes = {axis: getattr(settings, axis) for axis in MESH_AXES}
    for axis, size in sizes.items():
        if size == 0 or size < -1:
            raise ValueError(f"mesh.{axis} = {size}: expected a number of devices, or -1 for those left")
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ValueError(f"mesh.{open_axes[0]} and mesh.{open_axes[1]} are both -1: at most one axis takes the rest")
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if devices % fixed or (not open_axes and fixed != devices):
        listed = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ValueError(f"mesh ({listed}) does not fit {devices} devices: its axes must multiply to that number")
    return tuple(devices // fixed if size == -1 else size for size in sizes.values())  # type: ignore[return-value]


def make_mesh(settings: MeshSettings, devices: list[Any] | None = None) -> Mesh:
    """The mesh over ``devices`` (all of this process group's if None), `data` over the slowest network between them.

    Raises:
      ValueError: as :func:`mesh_shape`, or `data` does not divide over the slices of TPUs.
    """
    devices = jax.devices() if devices is None else devices
    placed = lay_devices(mesh_shape(settings, len(devices)), devices)
    return Mesh(placed, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def lay_devices(shape: tuple[int, int, int, int], devices: list[Any]) -> np.ndarray:
    """``devices`` in the shape of the mesh, neighbours in the network where the mesh has neighbours.

    Between slices of TPUs runs `data` alone. Between hosts of other devices, whose network may be as fast as that
    inside, it does so where it divides over them. A mesh axis may be a part of a side of the box of TPUs.
    """
    data, fsdp, tensor, sequence = shape
    tpu = devices[0].platform == "tpu"
    parts = len({getattr(device, "slice_index", 0) if tpu else device.process_index for device in devices})
    if tpu and data % parts:
        raise ValueError(
            f"mesh.data = {data}: expected a multiple of {parts}, the slices, between which nothing else can run"
        )
    if parts == 1 or data % parts:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        (data // parts, fsdp, tensor, sequence),
        (parts, 1, 1, 1),
        devices,
        process_is_granule=not tpu,
        allow_split_physical_axes=True,
    )


def spec(
    axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh, *, whole: tuple[str, ...] = ()
) -> PartitionSpec:
    """The partition of one array by its logical axes; it is not split along the mesh axes in ``whole``.

    An axis whose size the mesh axis does not divide stays whole on every device (two key/value heads over eight
    devices, say), as the tensor-parallel layouts of the field do. A mesh axis of one device is not named: programs
    return arrays so, and would be compiled again for them.

    Raises:
      KeyError: a logical axis has no rule.
    """
    names: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis not in RULES:
            raise KeyError(f"logical axis {axis!r} has no sharding rule; known: {', '.join(RULES)}")
        name = RULES[axis]
        split = name is not None and name not in whole and mesh.shape[name] > 1 and size % mesh.shape[name] == 0
        names.append(name if split else None)
    while names and names[-1] is None:
        names.pop()
    return PartitionSpec(*names)


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Rows (the first axis) over data and fsdp, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(ROW_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def row_devices(mesh: Mesh | AbstractMesh) -> int:
    """How many ways rows are split."""
    return int(np.prod([mesh.shape[axis] for axis in ROW_AXES]))


def column_devices(mesh: Mesh | AbstractMesh) -> int:
    """How many ways the columns of a row are split; 1 without a mesh."""
    return 1 if mesh.empty else mesh.shape["sequence"]


def head_devices(mesh: Mesh | AbstractMesh) -> int:
    """How many ways the vocabulary of the output head is split; 1 without a mesh."""
    axis = RULES["vocab"]
    return 1 if mesh.empty or axis is None else mesh.shape[axis]


def constrain_rows(x: jax.Array) -> jax.Array:
    """States that rows of ``x`` are split over data and fsdp: where a mesh is set (`jax.set_mesh`) and divides them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % row_devices(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(ROW_AXES))


def sample_axes(rows: int, samples: int, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes that the rows of a rollout are split over: data, fsdp and sequence, or else data and fsdp, or none.

    Every device has whole groups, or a part of one group, so that what it reads of prompts is its own. Along other axes
    the work is repeated.

    Args:
      rows: B, prompt-major.
      samples: G, rows of a prompt.
      sizes: of the mesh axes.
    """
    for axes in (SAMPLE_AXES, ROW_AXES):
        own, rest = divmod(rows, math.prod(sizes[axis] for axis in axes))
        if rest == 0 and (own % samples == 0 or samples % own == 0):
            return axes
    return ()


def constrain_samples(x: jax.Array, samples: int) -> jax.Array:
    """States that rows of a rollout are split over :func:`sample_axes`: where a mesh is set (`jax.set_mesh`)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not (axes := sample_axes(len(x), samples, mesh.shape)):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def constrain_whole(x: jax.Array, axis: int) -> jax.Array:
    """States that ``x`` is not split along ``axis``, and nothing of its other axes: where a mesh is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    axes = [PartitionSpec.UNCONSTRAINED] * x.ndim
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes[:axis], None, *axes[axis + 1 :]))


def constrain_tokens(x: jax.Array) -> jax.Array:
    """As :func:`constrain_rows`, and that the columns of ``x`` [B, S, ...] are split over `sequence`.

    Raises:
      ValueError: `sequence` does not divide the columns.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if (ways := column_devices(mesh)) == 1:
        return constrain_rows(x)
    if x.shape[1] % ways:
        raise ValueError(f"mesh.sequence = {ways} does not divide the {x.shape[1]} columns of a row")
    rows = None if x.shape[0] % row_devices(mesh) else ROW_AXES
    return jax.lax.with_sharding_constraint(x, PartitionSpec(rows, "sequence"))


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays on the mesh, rows split over data and fsdp; whole where the number of rows does not divide."""
    ways = row_devices(mesh)

    def put(x: Any) -> jax.Array:
        place = row_sharding(mesh) if len(x) % ways == 0 else replicated(mesh)
        if jax.process_count() == 1 or isinstance(x, jax.Array):
            return jax.device_put(x, place)
        # device_put would first compare the values of all processes, through the network
        return jax.make_array_from_callback(x.shape, place, lambda index: x[index])

    return jax.tree.map(put, tree)


def to_host(tree: Any) -> Any:
    """The values of arrays, as numpy on this process, also where other processes hold parts of them.

    Every process must call it, on the same arrays.
    """
    if all(not isinstance(x, jax.Array) or x.is_fully_addressable for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return jax.device_get(jax.jit(_same, out_shardings=replicated(jax.sharding.get_mesh()))(tree))


def _same(tree: Any) -> Any:
    return tree
