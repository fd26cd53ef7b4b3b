"""The collectives of a compiled program, counted from its text: kind, mesh axis, runs and bytes.

XLA's own cost analysis counts the body of a loop once. Here each collective is multiplied by the trips of the loops
around it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from typing import Any

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_EXPLICIT_CHANNEL = "1"  # of every collective that a jax.shard_map states
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # every other type ends in its number of bits
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(%?([\w.\-]+)\)")
_NOISE = re.compile(r"(?<=\])\{[^{}]*\}|, metadata=\{[^{}]*\}|/\*.*?\*/")  # layouts, origins, comments
_OPERANDS = re.compile(r"(?:^| )[a-z][\w\-]*\(([^()]*)\)")
# mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}
_MESH_GROUPS = re.compile(
    r"replica_groups=(?:@\w+ )?mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same mesh axes.

    Attributes:
      kind: one of KINDS.
      axes: of the mesh that its devices differ in, joined by "+"; "?" where the groups are no product of axes.
      trips: of the loops around it; 1 outside.
      backward: whether it is of a backward pass.
      sites: places in the program.
      runs: of one run of the program.
      bytes: that one device receives in one run of the program, at least: (n - 1) / n of what an all-gather makes,
        twice that for an all-reduce.
    """

    kind: str
    axes: str
    trips: float
    backward: bool
    sites: int
    runs: float
    bytes: float


@dataclasses.dataclass
class _Computation:
    """Instructions by name; ``backward`` names those that JAX made by transposing."""

    name: str
    entry: bool
    lines: dict[str, str] = dataclasses.field(default_factory=dict)
    backward: set[str] = dataclasses.field(default_factory=set)
    root: str = ""


def _computations(text: str) -> dict[str, _Computation]:
    found: dict[str, _Computation] = {}
    current: _Computation | None = None
    for line in text.splitlines():
        if current is None:
            if match := _COMPUTATION.match(line):
                current = found[match[2]] = _Computation(match[2], match[1] is not None)
        elif line.rstrip() == "}":  # the settings of a kernel have lines that begin with one
            current = None
        elif match := _INSTRUCTION.match(line):
            current.lines[match[2]] = _NOISE.sub("", match[3])
            if "transpose(jvp(" in match[3]:
                current.backward.add(match[2])
            if match[1]:
                current.root = match[2]
    return found


def _operands(line: str) -> list[str]:
    """Names of the operands of an instruction."""
    inside = _OPERANDS.search(line)
    return re.findall(r"%([\w.\-]+)", inside[1]) if inside else []


def _constant(computation: _Computation, name: str) -> int | None:
    found = re.search(r"\[\] constant\((-?\d+)\)", computation.lines.get(name, ""))
    return int(found[1]) if found else None


