"""Between the memory of the devices and that of their hosts, outside of programs and inside; shardings stay.

On a CPU both kinds are the same memory: arrays are placed and moved as elsewhere, and nothing is saved.
"""

from __future__ import annotations

from typing import Any

import jax

HOST_MEMORY = "pinned_host"  # the memory kind that a sharding names, see jax.sharding.NamedSharding


def to_host_memory(tree: Any) -> Any:
    """The same arrays in the memory of the hosts of their devices."""
    return jax.device_put(tree, jax.memory.Space.Host)


def to_device_memory(tree: Any) -> Any:
    """The same arrays in the memory of their devices; those that are there already are not moved."""
    return jax.device_put(tree, jax.memory.Space.Device)
