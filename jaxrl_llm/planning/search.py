"""A search over meshes and remat policies: all by formula, and those that come first compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.models.decoder import REMAT_POLICIES
from jaxrl_llm.planning import compiler
from jaxrl_llm.planning.compiler import Compiled
from jaxrl_llm.planning.hardware import Topology
from jaxrl_llm.planning.plan import Plan, make_plan
from jaxrl_llm.planning.work import meshes
from jaxrl_llm.sharding import MeshSettings
from jaxrl_llm.training.settings import Settings

MOST = 3  # plans that a search compiles; each takes minutes


def search(
    settings: Settings,
    config: ModelConfig,
    topology: Topology,
    *,
    price: float | None = None,
    by_formula: bool = False,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Plan]:
    """Plans for every mesh of one slice and every remat policy, in the order of :func:`rank`.

    Left out are meshes that do not divide the rows of an optimizer step or the heads. Where there is a compiler for the
    topology, the plans that come first are compiled, as :func:`confirm` says; the others are by formula.

    Args:
      settings, config, topology, price, by_formula, quick, say: see :func:`~jaxrl_llm.planning.plan.make_plan`; mesh
        and remat policy of the settings are not read.

    Raises:
      ImportError, ValueError: see :func:`~jaxrl_llm.planning.plan.make_plan`; and no mesh is left.
    """
    rows = settings.data.prompts_per_step * settings.data.samples_per_prompt // settings.training.mini_batches
    plans = []
    for shape in meshes(topology.devices):
        _, fsdp, tensor, sequence = shape
        if rows % fsdp or config.heads % (tensor * sequence):
            continue
        for remat in REMAT_POLICIES:
            tried = _with(settings, MeshSettings(*shape), remat)
            plans.append(make_plan(tried, config, topology, price=price, by_formula=True))
    if not plans:
        raise ValueError(
            f"data.prompts_per_step × data.samples_per_prompt: no mesh of {topology.devices} devices divides the "
            f"{rows} rows of an optimizer step and the {config.heads} heads; expected more rows"
        )
    if by_formula or compiler.lacking(topology) is not None:
        return rank(plans)
    earlier: dict[str, Compiled] = {}  # remat policies differ in the update alone

    def compiled(plan: Plan) -> Plan:
        sizes = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
        say(f"the plan with mesh {sizes} and remat {plan.remat}:")
        tried = _with(settings, MeshSettings(**plan.mesh), plan.remat)
        found = make_plan(tried, config, topology, price=price, quick=quick, earlier=earlier, say=say)
        return dataclasses.replace(found, formula=plan)

    return confirm(plans, compiled)


def _with(settings: Settings, mesh: MeshSettings, remat: str) -> Settings:
    return dataclasses.replace(settings, mesh=mesh, model=dataclasses.replace(settings.model, remat=remat))


def confirm(plans: list[Plan], compiled: Callable[[Plan], Plan]) -> list[Plan]:
    """Compiles the first plan by formula until the ranking starts with one that is compiled and fits, or MOST are.

    A compiled plan takes the place in the ranking that its own figures give it, so that the next one by formula may
    come before it, and is compiled then.

    Args:
      plans: by formula.
      compiled: the same plan by the compiler.

    Returns:
      All plans, ranked.
    """
    ranked = rank(plans)
    for _ in range(min(MOST, len(plans))):
        if ranked[0].method == "compiled" and ranked[0].fits:
            break
        first = next(plan for plan in ranked if plan.method == "formula")
        ranked = rank([compiled(plan) if plan is first else plan for plan in ranked])
    return ranked


def rank(plans: list[Plan]) -> list[Plan]:
    """Those that fit first, by step time as if nothing overlapped; then the others, by what is missing."""

    def missing(plan: Plan) -> float:
        return max(0.0, *(-program.memory.spare for program in plan.programs))

    return sorted(plans, key=lambda plan: (missing(plan), plan.seconds("none")))
