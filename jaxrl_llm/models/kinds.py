"""In what the layers of one decoder differ: windows and rotations."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxrl_llm.models.architecture import ModelConfig

# Of a layer that has no window where others have one, as a number that a scan can carry.
_NO_WINDOW = 1 << 30


class Kind(NamedTuple):
    """What one layer has in a decoder whose layers are not alike; whole numbers, in a scan traced ones.

    Attributes:
      window: positions that a token sees, its own included; None: all.
      rope: its entry in angles of several kinds; None: there is one kind.
    """

    window: Any = None
    rope: Any = None


PLAIN = Kind()


def layer_kinds(config: ModelConfig) -> list[Kind]:
    """Of each layer; all alike where the architecture makes no difference."""
    ropes = config.ropes
    return [
        Kind(config.window_of(layer), ropes.index(config.rope_of(layer)) if len(ropes) > 1 else None)
        for layer in range(config.layers)
    ]


def stacked_kinds(config: ModelConfig) -> Kind:
    """As arrays [L] for a scan."""
    windows, ropes = zip(*layer_kinds(config), strict=True)
    numbers = [_NO_WINDOW if window is None else window for window in windows]
    return Kind(
        None if config.window is None else jnp.array(numbers, jnp.int32),
        None if ropes[0] is None else jnp.array(ropes, jnp.int32),
    )
