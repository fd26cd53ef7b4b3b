"""What the makers say of their chips, and topologies such as v5p:4x4x8 or h200:8."""

from __future__ import annotations

import dataclasses
import math
import re

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip, as published.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      memory: bytes.
      memory_bandwidth: bytes/s.
      network: bytes/s that it can receive over all its links to neighbours (ICI, NVLink); half of the published
        figure where that counts both directions.
      devices: that JAX sees of one chip.
      axes: of its topology; 0 for a GPU, whose plan is by formula alone.
      source: of the figures.
    """

    flops: float
    memory: float
    memory_bandwidth: float
    network: float
    devices: int
    axes: int
    source: str


_GOOGLE = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
CHIPS: dict[str, Chip] = {
    # ICI: 6 links of 50 GB/s each way, Jouppi et al., 2023, arXiv 2304.01433, table 4.
    "v4": Chip(275e12, 32 * _GIB, 1200e9, 300e9, 1, 3, _GOOGLE + "v4 and arXiv 2304.01433"),
    "v5e": Chip(197e12, 16 * _GIB, 819e9, 200e9, 1, 2, _GOOGLE + "v5e"),
    "v5p": Chip(459e12, 95 * _GIB, 2765e9, 600e9, 1, 3, _GOOGLE + "tpu7x"),
    "v6e": Chip(918e12, 32 * _GIB, 1638e9, 400e9, 1, 2, _GOOGLE + "tpu7x"),
    "tpu7x": Chip(2307e12, 192 * _GIB, 7380e9, 600e9, 2, 3, _GOOGLE + "tpu7x"),
    "a100": Chip(312e12, 80e9, 2039e9, 300e9, 1, 0, _NVIDIA + "a100 (SXM, 80 GB)"),
    "h100": Chip(989e12, 80e9, 3350e9, 450e9, 1, 0, _NVIDIA + "h100 (SXM)"),
    "h200": Chip(989e12, 141e9, 4800e9, 450e9, 1, 0, _NVIDIA + "h200 (SXM)"),
}
_MAX_DEVICES = 256


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind, laid out in a box.

    Attributes:
      name: as given, such as v5p:4x4x8.
      kind: a key of CHIPS.
      shape: chips along each axis.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """That JAX sees, which the mesh is laid over."""
        return self.chips * self.chip.devices

    @property
    def is_tpu(self) -> bool:
        return self.chip.axes > 0

    def per_device(self, figure: float) -> float:
        """The share of a chip's figure that one device has."""
        return figure / self.chip.devices


def parse_topology(text: str) -> Topology:
    """A topology from its name: v4, v5p and tpu7x as AxBxC, v5e and v6e as AxB, GPUs as their number.

    Raises:
      ValueError: an unknown chip, a shape that it does not have, or more than 256 devices.
    """
    found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", text)
    if found is None or found[1] not in CHIPS:
        raise ValueError(
            f"--topology {text!r}: expected CHIP:SHAPE, such as v5p:4x4x8, with a chip of {', '.join(CHIPS)}"
        )
    shape = tuple(int(size) for size in found[2].split("x"))
    axes = CHIPS[found[1]].axes or 1
    if len(shape) != axes or min(shape) < 1:
        raise ValueError(f"--topology {text!r}: expected {axes} sizes of at least 1 for {found[1]}")
    topology = Topology(text, found[1], shape)
    if topology.devices > _MAX_DEVICES:
        raise ValueError(f"--topology {text!r} has {topology.devices} devices: expected at most {_MAX_DEVICES}")
    return topology
