"""Plans: what a roofline says, what fits, and the command."""

from __future__ import annotations

import json

import pytest

from jaxrl_llm import cli
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.planning import compiler, report
from jaxrl_llm.planning.compiler import Compiled, memory_exceeded
from jaxrl_llm.planning.hardware import parse_topology
from jaxrl_llm.planning.hlo import Collective
from jaxrl_llm.planning.plan import OVERLAPS, UPDATE, Plan, make_plan
from jaxrl_llm.planning.programs import PROGRAMS
from tests.models.tiny import CASES
from tests.planning.test_flops import setting
from tests.policies import CONFIGS

TINY = from_hf(CASES["qwen3"], "qwen3")
QWEN3_8B = str(CONFIGS / "models" / "qwen3_8b.py")


def plan(name: str = "h200:4", *overrides: str, price: float | None = None) -> Plan:
    return make_plan(setting("lite_ppo", *overrides), TINY, parse_topology(name), price=price, by_formula=True)


def test_a_step_takes_as_long_as_what_binds_its_programs_or_as_all_that_they_do():
    found = plan(price=2.0)
    rollout, score, update, apply = found.programs
    assert (rollout.runs, score.runs, update.runs, apply.runs) == (1, 0, 2, 2)  # Lite PPO scores nothing before
    assert update.seconds() == max(update.rates.values()) == update.rates[update.bound]
    assert update.seconds("none") == sum(update.rates.values())
    for overlap in OVERLAPS.values():
        of_updates = 2 * (update.seconds(overlap) + apply.seconds(overlap))
        seconds = rollout.seconds(overlap) + of_updates
        assert found.seconds(overlap) == pytest.approx(seconds, rel=1e-12)
        assert found.tokens_per_second(overlap) == pytest.approx(8 * 76 / seconds, rel=1e-12)
        assert found.cost(overlap) == pytest.approx(2.0 * 4 * seconds * 1000 / 3600, rel=1e-12)
        useful = rollout.useful_flops + 2 * update.useful_flops
        peak = 4 * found.topology.chip.flops
        assert found.mfu(overlap) == pytest.approx(useful / (seconds * peak), rel=1e-12)
        assert found.mfu(overlap, UPDATE) == pytest.approx(2 * update.useful_flops / (of_updates * peak), rel=1e-12)
    assert found.mfu("none") < found.mfu("all") < 1


def test_an_algorithm_that_scores_pays_for_it():
    reference = plan(
        "h200:4", "algorithm.kl_placement=loss", "algorithm.kl_estimator=k3", "algorithm.kl_coefficient=0.1"
    )
    assert reference.programs[1].runs == 1
    assert reference.seconds() > plan().seconds()
    held, alone = reference.programs[0].memory.parameters, plan().programs[0].memory.parameters
    assert held - alone == plan().programs[0].memory.optimizer / 2  # one more copy of the parameters


def test_a_device_of_two_per_chip_has_half_of_a_chip():
    one, two = plan("v5p:2x2x1").programs[0], plan("tpu7x:2x1x1").programs[0]
    assert two.memory.limit == 192 * 2**30 / 2
    assert one.rates["compute"] / two.rates["compute"] == pytest.approx(2 * 2307 / (4 * 459), rel=1e-12)


def test_a_critic_is_refused():
    with pytest.raises(ValueError, match="baseline = 'critic'"):
        plan("h200:4", "algorithm.baseline=critic")


