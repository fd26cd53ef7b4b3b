"""A plan as text and as a file."""

from __future__ import annotations

import json
from pathlib import Path

from jaxrl_llm.planning.plan import Plan, Program


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
    rates = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in program.seconds.items())
    spare = scaled(abs(memory.spare), "B")
    lines = [
        f"{program.name} ({how}; {program.runs} in a step): {verdict.format(spare)} of {scaled(memory.limit, 'B')}",
        f"  held on a device    {held}",
        f"  FLOPs               {scaled(program.flops, 'FLOP')}, of them useful {scaled(program.useful_flops, 'FLOP')}",
        f"  at best             {_seconds(program.roofline)}, bound by {program.bound} ({rates})",
    ]
    if program.collectives is None:
        return [*lines, f"  received            {scaled(program.network, 'B')} a device, by formula"]
    lines.append(f"  received            {scaled(program.network, 'B')} a device:")
    for collective in program.collectives:
        place = "in loops" if collective.loop else "once"
        lines.append(
            f"    {collective.kind:<19} over {collective.axes:<12} {place:<9} {collective.sites:>4} sites "
            f"{collective.runs:>9,.0f} runs  {scaled(collective.bytes, 'B')}"
        )
    return lines


def text(plan: Plan) -> str:
    """The plan for people."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    chip = plan.topology.chip
    lines = [
        f"{plan.topology.name}: {plan.topology.chips} chips of {scaled(chip.flops, 'FLOP/s')} (bfloat16), "
        f"{scaled(chip.memory, 'B')} at {scaled(chip.memory_bandwidth, 'B/s')}, {scaled(chip.network, 'B/s')} from "
        f"neighbours ({chip.source})",
        f"mesh {mesh}; remat {plan.remat}; every row at full width; GB are 10⁹ bytes",
        "",
    ]
    for program in plan.programs:
        lines += [*_program(program), ""]
    verdict = "fits" if plan.fits else "does NOT fit"
    lines.append(
        f"a rollout step: {verdict}; at best {_seconds(plan.seconds)}, MFU {plan.mfu:.1%}, "
        f"{plan.tokens_per_second:,.0f} tokens/s"
    )
    if plan.cost is not None:
        lines.append(f"1,000 rollout steps cost at least {plan.cost:,.0f} at {plan.price:g} a chip and hour")
    return "\n".join(lines)


def table(plans: list[Plan]) -> str:
    """Plans of a search, one a line, in their order."""
    lines = ["fsdp  tensor  remat  fits  fullest device        step at best  MFU    bound of the update"]
    for plan in plans:
        fullest = max(program.memory.total for program in plan.programs)
        update = plan.programs[-1]
        lines.append(
            f"{plan.mesh['fsdp']:>4}  {plan.mesh['tensor']:>6}  {plan.remat:<5}  {'yes' if plan.fits else 'no':<4}  "
            f"{scaled(fullest, 'B'):>10} of {scaled(update.memory.limit, 'B'):<8} {_seconds(plan.seconds):>12}  "
            f"{plan.mfu:>5.1%}  {update.bound}"
        )
    return "\n".join(lines)


def save(plans: list[Plan], path: Path) -> Path:
    """Writes one plan as a JSON object, or the plans of a search as a list."""
    found = [plan.as_json() for plan in plans]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found[0] if len(found) == 1 else found, indent=2) + "\n")
    return path