def _trips(line: str, caller: _Computation, computations: dict[str, _Computation]) -> int | None:
    """Trips of a while loop, as XLA says or by a counter that is compared with a constant; None where data decide."""
    if found := re.search(r'known_trip_count[^}]*?"n":\s*"?(\d+)', line):
        return int(found[1])
    condition, body = (computations[re.search(rf"{key}=%?([\w.\-]+)", line)[1]] for key in ("condition", "body"))  # type: ignore[index]
    compare = condition.lines.get(condition.root, "")
    operands = _operands(compare)
    if " compare(" not in compare or "direction=LT" not in compare or len(operands) != 2:
        return None
    limit, index = _constant(condition, operands[1]), _index(condition, operands[0])
    after = _operands(body.lines.get(body.root, ""))
    if limit is None or index is None or index >= len(after):
        return None
    steps = [_constant(body, name) for name in _operands(body.lines.get(after[index], ""))]
    step = next((step for step in steps if step), None)
    initial = _WHILE.search(line)
    before = _operands(caller.lines.get(initial[1], "")) if initial else []
    start = _constant(caller, before[index]) if index < len(before) else None
    return None if step is None else -(-(limit - (start or 0)) // step)


def _index(computation: _Computation, name: str) -> int | None:
    found = re.search(r"get-tuple-element\(.*index=(\d+)", computation.lines.get(name, ""))
    return int(found[1]) if found else None


def shape_bytes(text: str) -> int:
    """Bytes of every array in an HLO type; a tuple's are added."""
    total = 0.0
    for kind, sizes in _SHAPE.findall(text):
        bits = _BITS.get(kind) or next((int(n) for n in re.findall(r"^[a-z]+?(\d+)", kind)), 0)
        total += math.prod(int(size) for size in sizes.split(",") if size) * bits / 8
    return int(total)


def _iota(source: str, order: str | None) -> Any:
    """Device numbers as XLA abbreviates them, [4,2]T(1,0): 0, 1, … in that shape, transposed."""
    shape = _integers(source)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers if order is None else numbers.transpose(_integers(order))


def _integers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _groups(line: str, mesh: dict[str, int]) -> list[list[int]]:
    """The groups of device numbers that a collective works on; pairs for a permutation."""
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", line):
        return [_integers(group) for group in re.findall(r"\{([^{}]*)\}", found[1])]
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        return _iota(found[2], found[3]).reshape(_integers(found[1])).tolist()
    if found := _MESH_GROUPS.search(line):
        axes, source, order, named = found.groups()
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
        names, inside = list(sizes), re.findall(r"'(\w+)'", named)
        devices = _iota(source or str(math.prod(sizes.values())), order).reshape(list(sizes.values()))
        axis_order = [names.index(name) for name in (*(name for name in names if name not in inside), *inside)]
        return devices.transpose(axis_order).reshape(-1, math.prod(sizes[name] for name in inside)).tolist()
    return [list(range(math.prod(mesh.values())))]


def _axes(groups: list[list[int]], mesh: dict[str, int], *, pairs: bool) -> str:
    """Mesh axes whose coordinate differs within the groups."""
    names = [name for name, size in mesh.items() if size > 1]
    shape = tuple(mesh.values())
    coordinates = dict(zip(mesh, np.unravel_index(np.arange(math.prod(shape)), shape), strict=True))
    moving = [name for name in names if any(len({int(coordinates[name][d]) for d in group}) > 1 for group in groups)]
    size = max(len(group) for group in groups)
    whole = pairs or size == math.prod(mesh[name] for name in moving)
    return "+".join(moving) if whole and moving else "?"


def _received(kind: str, result: int, devices: int) -> float:
    """Bytes that one device receives at least, of a collective with ``result`` bytes among ``devices``."""
    if kind == "collective-permute":
        return result
    share = (devices - 1) / devices
    return {"all-reduce": 2 * share * result, "reduce-scatter": share * devices * result}.get(kind, share * result)


def _result_bytes(kind: str, asynchronous: bool, line: str) -> int:
    head = line[: _COLLECTIVE.search(line).start()]  # type: ignore[union-attr]
    if not asynchronous or kind == "all-reduce":
        return shape_bytes(head)
    parts = _split(head.strip()[1:-1])  # (operand, result, and perhaps tokens)
    return shape_bytes(parts[1])


def _split(text: str) -> list[str]:
    """The parts of a tuple's type."""
    return re.findall(r"\([^()]*\)|\w+\[[\d,]*\]", text)


@dataclasses.dataclass(frozen=True)
class _Site:
    """A collective instruction: as Collective, with the bytes of one run."""

    kind: str
    axes: str
    trips: float
    backward: bool
    bytes: float


def _site(name: str, computation: _Computation, trips: float, backward: bool, mesh: dict[str, int]) -> _Site | None:
    """The collective that an instruction is; None of any other. ``backward``: whether what calls it is."""
    line = computation.lines[name]
    found = _COLLECTIVE.search(line)
    if found is None:
        return None
    kind = found[1]
    groups = _groups(line, mesh)
    axes = _axes(groups, mesh, pairs=kind == "collective-permute")
    result = _result_bytes(kind, bool(found[2]), line)
    if computation.name.startswith("all-reduce-scatter"):  # a fusion that keeps one part of the sum
        kind, result = "reduce-scatter", result // len(groups[0])
    return _Site(kind, axes, trips, backward, _received(kind, result, len(groups[0])))


def census(text: str, mesh: dict[str, int], *, unknown_trips: float = 1.0) -> list[Collective]:
    """The collectives of a compiled program, largest first.

    Args:
      text: of the compiled program (``compiled.as_text()``).
      mesh: axis -> size, in the order of the devices.
      unknown_trips: of loops whose end the data decide.
    """
    computations = _computations(text)
    # XLA for TPU writes one collective into every fusion that it runs beside: they share a channel, which no two of
    # those that it makes itself have.
    sites: dict[str, _Site] = {}

    def visit(computation: _Computation, times: float, of_backward: bool) -> None:
        for name, line in computation.lines.items():
            backward = of_backward or name in computation.backward
            if site := _site(name, computation, times, backward, mesh):
                found = re.search(r"channel_id=(\d+)", line)
                channel = found[1] if found else _EXPLICIT_CHANNEL
                key = f"{computation.name}/{name}" if channel == _EXPLICIT_CHANNEL else channel
                if key not in sites or site.trips < sites[key].trips:
                    sites[key] = site
                continue  # what a reduction applies holds no collective
            trips: float = 1
            if _WHILE.search(line) is not None:
                known = _trips(line, computation, computations)
                trips = unknown_trips if known is None else known
            for one, several in _CALLED.findall(line):
                for called in [one] if one else re.findall(r"[\w.\-]+", several):
                    if called in computations:
                        visit(computations[called], times * trips, backward)

    visit(next(c for c in computations.values() if c.entry), 1.0, False)
    grouped: dict[tuple[str, str, float, bool], list[float]] = collections.defaultdict(list)
    for site in sites.values():
        grouped[site.kind, site.axes, site.trips, site.backward].append(site.bytes)
    found = [
        Collective(kind, axes, trips, backward, len(sizes), len(sizes) * trips, sum(sizes) * trips)
        for (kind, axes, trips, backward), sizes in grouped.items()
    ]
    return sorted(found, key=lambda c: -c.bytes)
