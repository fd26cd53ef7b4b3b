"""Searches: how plans are ranked, which of them are compiled, and what the command says of it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jaxrl_llm import cli
from jaxrl_llm.models.decoder import REMAT_POLICIES
from jaxrl_llm.planning import compiler, report
from jaxrl_llm.planning.compiler import Compiled
from jaxrl_llm.planning.hardware import parse_topology
from jaxrl_llm.planning.plan import Plan
from jaxrl_llm.planning.search import MOST, confirm, rank, search
from jaxrl_llm.planning.work import meshes
from tests.models.tiny import CASES
from tests.planning.test_flops import setting
from tests.planning.test_plan import TINY, plan
from tests.policies import CONFIGS

V5E = parse_topology("v5e:2x2")
BASE = plan("v5e:2x2")
FITS, MISSES = 1e9, -1e9  # bytes to spare


def changed(spare: float, seconds: float, method: str = "formula", base: Plan = BASE) -> Plan:
    """A plan whose programs have so much memory to spare and take so long."""
    programs = [
        dataclasses.replace(
            program,
            method=method,
            memory=dataclasses.replace(program.memory, limit=program.memory.total + spare),
            rates={"compute": seconds},
        )
        for program in base.programs
    ]
    return dataclasses.replace(base, programs=programs)


def test_plans_that_fit_come_first_then_those_that_miss_least():
    fast, slow, nearly, never = changed(1e9, 1.0), changed(2e9, 2.0), changed(-1.0, 0.5), changed(-1e9, 0.1)
    assert [id(one) for one in rank([never, slow, nearly, fast])] == [id(one) for one in (fast, slow, nearly, never)]
    assert [one.fits for one in (fast, slow, nearly, never)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("by_formula", "by_compiler", "compiled", "ranked"),
    [
        # (bytes to spare, seconds) of plans 0, 1, ...; which are compiled, in their order; the ranking
        pytest.param([(FITS, 1), (FITS, 2), (MISSES, 3)], [(FITS, 1)], [0], [0, 1, 2], id="as the formula says"),
        pytest.param([(FITS, 2), (FITS, 1)], [None, (FITS, 1)], [1], [1, 0], id="not in the order of the ranking"),
        pytest.param([(FITS, 1), (FITS, 3)], [(FITS, 2)], [0], [0, 1], id="slower, and first all the same"),
        pytest.param([(FITS, 1), (FITS, 2)], [(MISSES, 1), (FITS, 2)], [0, 1], [1, 0], id="the first does not fit"),
        pytest.param([(FITS, 1), (FITS, 2)], [(FITS, 3), (FITS, 4)], [0, 1], [0, 1], id="behind the next by formula"),
        pytest.param([(FITS, 1), (FITS, 2)], [(FITS, 4), (FITS, 3)], [0, 1], [1, 0], id="behind the next compiled"),
        pytest.param([(MISSES, 1), (2 * MISSES, 2)], [(MISSES, 1), (FITS, 2)], [0, 1], [1, 0], id="fits unforeseen"),
        pytest.param([(MISSES, 1), (2 * MISSES, 2)], [(MISSES, 1)] * 2, [0, 1], [0, 1], id="none of two fits"),
        pytest.param(
            [(FITS, seconds) for seconds in (1, 2, 3, 4, 5)],
            [(times * MISSES, 1) for times in (1, 2, 3)],
            [0, 1, 2],
            [3, 4, 0, 1, 2],
            id="at most three",
        ),
    ],
)
def test_plans_are_compiled_from_the_top_until_the_first_is_one_that_fits(by_formula, by_compiler, compiled, ranked):
    assert MOST == 3
    plans, seen = [changed(*figures) for figures in by_formula], []

    def compile_plan(found: Plan) -> Plan:
        number = next(number for number, plan in enumerate(plans) if plan is found)
        seen.append(number)
        spare, seconds = by_compiler[number]
        method = "compiled" if spare >= 0 else "refused"
        return dataclasses.replace(changed(spare, seconds, method), formula=found)

    found = confirm(plans, compile_plan)
    of_formula = [one.formula or one for one in found]
    assert seen == compiled
    assert [next(n for n, plan in enumerate(plans) if plan is one) for one in of_formula] == ranked
    assert [one.method != "formula" for one in found] == [number in compiled for number in ranked]


def test_a_search_tries_each_mesh_that_divides_rows_and_heads():
    found = search(setting(), TINY, V5E, by_formula=True)  # 4 rows of a step, 4 heads
    tried = {(*one.mesh.values(), one.remat) for one in found}
    assert tried == {(*shape, remat) for shape in meshes(4) for remat in REMAT_POLICIES}
    _, *rows, conclusion = report.table(found).splitlines()
    assert len(rows) == len(tried) and all(" formula " in row for row in rows)
    assert conclusion == "ranked by formula alone: with --formula nothing is compiled"
    with pytest.raises(ValueError, match="no mesh of 64 devices divides the 4 rows"):
        search(setting(), TINY, parse_topology("v5e:8x8"))


def test_a_search_compiles_the_mesh_and_remat_policy_that_come_first(monkeypatch, tmp_path):
    """The compiler refuses the update of the first mesh; of the second it says what the formula says."""
    asked = []

    def compiled(name, abstract, *, unknown_trips, earlier, say):
        refused = name == "update" and len(asked) == 1
        return Compiled(1.0, None, 3e9, 1e9, None) if refused else Compiled(1.0, 0.0, 0.0, None, None)

    monkeypatch.setattr(compiler, "installed", lambda: True)
    monkeypatch.setattr(compiler, "topology_mesh", lambda topology, mesh: None)
    monkeypatch.setattr(compiler, "compile_program", compiled)
    monkeypatch.setattr("jaxrl_llm.planning.plan.Abstract", lambda settings, *others: asked.append(settings))
    first, second, *_ = search(setting(), TINY, V5E, by_formula=True)
    found = search(setting(), TINY, V5E)
    for settings, tried in zip(asked, (first, second), strict=True):
        assert dataclasses.asdict(settings.mesh) == tried.mesh and settings.model.remat == tried.remat
    assert (found[0].method, found[-1].method) == ("compiled", "refused")
    assert (found[0].formula, found[-1].formula) == (second, first)
    assert {one.method for one in found[1:-1]} == {"formula"}
    _, *rows, conclusion = report.table(found).splitlines()
    assert [" compiled " in rows[0], " refused " in rows[-1]] == [True, True]
    expected = f"2 of {len(found)} compiled or refused by the compiler, the others by formula; "
    assert conclusion == expected + "the first that is compiled and fits: row 1"
    saved = json.loads(report.save(found, tmp_path / "s.json").read_text())
    assert [one["method"] for one in saved] == [one.method for one in found]
    assert saved[0]["formula"]["method"] == "formula" and saved[0]["formula"]["mesh"] == saved[0]["mesh"]
    assert saved[1]["formula"] is None


@pytest.mark.parametrize(
    ("topology", "reason"), [("h200:4", "no compiler for GPUs"), ("v5e:2x2", 'pip install "jaxrl-llm[tpu-plan]"')]
)
def test_without_a_compiler_the_command_ranks_by_formula_and_says_why(capsys, monkeypatch, tmp_path, topology, reason):
    monkeypatch.setattr(compiler, "installed", lambda: False)
    model = tmp_path / "config.json"
    model.write_text(json.dumps(CASES["qwen3"]))
    arguments = ["plan", "--config", str(CONFIGS / "lite_ppo.py"), "--topology", topology, "--search"]
    assert cli.main([*arguments, "--model-config", str(model), "--to", str(tmp_path / "s.json")]) == 0
    printed = capsys.readouterr().out
    assert "fullest device" in printed
    assert reason in next(line for line in printed.splitlines() if line.startswith("ranked by formula alone"))
    saved = json.loads((tmp_path / "s.json").read_text())
    assert len(saved) == len(meshes(4)) * len(REMAT_POLICIES)
    assert {one["method"] for one in saved} == {"formula"}
