"""Compiling for TPUs that are not there, with the libtpu wheel and a CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrl_llm.planning import hlo
from jaxrl_llm.planning.hardware import Topology
from jaxrl_llm.planning.programs import PROGRAMS, Abstract, trace
from jaxrl_llm.sharding import MeshSettings, make_mesh

INSTALL = 'pip install "jaxrl-llm[tpu-plan]"'  # the libtpu wheel
_AT_ONCE = 2  # programs that are compiled at a time; each takes a few gigabytes
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program, in bytes of one device.

    Attributes:
      seconds: that compiling took.
      arguments: of the program's arguments; None of a refused program whose arguments ``others`` counts too.
      others: of everything else at its peak: temporaries, code, results that take no argument's place.
      limit: what the compiler has, of a program that it refuses for memory; None of one that it compiles.
      collectives: None where it was refused, or where the text of the program cannot be read.
    """

    seconds: float
    arguments: float | None
    others: float
    limit: float | None
    collectives: list[hlo.Collective] | None


def installed() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def lacking(topology: Topology) -> str | None:
    """Why nothing can be compiled for a topology; None where it can."""
    if not topology.is_tpu:
        return f"there is no compiler for GPUs here, as {topology.name} needs"
    return None if installed() else f"--topology {topology.name} needs the compiler for TPUs (Linux, x86-64): {INSTALL}"


def topology_mesh(topology: Topology, settings: MeshSettings) -> Mesh:
    """The mesh over the devices of a topology that is not there.

    Raises:
      ImportError: no libtpu.
      ValueError: a topology that the compiler refuses.
    """
    if (reason := lacking(topology)) is not None:
        raise ImportError(reason)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this is no TPU machine
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # else it complains of having none
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # compiling needs no device of its own
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    # Two TensorCores of a v4 chip work as one device, as on a TPU machine; other chips do so as they come.
    options = {"chip_config_name": "megacore"} if topology.kind == "v4" else {}
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology {topology.name}: {error}") from error
    if len(description.devices) != topology.devices:
        raise ValueError(
            f"--topology {topology.name}: the compiler has {len(description.devices)} devices, expected "
            f"{topology.devices}"
        )
    return make_mesh(settings, list(description.devices))


def compile_programs(
    abstract: Abstract, *, unknown_trips: float, quick: bool, earlier: dict[str, Compiled], say: Callable[[str], None]
) -> dict[str, Compiled]:
    """Compiles each of `programs.PROGRAMS`, two at a time: a compiler for TPUs works on one core.

    Args:
      unknown_trips: of the sampler's loops, which end when every row has stopped.
      quick: with less optimization, which takes less than half the time; memory and collectives come out different.
      earlier: programs compiled before for the same topology, by their lowered text: none is compiled twice. Takes the
        new ones.
      say: is told before each program is compiled.

    Raises:
      ValueError: the compiler fails for another reason than memory.
    """

    def compiled(name: str) -> Compiled:
        return compile_program(name, abstract, unknown_trips=unknown_trips, earlier=earlier, say=say)

    with _optimization("O1" if quick else None), ThreadPoolExecutor(_AT_ONCE) as threads:
        return dict(zip(PROGRAMS, threads.map(compiled, PROGRAMS), strict=True))


def compile_program(
    name: str, abstract: Abstract, *, unknown_trips: float, earlier: dict[str, Compiled], say: Callable[[str], None]
) -> Compiled:
    """Compiles one of `programs.PROGRAMS` and reads its memory and its collectives; see :func:`compile_programs`.

    Raises:
      ValueError: the compiler fails for another reason than memory.
    """
    with jax.set_mesh(abstract.mesh):
        lowered = trace(name, abstract).lower(lowering_platforms=("tpu",))
        text = lowered.as_text()
        if text not in earlier:
            say(f"compiling the {name}")
            earlier[text] = _compile(lowered, dict(abstract.mesh.shape), unknown_trips)
    return earlier[text]


def _compile(lowered: Any, mesh: dict[str, int], unknown_trips: float) -> Compiled:
    begun = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return Compiled(time.perf_counter() - begun, *memory_exceeded(str(error)), None)
    seconds = time.perf_counter() - begun
    memory: Any = compiled.memory_analysis()
    others = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    others += memory.output_size_in_bytes - memory.alias_size_in_bytes
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # a libtpu of another version than jax asks for writes what jaxlib cannot read
        text = None
    collectives = None if text is None else hlo.census(text, mesh, unknown_trips=unknown_trips)
    return Compiled(seconds, memory.argument_size_in_bytes, others, None, collectives)


@contextlib.contextmanager
def _optimization(level: str | None) -> Iterator[None]:
    before = jax.config.jax_optimization_level  # type: ignore[attr-defined]
    jax.config.update("jax_optimization_level", level or before)
    try:
        yield
    finally:
        jax.config.update("jax_optimization_level", before)


def memory_exceeded(message: str) -> tuple[float | None, float, float]:
    """Arguments, others and limit of :class:`Compiled` from the compiler's refusal.

    It speaks of the temporaries alone, or of all that the program uses with its arguments.

    Raises:
      ValueError: the message is not about memory.
    """
    number = r"([\d.]+)([KMGT]?)"
    temporaries = re.search(rf"temporaries \({number}\) exceeds available HBM \({number}\)", message)
    found = temporaries or re.search(rf"Used {number} of {number} hbm", message)
    if found is None:
        raise ValueError(f"the compiler for TPUs failed: {message}")
    used, used_unit, limit, limit_unit = found.groups()
    arguments = None if temporaries is None else 0.0
    return arguments, float(used) * _UNITS[used_unit], float(limit) * _UNITS[limit_unit]
