"""A plan: for each program of a run whether it fits, what it holds, moves and computes, and the time it takes.

There are three rates: computing at peak, moving bytes to and from memory at peak, and receiving bytes from neighbours
over all links at peak. At best the three go on side by side and the slowest binds; if nothing overlaps, one comes after
the other. Times are given for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from jaxrl_llm.algorithm import needs_critic
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.planning import compiler, flops, memory, traffic
from jaxrl_llm.planning.compiler import Compiled
from jaxrl_llm.planning.hardware import Topology
from jaxrl_llm.planning.hlo import Collective
from jaxrl_llm.planning.programs import PROGRAMS, Abstract
from jaxrl_llm.planning.work import Work, work_of
from jaxrl_llm.sharding import mesh_shape
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import check_trainable

UPDATE = ("update", "apply")  # programs of an optimizer step
Overlap = Literal["all", "none"]  # of computing, memory and network: what a time assumes
OVERLAPS: dict[str, Overlap] = {"at best": "all", "if nothing overlaps": "none"}
_RUNS = 1000  # rollout steps that a price is given for


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a program runs, also those that it does not touch.

    Attributes:
      parameters: of policy and reference; of the rollout also the sampling layout. With an adapter: its own, and those
        of the frozen base, which is the reference too.
      optimizer: Adam's two moments, where they do not lie on the hosts.
      cache: of the rollout.
      activations: the rest: activations, gradients, gathered weights, the batch, code.
      limit: bytes of the device.
    """

    parameters: float
    optimizer: float
    cache: float
    activations: float
    limit: float

    @property
    def total(self) -> float:
        return self.parameters + self.optimizer + self.cache + self.activations

    @property
    def spare(self) -> float:
        """Bytes left; below 0 the program does not fit."""
        return self.limit - self.total


@dataclasses.dataclass(frozen=True)
class Program:
    """The plan of one program.

    Attributes:
      name: one of PROGRAMS.
      runs: in a rollout step.
      method: where memory and network come from: "compiled", "formula", or, of a program that the compiler refuses for
        its memory, "refused": then memory is what it would take, and network by formula.
      compile_seconds: None by formula.
      flops: of the whole mesh, in one run, with what is recomputed.
      useful_flops: without.
      collectives: None by formula.
      network: bytes that one device receives in one run.
      rates: seconds of one run by resource, alone at its peak: compute, memory, network.
    """

    name: str
    runs: int
    method: str
    compile_seconds: float | None
    memory: Memory
    flops: float
    useful_flops: float
    collectives: list[Collective] | None
    network: float
    rates: dict[str, float]

    @property
    def bound(self) -> str:
        """The resource that binds."""
        return max(self.rates, key=lambda name: self.rates[name])

    def seconds(self, overlap: Overlap = "all") -> float:
        """Of one run."""
        return self.rates[self.bound] if overlap == "all" else sum(self.rates.values())


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a rollout step.

    Attributes:
      mesh: axis -> devices.
      price: of a chip and hour; None if not given.
      formula: the same plan by formula, of one that a search compiled; else None.
    """

    topology: Topology
    mesh: dict[str, int]
    remat: str
    programs: list[Program]
    tokens: int
    price: float | None
    formula: Plan | None = None

    @property
    def method(self) -> str:
        """Of its programs: "formula", "compiled", or "refused" where the compiler refuses at least one."""
        methods = {program.method for program in self.programs}
        return "refused" if "refused" in methods else methods.pop()

    @property
    def fits(self) -> bool:
        return all(program.memory.spare >= 0 for program in self.programs)

    def seconds(self, overlap: Overlap = "all", programs: tuple[str, ...] = PROGRAMS) -> float:
        """Of a rollout step, or of some of its programs."""
        return sum(program.runs * program.seconds(overlap) for program in self.programs if program.name in programs)

    def mfu(self, overlap: Overlap = "all", programs: tuple[str, ...] = PROGRAMS) -> float:
        """Useful FLOPs over those that the chips could do in that time."""
        useful = sum(program.runs * program.useful_flops for program in self.programs if program.name in programs)
        return useful / (self.seconds(overlap, programs) * self.topology.chips * self.topology.chip.flops)

    def tokens_per_second(self, overlap: Overlap = "all") -> float:
        """Prompt and completion tokens of a step, every completion at full width with its prompt."""
        return self.tokens / self.seconds(overlap)

    def cost(self, overlap: Overlap = "all") -> float | None:
        """Of 1,000 rollout steps."""
        if self.price is None:
            return None
        return self.price * self.topology.chips * self.seconds(overlap) * _RUNS / 3600

    def as_json(self) -> dict[str, Any]:
        programs = []
        for program in self.programs:
            spare, total = program.memory.spare, program.memory.total
            held = dataclasses.asdict(program.memory) | {"total": total, "spare": spare, "fits": spare >= 0}
            programs.append(dataclasses.asdict(program) | {"memory": held, "bound": program.bound})
        return {
            "topology": self.topology.name,
            "chip": dataclasses.asdict(self.topology.chip),
            "chips": self.topology.chips,
            "mesh": self.mesh,
            "remat": self.remat,
            "method": self.method,
            "fits": self.fits,
            "price_per_chip_hour": self.price,
            **{name: self._figures(overlap) for name, overlap in OVERLAPS.items()},
            "programs": programs,
            "formula": None if self.formula is None else self.formula.as_json(),
        }

    def _figures(self, overlap: Overlap) -> dict[str, float | None]:
        return {
            "seconds_per_step": self.seconds(overlap),
            "mfu": self.mfu(overlap),
            "mfu_of_updates": self.mfu(overlap, UPDATE),
            "tokens_per_second": self.tokens_per_second(overlap),
            "cost_of_1000_steps": self.cost(overlap),
        }


def _program(name: str, work: Work, topology: Topology, compiled: Compiled | None) -> Program:
    limit = topology.per_device(topology.chip.memory)
    parameters = memory.held_parameters(work, name)
    optimizer = 0.0 if work.offload else 2 * memory.moment_bytes(work)
    cache = memory.cache_bytes(work) if name == "rollout" else 0.0
    network, collectives, method = sum(traffic.network_traffic(work, name).values()), None, "formula"
    if compiled is None:
        activations = memory.activation_bytes(work, name)
    else:
        method = "compiled" if compiled.limit is None else "refused"
        activations = max(0.0, _beside(name, work, compiled) - cache)
        limit = limit if compiled.limit is None else min(limit, compiled.limit)
        if compiled.collectives is not None:
            collectives = compiled.collectives
            network = sum(collective.bytes for collective in collectives)
    chip, computed = topology.chip, flops.computed_flops(work)[name]
    rates = {
        "compute": computed / (topology.chips * chip.flops),
        "memory": traffic.memory_traffic(work, name) / topology.per_device(chip.memory_bandwidth),
        "network": network / topology.per_device(chip.network),
    }
    return Program(
        name=name,
        runs=work.runs(name),
        method=method,
        compile_seconds=None if compiled is None else compiled.seconds,
        memory=Memory(parameters, optimizer, cache, activations, limit),
        flops=computed,
        useful_flops=flops.useful_flops(work)[name],
        collectives=collectives,
        network=network,
        rates=rates,
    )


def _beside(name: str, work: Work, compiled: Compiled) -> float:
    """Bytes beside parameters and optimizer: of those, a program's arguments hold only what it reads."""
    parameters, base = memory.parameter_bytes(work), memory.base_bytes(work)
    moments = 0.0 if work.offload else 2 * memory.moment_bytes(work)
    read = {
        "rollout": memory.sampling_bytes(work),
        "score": parameters + (work.score_passes - 1) * base,
        "update": parameters + work.exact_kl * base,
        "apply": memory.trained_bytes(work) + moments,
    }[name]
    if compiled.arguments is None:
        return compiled.others - read
    return max(0.0, compiled.arguments - read) + compiled.others


