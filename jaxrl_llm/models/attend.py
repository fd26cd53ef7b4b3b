"""Which attention computes, and on which part of the work a device computes it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from jaxrl_llm.models import kernels
from jaxrl_llm.models.attention import by_lanes
from jaxrl_llm.sharding import ROW_AXES, row_devices
from jaxrl_llm.types import Array

# Values of `model.attention` beside "auto", and what each needs.
NEEDS = {
    "splash": "a TPU, heads of a multiple of 64",
    "cudnn": "a GPU, model.dtype = 'bfloat16', heads of a multiple of 8 up to 128, no cap of scores",
    "xla": "nothing",
}


def implementation(
    choice: str, dtype: jnp.dtype, head_size: int, *, capped: bool = False, platform: str | None = None
) -> str:
    """What ``choice`` means where the program will run.

    "auto" is the first of NEEDS that has what it needs: the kernel of the platform, or else xla.

    Args:
      capped: whether scores have a cap.
      platform: as JAX names it; None: of the mesh that is set, or the default device.

    Raises:
      ValueError: an unknown choice, or a kernel that cannot run there.
    """
    if choice not in ("auto", *NEEDS):
        raise ValueError(f"model.attention = {choice!r}: expected auto or one of {', '.join(NEEDS)}")
    if platform is None:
        device = jax.sharding.get_abstract_mesh().abstract_device
        platform = jax.default_backend() if device is None else device.platform
    can = {
        "splash": platform == "tpu" and head_size % 64 == 0,
        "cudnn": platform == "gpu" and dtype == jnp.bfloat16 and head_size % 8 == 0 and head_size <= 128 and not capped,
        "xla": True,
    }
    if choice == "auto":
        return next(name for name in can if can[name])
    if not can[choice]:
        raise ValueError(
            f"model.attention = {choice!r} in {jnp.dtype(dtype).name} on {platform}, with heads of {head_size}"
            f"{', and a cap of scores' if capped else ''}: "
            f"expected {NEEDS[choice]}, or another choice"
        )
    return choice


def attend(
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    *,
    prompt: int = 0,
    lanes: int = 1,
    segments_per_lane: int = 1,
    choice: str = "auto",
    cap: float | None = None,
    span: tuple[Array, Array] | None = None,
) -> Array:
    """:func:`~jaxrl_llm.models.attention.by_lanes`, by any implementation, wherever rows, columns and heads lie.

    Args:
      query, key, value, segments, prompt, lanes, cap, span: as of ``by_lanes``.
      segments_per_lane: see :func:`~jaxrl_llm.models.kernels.splash`.
      choice: see :func:`implementation`.

    Raises:
      ValueError: as :func:`implementation`, or the mesh axis `sequence` does not divide columns or heads.
    """
    name = implementation(choice, query.dtype, query.shape[-1], capped=cap is not None)
    by: Callable[..., Array] = functools.partial(by_lanes, cap=cap)
    if name == "splash":
        by = functools.partial(kernels.splash, segments_per_lane=segments_per_lane, cap=cap)
    elif name == "cudnn":
        by = kernels.cudnn

    def local(query: Array, key: Array, value: Array, segments: Array, *span: Array) -> Array:
        both = (span[0], span[1]) if span else None
        return by(query, key, value, segments, prompt=prompt, lanes=lanes, span=both)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or (name == "xla" and mesh.shape["sequence"] == 1):  # XLA splits its own products by itself
        return local(query, key, value, segments, *(span or ()))
    return on_mesh(local, mesh, query, key, value, segments, *(span or ()))


def on_mesh(
    local: Callable[..., Array],
    mesh: AbstractMesh,
    query: Array,
    key: Array,
    value: Array,
    segments: Array,
    *span: Array,
) -> Array:
    """``local`` on every device, for whole rows and some of the heads.

    Columns are exchanged for heads before, and heads for columns after it (Ulysses; Jacobs et al., 2023, arXiv
    2309.14509), so that nothing of the attention itself is split. Key/value heads that are too few are repeated; heads
    that `tensor` does not divide are whole along it, as their weights are.

    Raises:
      ValueError: `sequence` does not divide the query heads, or not the columns.
    """
    rows, width, kv_heads, group, size = query.shape
    columns, tensor = mesh.shape["sequence"], mesh.shape["tensor"]
    if kv_heads * group % (tensor * columns):
        tensor = 1
    if kv_heads * group % columns or width % columns:
        raise ValueError(
            f"mesh.sequence = {columns} does not divide the {kv_heads * group} heads and the {width} columns of a row"
        )
    ways = tensor * columns
    copies = ways // math.gcd(kv_heads, ways)
    query = query.reshape(rows, width, kv_heads * copies, group // copies, size)
    key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))

    def exchange(query: Array, key: Array, value: Array, *of_rows: Array) -> Array:
        if columns == 1:
            return local(query, key, value, *of_rows)
        whole = functools.partial(jax.lax.all_to_all, axis_name="sequence", split_axis=2, concat_axis=1, tiled=True)
        heads = local(whole(query), whole(key), whole(value), *of_rows)
        return jax.lax.all_to_all(heads, "sequence", split_axis=1, concat_axis=2, tiled=True)

    of_rows = ROW_AXES if rows % row_devices(mesh) == 0 else None
    tokens = PartitionSpec(of_rows, "sequence", "tensor" if tensor > 1 else None)
    out = jax.shard_map(
        exchange,
        mesh=mesh,
        in_specs=(tokens, tokens, tokens, *(PartitionSpec(of_rows) for _ in (segments, *span))),
        out_specs=tokens,
        check_vma=False,  # kernels do not say along which axes their results differ
    )(query, key, value, segments, *span)
    return out.reshape(rows, width, kv_heads, group, size)
