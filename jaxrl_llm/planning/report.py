"""A plan as text and as a file."""

from __future__ import annotations

import json
from pathlib import Path

from jaxrl_llm.planning import compiler
from jaxrl_llm.planning.hlo import Collective
from jaxrl_llm.planning.plan import OVERLAPS, UPDATE, Plan, Program


def scaled(value: float, unit: str) -> str:
    """A number with a decimal prefix: 1.23e9 of "B" is "1.23 GB"."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.3g} s"


def _program(program: Program) -> list[str]:
    memory = program.memory
    verdict = "fits, {} to spare" if memory.spare >= 0 else "does NOT fit, {} too much"
    how = {"formula": "by formula", "refused": "refused by the compiler"}.get(program.method)
    how = how or f"compiled in {program.compile_seconds:.0f} s"
    parts = ("parameters", "optimizer", "cache", "activations")
    held = ", ".join(f"{name} {scaled(getattr(memory, name), 'B')}" for name in parts if getattr(memory, name))
    rates = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in program.rates.items())
    spare = scaled(abs(memory.spare), "B")
    lines = [
        f"{program.name} ({how}; {program.runs} in a step): {verdict.format(spare)} of {scaled(memory.limit, 'B')}",
        f"  held on a device    {held}",
        f"  FLOPs               {scaled(program.flops, 'FLOP')}, of them useful {scaled(program.useful_flops, 'FLOP')}",
        f"  at best             {_seconds(program.seconds())}, bound by {program.bound} ({rates})",
        f"  if nothing overlaps {_seconds(program.seconds('none'))}",
    ]
    if program.collectives is None:
        return [*lines, f"  received            {scaled(program.network, 'B')} a device, by formula"]
    lines.append(f"  received            {scaled(program.network, 'B')} a device:")
    return lines + [_collective(collective) for collective in program.collectives]


def _collective(collective: Collective) -> str:
    """A line: how many in one trip of the loops around it (of a loop over layers: in a layer), and in a run."""
    trips = f"{collective.trips:,.0f}"
    place = "once" if collective.trips == 1 else f"{collective.sites} in each of {trips} trips"
    return (
        f"    {collective.kind:<18} over {collective.axes:<8} {'backward' if collective.backward else 'forward':<8} "
        f"{place:<22} {collective.runs:>9,.0f} runs  {scaled(collective.bytes / collective.trips, 'B'):>8} a trip  "
        f"{scaled(collective.bytes, 'B'):>8}"
    )


def text(plan: Plan) -> str:
    """The plan for people."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    chip = plan.topology.chip
    lines = [
        f"{plan.topology.name}: {plan.topology.chips} chips of {scaled(chip.flops, 'FLOP/s')} (bfloat16), "
        f"{scaled(chip.memory, 'B')} at {scaled(chip.memory_bandwidth, 'B/s')}, {scaled(chip.network, 'B/s')} from "
        f"neighbours ({chip.source})",
        f"mesh {mesh}; remat {plan.remat}; every completion at full width; GB are 10⁹ bytes",
        "",
    ]
    for program in plan.programs:
        lines += [*_program(program), ""]
    lines.append(f"a rollout step: {'fits' if plan.fits else 'does NOT fit'}")
    for name, overlap in OVERLAPS.items():
        line = (
            f"  {name:<20}{_seconds(plan.seconds(overlap))}, {plan.tokens_per_second(overlap):,.0f} tokens/s, MFU "
            f"{plan.mfu(overlap):.1%}, of the updates {plan.mfu(overlap, UPDATE):.1%}"
        )
        cost = plan.cost(overlap)
        lines.append(line if cost is None else f"{line}; 1,000 steps cost {cost:,.0f}")
    if plan.price is not None:
        lines.append(f"  costs at {plan.price:g} a chip and hour")
    return "\n".join(lines)


def table(plans: list[Plan]) -> str:
    """Plans of a search, one a line, in their order, and what was compiled; times as if nothing overlapped."""
    lines = [
        "fsdp  tensor  sequence  remat  figures   fits  fullest device        step      MFU    of the updates, bound by"
    ]
    for plan in plans:
        fullest = max(program.memory.total for program in plan.programs)
        update = next(program for program in plan.programs if program.name == "update")
        lines.append(
            f"{plan.mesh['fsdp']:>4}  {plan.mesh['tensor']:>6}  {plan.mesh['sequence']:>8}  {plan.remat:<5}  "
            f"{plan.method:<8}  {'yes' if plan.fits else 'no':<4}  "
            f"{scaled(fullest, 'B'):>10} of {scaled(update.memory.limit, 'B'):<8} "
            f"{_seconds(plan.seconds('none')):>7}  {plan.mfu('none'):>5.1%}  {plan.mfu('none', UPDATE):>5.1%}, "
            f"{update.bound}"
        )
    return "\n".join([*lines, _confirmed(plans)])


def _confirmed(plans: list[Plan]) -> str:
    """What of a search was compiled."""
    compiled = [plan for plan in plans if plan.method != "formula"]
    if not compiled:
        return f"ranked by formula alone: {compiler.lacking(plans[0].topology) or 'with --formula nothing is compiled'}"
    said = f"{len(compiled)} of {len(plans)} compiled or refused by the compiler, the others by formula"
    fitting = [number for number, plan in enumerate(plans, start=1) if plan in compiled and plan.fits]
    return f"{said}; the first that is compiled and fits: " + (f"row {fitting[0]}" if fitting else "none")


def save(plans: list[Plan], path: Path) -> Path:
    """Writes one plan as a JSON object, or the plans of a search as a list."""
    found = [plan.as_json() for plan in plans]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found[0] if len(found) == 1 else found, indent=2) + "\n")
    return path