def test_what_the_compiler_says_goes_before_the_formulas(monkeypatch):
    """Of its bytes, those beside parameters and optimizer are activations; where it refuses, the limit is its own."""
    collectives = [Collective("all-gather", "fsdp", 12, True, 3, 36, 600.0)]

    def compiled(name, abstract, *, unknown_trips, earlier, say):
        if name == "update":
            return Compiled(1.0, None, 3e9, 1e9, None)
        return Compiled(1.0, 1e9, 2e9, None, collectives)

    monkeypatch.setattr(compiler, "topology_mesh", lambda topology, settings: None)
    monkeypatch.setattr(compiler, "compile_program", compiled)
    monkeypatch.setattr("jaxrl_llm.planning.plan.Abstract", lambda *arguments: None)
    found = make_plan(setting(), TINY, parse_topology("v5e:2x2"))
    rollout, score, update, apply = found.programs
    assert rollout.network == score.network == 600.0 and score.rates["network"] == 600.0 / 200e9
    held = score.memory
    assert held.activations == pytest.approx(3e9, rel=1e-3)  # the arguments hold parameters of some kilobytes
    assert rollout.memory.total == pytest.approx(held.total, rel=1e-3)  # the cache is a part of what was compiled
    assert (update.memory.limit, update.memory.spare < 0, found.fits) == (1e9, True, False)
    assert [program.method for program in found.programs] == ["compiled", "compiled", "refused", "compiled"]
    assert "update (refused by the compiler; 2 in a step): does NOT fit, 2 GB too much of 1 GB" in report.text(found)
    line = next(line for line in report.text(found).splitlines() if "all-gather" in line)
    assert " ".join(line.split()) == "all-gather over fsdp backward 3 in each of 12 trips 36 runs 50 B a trip 600 B"
    assert apply.rates["compute"] == 0


def test_a_refusal_for_memory_is_read_and_any_other_is_an_error():
    message = "Ran out of memory in memory space hbm. Used 24.50G of 15.75G hbm. Exceeded hbm capacity by 8.75G."
    assert memory_exceeded(message) == (None, 24.5 * 2**30, 15.75 * 2**30)
    message = "the total memory required for HLO temporaries (161.22G) exceeds available HBM (15.75G)."
    assert memory_exceeded(message) == (0.0, 161.22 * 2**30, 15.75 * 2**30)
    with pytest.raises(ValueError, match="compiler for TPUs failed: INTERNAL"):
        memory_exceeded("INTERNAL: something else")


def test_the_command_prints_a_plan_and_saves_it(capsys, tmp_path):
    file = tmp_path / "plans" / "plan.json"
    arguments = ["plan", "--config", QWEN3_8B, "--topology", "v5p:4x4x8", "--formula"]
    arguments += ["--config.mesh.data=1", "--config.mesh.fsdp=32", "--config.mesh.tensor=4"]
    assert cli.main([*arguments, "--price", "4", "--to", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "1,000 steps cost" in printed and f"saved: {file}" in printed
    saved = json.loads(file.read_text())
    assert (saved["chips"], saved["mesh"]) == (128, {"data": 1, "fsdp": 32, "tensor": 4, "sequence": 1})
    assert [program["name"] for program in saved["programs"]] == list(PROGRAMS)
    rollout = saved["programs"][0]["memory"]
    # 8.19e9 parameters and two moments of 4 bytes over 128 devices, and 1/4 of the sampling layout in bfloat16
    assert rollout["optimizer"] == pytest.approx(8.19e9 * 8 / 128, rel=1e-2)  # norms lie whole on every device
    assert rollout["parameters"] == pytest.approx(8.19e9 * (4 / 128 + 2 / 4), rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--topology", "v9:4"], "--topology 'v9:4'"),
        (["--topology", "v5p:4x4x8", "--config.data.prompts_per_step=16"], "does not divide the 32 rows"),
        (["--topology", "v5e:4x4", "--formula", "--price", "-1"], "--price -1: expected 0 or more"),
        (["--topology", "v5e:4x4", "--model-config", "nowhere.json"], "--model-config nowhere.json does not exist"),
        (["--topology", "v5e:4x4", "--formula", "--config.model.source=no/such/model"], "--model-config FILE reads"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, part):
    assert cli.main(["plan", "--config", QWEN3_8B, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line


def test_without_the_compiler_the_command_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setattr(compiler, "installed", lambda: False)
    assert cli.main(["plan", "--config", QWEN3_8B, "--topology", "v5e:4x4"]) == 2
    assert 'pip install "jaxrl-llm[tpu-plan]"' in capsys.readouterr().err