def make_plan(
    settings: Settings,
    config: ModelConfig,
    topology: Topology,
    *,
    price: float | None = None,
    by_formula: bool = False,
    quick: bool = False,
    earlier: dict[str, Compiled] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plans a run.

    Args:
      settings: checked by `config.check` for the devices of the topology.
      config: the architecture.
      topology: GPUs are planned by formula.
      price: of a chip and hour, in any currency.
      by_formula: without the compiler, for a TPU too.
      quick, earlier, say: see `compiler.compile_programs`; without ``earlier`` nothing is compiled yet.

    Raises:
      ImportError, ValueError: as `compiler.topology_mesh` and `check_trainable` say; an algorithm with a critic, or a
        price below 0.
    """
    check_trainable(settings)
    if needs_critic(settings.algorithm):
        raise ValueError("algorithm.baseline = 'critic': plans know no critic yet; expected a config without one")
    if price is not None and price < 0:
        raise ValueError(f"--price {price:g}: expected 0 or more")
    platform = "tpu" if topology.is_tpu else "gpu"
    work = work_of(settings, config, mesh_shape(settings.mesh, topology.devices), platform=platform)
    compiled: dict[str, Compiled | None] = dict.fromkeys(PROGRAMS)
    if topology.is_tpu and not by_formula:
        mesh = compiler.topology_mesh(topology, settings.mesh)
        abstract = Abstract(settings, config, mesh)
        trips = (work.width - 1) / len(work.phases)
        earlier = {} if earlier is None else earlier
        compiled |= compiler.compile_programs(abstract, unknown_trips=trips, quick=quick, earlier=earlier, say=say)
    programs = [_program(name, work, topology, compiled[name]) for name in PROGRAMS]
    return Plan(topology, work.mesh, work.remat, programs, work.rows * (work.prompt_width + work.width), price)
