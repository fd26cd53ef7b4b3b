"""Reads the tensors of a checkpoint into parameters on their devices, a band at a time.

A host never holds a weight beside its devices' shards: each shard is filled on its device from bands of at most
BAND_BYTES, which are cut so that they are neighbours in the file. A shard that is no larger goes in one piece.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding

from jaxrl_llm.models import names, weights
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.tensor_files import TensorSource
from jaxrl_llm.models.weights import Slices, Weight
from jaxrl_llm.types import Array, Params

BAND_BYTES = 1 << 25  # of a weight, in float32 or wider, in host memory at once, over all shards of this process
_COLUMNS = 16  # that a transposing copy writes at a time: a cache line of float32

Offsets = tuple[int, ...]


def read_params(source: TensorSource, config: ModelConfig, dtype: np.dtype, mesh: Mesh | None) -> Params:
    """The parameter tree, by the rules of `sharding.py` on ``mesh``, or on the default device if that is None.

    A process reads what its own devices hold, and what several of them hold once.

    Args:
      source: with the names and shapes of the weight table, see ``tensor_files.check``.
      dtype: of the parameters. Numbers of another dtype are rounded to it once, to nearest even; float64 by way of
        float32.

    Raises:
      ValueError: a tensor cannot be read, or is not finite in ``dtype``; or a tied model's lm_head.weight, where it
        is there, differs from the embedding.
    """
    if config.tied and "lm_head.weight" in source.shapes:
        _require_tied(source, config)
    if mesh is None:
        return weights.tree(config, lambda weight: _weight(weight, source, dtype, None))
    places = weights.shardings(config, mesh)
    return weights.tree(config, lambda weight: _weight(weight, source, dtype, weights.leaf(places, weight)))


def _weight(weight: Weight, source: TensorSource, dtype: np.dtype, place: Sharding | None) -> Array:
    shape = weight.shape if place is None else place.shard_shape(weight.shape)
    parts = _parts(weight, place)
    widest = max(dtype.itemsize, 4)  # GGUF's numbers are float32 on the way
    size, starts = _bands(weight, shape, BAND_BYTES // (len(parts) * widest))
    whole = size == shape
    devices = [device for sharers in parts.values() for device in sharers]
    shards = {} if whole else {device: jnp.zeros(shape, dtype, device=device) for device in devices}
    for start in starts:
        for offset, sharers in parts.items():
            index = tuple(slice(a + b, a + b + n) for a, b, n in zip(offset, start, size, strict=True))
            band = _read(weight, source, dtype, index)
            for device in sharers:
                if whole:
                    shards[device] = jax.device_put(band, device)
                    continue
                with contextlib.nullcontext() if device is None else jax.set_mesh(Mesh([device], ("device",))):
                    shards[device] = _write(shards[device], band, start)  # whatever mesh the caller has set
            del band  # or it would be there while the next is read
        jax.block_until_ready(list(shards.values()))  # or bands would queue up in host memory
    if place is None:
        return shards[None]
    return jax.make_array_from_single_device_arrays(weight.shape, place, [shards[device] for device in devices])


def _parts(weight: Weight, place: Sharding | None) -> dict[Offsets, list[Any]]:
    """Where the shards of this process begin -> the devices that hold them; None is the default device."""
    if place is None:
        return {(0,) * len(weight.shape): [None]}
    parts: dict[Offsets, list[Any]] = {}
    for device, index in place.addressable_devices_indices_map(weight.shape).items():
        assert index is not None  # the type allows it for arrays without axes
        parts.setdefault(tuple(axis.start or 0 for axis in index), []).append(device)
    return parts


def _bands(weight: Weight, shape: tuple[int, ...], limit: int) -> tuple[tuple[int, ...], list[Offsets]]:
    """The shape of a band of a shard, of at most ``limit`` numbers, and where each of its bands begins.

    A band is some of the stack, or where one entry of that is too large, rows of its tensor in the file. All are of one
    shape, so that one program writes them: the last may repeat a part of the one before.
    """
    band = list(shape)
    for axis in (*range(len(weight.stack)), weights.row_axis(weight)):
        if math.prod(band) <= limit:
            break
        others = math.prod(band) // band[axis]
        count = math.ceil(shape[axis] / max(1, limit // others))
        band[axis] = math.ceil(shape[axis] / count)
    starts = (
        [min(start, size - step) for start in range(0, size, step)] for size, step in zip(shape, band, strict=True)
    )
    return tuple(band), list(itertools.product(*starts))


@functools.partial(jax.jit, donate_argnums=0)
def _write(shard: Array, band: Array, start: Offsets) -> Array:
    return jax.lax.dynamic_update_slice(shard, band, start)


def _read(weight: Weight, source: TensorSource, dtype: np.dtype, index: Slices) -> np.ndarray:
    """The part ``index`` of a weight."""
    tensors, stack, of_layer = weight.part(index)
    array = np.empty((len(tensors), *(axis.stop - axis.start for axis in of_layer)), dtype)
    for to, name in zip(array, tensors, strict=True):
        _copy(to, weights.read_layer(weight, of_layer, functools.partial(source.read, name)))
        if not np.isfinite(to).all():
            raise ValueError(f"{source.where}: tensor {name} holds NaN or infinity")
    return array.reshape(*stack, *array.shape[1:])


def _copy(to: np.ndarray, tensor: np.ndarray) -> None:
    """to[...] = tensor, which is several times as fast in narrow columns where ``tensor`` is a transposed view."""
    if tensor.dtype == np.float64 and to.dtype != tensor.dtype:
        tensor = tensor.astype(np.float32)
    if tensor.ndim < 2 or tensor.strides[-1] == tensor.itemsize:
        to[...] = tensor
        return
    for column in range(0, to.shape[-1], _COLUMNS):
        to[..., column : column + _COLUMNS] = tensor[..., column : column + _COLUMNS]


def _require_tied(source: TensorSource, config: ModelConfig) -> None:
    name, (rows, width) = names.hf_name(config, "embed/embedding"), source.shapes["lm_head.weight"]
    step = max(1, BAND_BYTES // (width * np.dtype(np.float32).itemsize))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows)), slice(0, width)
        if not np.array_equal(source.read("lm_head.weight", part), source.read(name, part)):
            raise ValueError(
                f"{source.where}: tie_word_embeddings is true, but lm_head.weight differs from {name}; "
                "set tie_word_embeddings to false, or remove lm_head.weight"
            )
