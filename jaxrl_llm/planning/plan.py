"""A plan: for each program of a run whether it fits, what it holds, moves and computes, and its time at best.

Step times are rooflines: the slowest of computing at peak, moving bytes to and from memory at peak, and receiving bytes
from neighbours over all links at peak. Nothing runs that well; a plan says what cannot be beaten and what binds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxrl_llm.algorithm import needs_critic
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.planning import compiler, flops, memory, traffic
from jaxrl_llm.planning.compiler import Compiled
from jaxrl_llm.planning.hardware import Topology
from jaxrl_llm.planning.hlo import Collective
from jaxrl_llm.planning.programs import Abstract
from jaxrl_llm.planning.work import Work, meshes, work_of
from jaxrl_llm.sharding import mesh_shape
from jaxrl_llm.training.settings import Settings

PROGRAMS = ("rollout", "score", "update")
_RUNS = 1000  # rollout steps that a price is given for


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a program runs, also those that it does not touch.

    Attributes:
      parameters: float32, of policy and reference, and the sampling layout.
      optimizer: Adam's two moments.
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
      seconds: of one run, at best, by resource: compute, memory, network.
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
    seconds: dict[str, float]

    @property
    def bound(self) -> str:
        """The resource that binds."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def roofline(self) -> float:
        """Seconds of one run at best."""
        return self.seconds[self.bound]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a rollout step.

    Attributes:
      mesh: axis -> devices.
      price: of a chip and hour; None if not given.
    """

    topology: Topology
    mesh: dict[str, int]
    remat: str
    programs: list[Program]
    tokens: int
    price: float | None

    @property
    def fits(self) -> bool:
        return all(program.memory.spare >= 0 for program in self.programs)

    @property
    def seconds(self) -> float:
        """Of a rollout step, at best."""
        return sum(program.runs * program.roofline for program in self.programs)

    @property
    def mfu(self) -> float:
        """Useful FLOPs of a step over those that the chips could do in that time, at best."""
        useful = sum(program.runs * program.useful_flops for program in self.programs)
        return useful / (self.seconds * self.topology.chips * self.topology.chip.flops)

    @property
    def tokens_per_second(self) -> float:
        """Prompt and completion tokens of a step, every row at full width."""
        return self.tokens / self.seconds

    @property
    def cost(self) -> float | None:
        """Of 1,000 rollout steps."""
        if self.price is None:
            return None
        return self.price * self.topology.chips * self.seconds * _RUNS / 3600

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
            "fits": self.fits,
            "seconds_per_step": self.seconds,
            "mfu": self.mfu,
            "tokens_per_second": self.tokens_per_second,
            "price_per_chip_hour": self.price,
            "cost_of_1000_steps": self.cost,
            "programs": programs,
        }


def _program(name: str, work: Work, topology: Topology, compiled: Compiled | None) -> Program:
    limit = topology.per_device(topology.chip.memory)
    parameters, layout = memory.parameter_bytes(work), memory.sampling_bytes(work)
    held = parameters * (2 if work.reference else 1) + layout
    optimizer = 2 * parameters
    cache = memory.cache_bytes(work) if name == "rollout" else 0.0
    by_axis = traffic.network_traffic(work, name)
    network, collectives, method = sum(by_axis.values()), None, "formula"
    if compiled is None:
        activations = memory.activation_bytes(work, name)
    else:
        method = "compiled" if compiled.limit is None else "refused"
        activations = max(0.0, _beside(name, work, compiled, held + optimizer) - cache)
        limit = limit if compiled.limit is None else min(limit, compiled.limit)
        if compiled.collectives is not None:
            collectives = compiled.collectives
            network = sum(collective.bytes for collective in collectives)
    total = {"rollout": flops.rollout_flops, "score": flops.score_flops, "update": flops.update_flops}[name](work)
    chip = topology.chip
    seconds = {
        "compute": total / (topology.chips * chip.flops),
        "memory": traffic.memory_traffic(work, name) / topology.per_device(chip.memory_bandwidth),
        "network": network / topology.per_device(chip.network),
    }
    return Program(
        name=name,
        runs={"rollout": 1, "score": work.scores, "update": work.updates}[name],
        method=method,
        compile_seconds=None if compiled is None else compiled.seconds,
        memory=Memory(held, optimizer, cache, activations, limit),
        flops=total,
        useful_flops=flops.useful_flops(work)[name],
        collectives=collectives,
        network=network,
        seconds=seconds,
    )


def _beside(name: str, work: Work, compiled: Compiled, held: float) -> float:
    """Bytes beside parameters and optimizer: of those, a program's arguments hold only what it reads."""
    parameters = memory.parameter_bytes(work)
    read = {
        "rollout": memory.sampling_bytes(work),
        "score": parameters,
        "update": 3 * parameters + (parameters if work.exact_kl else 0.0),
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
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plans a run.

    Args:
      settings: checked by `config.check` for the devices of the topology.
      config: the architecture.
      topology: GPUs are planned by formula.
      price: of a chip and hour, in any currency.
      by_formula: without the compiler, for a TPU too.
      quick: see `compiler.compile_program`.
      say: is told before each program is compiled.

    Raises:
      ImportError, ValueError: as `compiler.topology_mesh` says; an algorithm with a critic, or a price below 0.
    """
    if needs_critic(settings.algorithm):
        raise ValueError("algorithm.baseline = 'critic': plans know no critic yet; expected a config without one")
    if price is not None and price < 0:
        raise ValueError(f"--price {price:g}: expected 0 or more")
    work = work_of(settings, config, mesh_shape(settings.mesh, topology.devices))
    compiled: dict[str, Compiled | None] = dict.fromkeys(PROGRAMS)
    if topology.is_tpu and not by_formula:
        mesh = compiler.topology_mesh(topology, settings.mesh)
        abstract = Abstract(settings, config, mesh)
        trips = (work.width - 1) / len(work.phases)
        for name in PROGRAMS:
            say(f"compiling the {name} for {topology.name}")
            compiled[name] = compiler.compile_program(name, abstract, unknown_trips=trips, quick=quick)
    programs = [_program(name, work, topology, compiled[name]) for name in PROGRAMS]
    return Plan(topology, work.mesh, work.remat, programs, work.rows * work.sequence, price)


def search(settings: Settings, config: ModelConfig, topology: Topology, *, price: float | None = None) -> list[Plan]:
    """Plans by formula for every mesh of one slice and every remat policy, best first: those that fit, by step time.

    Left out are meshes that do not divide the rows of a pass or the heads, and those that the box does not hold.

    Raises:
      ValueError: no mesh is left.
    """
    plans, work = [], work_of(settings, config, (1, topology.devices, 1))
    for _, fsdp, tensor in meshes(topology.devices):
        if work.rows_of_pass % fsdp or config.heads % tensor or not topology.holds(tensor):
            continue
        for remat in ("none", "dots", "layer"):
            tried = dataclasses.replace(
                settings,
                mesh=dataclasses.replace(settings.mesh, data=1, fsdp=fsdp, tensor=tensor),
                model=dataclasses.replace(settings.model, remat=remat),
            )
            plans.append(make_plan(tried, config, topology, price=price, by_formula=True))
    if not plans:
        raise ValueError(
            f"training.micro_batch: no mesh of {topology.devices} devices divides the "
            f"{work.rows_of_pass} rows of a pass and the {config.heads} heads; expected more rows"
        )
    return rank(plans)


def rank(plans: list[Plan]) -> list[Plan]:
    """Those that fit first, by step time; then the others, by what is missing."""

    def missing(plan: Plan) -> float:
        return max(0.0, *(-program.memory.spare for program in plan.programs))

    return sorted(plans, key=lambda plan: (missing(plan), plan.seconds))
