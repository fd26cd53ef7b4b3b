"""The summary of a study: the numbers of its records, complete, as strict JSON, whatever is missing or failed."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.study import page, plan, records
from jaxrl_llm.study.records import RunRecord
from jaxrl_llm.study.statistics import over_seeds
from jaxrl_llm.study.summary import load_summary, save_summary, summarize
from tests.study.summaries import summary as fixture

CONFIG = """
from ml_collections import ConfigDict
from configs import lite_ppo
from jaxrl_llm.study import Trick

def get_config():
    c = ConfigDict()
    c.name, c.question, c.claim, c.source = "test", "why?", "none", "nobody"
    c.engine = "lab"
    c.run = lite_ppo.get_config()
    c.run.steps = 100
    c.cells = ConfigDict({"easy": {"data.tier": "easy"}, "hard": {"data.tier": "hard"}}, allow_dotted_keys=True)
    c.mode = "one_at_a_time"
    c.tricks = ("clip_high_0_28", Trick("mine", {}, transform=lambda batch: batch))
    c.seeds = 4
    return c
"""
STEPS = np.arange(0, 101, 20)
LIFT = {"base": 0.0, "clip_high_0_28": 0.2, "mine": 0.0}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> plan.Study:
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.py").write_text(CONFIG)
    return plan.load(folder / "study.py", [f"run_dir={folder}/out"])


def record(cell: str, arm: str, seed: int) -> RunRecord:
    """Of a run that rises from 0.3; "mine" gives what "base" gives."""
    generator = np.random.default_rng([seed, arm == "clip_high_0_28"])
    rises = 0.3 + (0.2 + LIFT[arm] + 0.01 * seed) * STEPS[:, None] / 100
    accuracy = rises + 0.05 * generator.standard_normal((len(STEPS), 8))
    curve = generator.random(100).astype(np.float32)
    return RunRecord(
        cell,
        arm,
        seed,
        curves={
            "reward": curve,
            "sampled_entropy": np.where(np.arange(100) % 10, np.nan, 1.0).astype(np.float32),
            "repeat_ratio": np.full(100, np.nan, np.float32),
            "effect/clip_high": 0 * curve,
            "eval/avg": curve,
        },
        eval_steps=STEPS,
        accuracy=np.clip(accuracy, 0, 1).astype(np.float32),
        counts={"probability": np.arange(6), "clipped": np.array([0, 2, 1]), "tokens": np.array([5, 6, 7])},
        seconds=1.0,
        vocabulary=("a", "b", "b"),
        samples=({"question": "1+1=", "answer": "2", "completion": "2", "correct": True, "step": 0},),
    )


def some_records(study: plan.Study) -> list[RunRecord]:
    return [record(*job) for job in study.jobs()]


@pytest.fixture(scope="module")
def summary(study: plan.Study) -> dict[str, Any]:
    return summarize(study, some_records(study), command="jaxrl-llm study run", seconds=24.0, devices="none")


def lacks(ours: dict[str, Any], expected: dict[str, Any], free: tuple[str, ...] = ()) -> list[str]:
    """Dotted names of ``expected`` that ``ours`` has not; under ``free`` the names are data."""
    found = []
    for name, part in expected.items():
        if name not in ours:
            found.append(name)
        elif isinstance(part, dict) and name not in free:
            found += [f"{name}.{inner}" for inner in lacks(ours[name], part, free)]
    return found


def test_a_summary_has_every_key_that_the_page_is_drawn_from(summary):
    expected = fixture(cells=("easy",), arms=2)
    assert not lacks(summary, {**expected, "cells": {}}, free=("run", "versions"))
    ours, theirs = summary["cells"]["easy"], expected["cells"]["easy"]
    assert not lacks(ours, {"changes": {}, "arms": {}, "comparisons": []})
    free = ("curves", "counts", "changes")
    assert not lacks(ours["arms"]["clip_high_0_28"], theirs["arms"]["trick 1"], free)
    assert not lacks(ours["comparisons"][0], theirs["comparisons"][0])
    assert ours["arms"]["base"]["curves"]["reward"].keys() == {"steps", "mean", "low", "high"}


def test_a_summary_makes_a_page(summary, tmp_path):
    cell = summary["cells"]["easy"]
    small = {name: {**arm, "curves": {}, "evaluations": {}} for name, arm in cell["arms"].items()}  # few pictures
    written = page.write({**summary, "cells": {"easy": {**cell, "arms": small}}}, tmp_path / "report.html")
    assert "clip_high_0_28 helps against base" in written.read_text()


def test_the_numbers_are_those_of_the_records(study, summary):
    cell = summary["cells"]["easy"]
    runs = [record("easy", "base", seed) for seed in range(4)]
    # five evaluations after step 0: the last quarter is the last one
    per_seed = cell["arms"]["base"]["per_seed"]
    np.testing.assert_allclose(per_seed["final"], [run.accuracy[-1].mean() for run in runs], rtol=1e-5)
    np.testing.assert_allclose(per_seed["area"], [run.accuracy[1:].mean() for run in runs], rtol=1e-5)
    np.testing.assert_allclose(per_seed["start"], [run.accuracy[0].mean() for run in runs], rtol=1e-5)
    assert cell["arms"]["base"]["mean"]["final"]["value"] == pytest.approx(np.mean(per_seed["final"]), rel=1e-4)
    row = next(row for row in cell["comparisons"] if row["arm"] == "clip_high_0_28")
    theirs = cell["arms"]["clip_high_0_28"]["per_seed"]["final"]
    assert row["difference"] == pytest.approx(np.mean(np.subtract(theirs, per_seed["final"])), abs=1e-5)
    assert (row["verdict"], row["seeds"], row["missing"]) == ("helps", 4, 0)
    assert row["final"]["difference"] == row["difference"]
    evaluations = cell["arms"]["base"]["evaluations"]
    assert evaluations["steps"] == STEPS.tolist()
    np.testing.assert_allclose(evaluations["mean"], np.mean([r.accuracy.mean(axis=1) for r in runs], axis=0), rtol=1e-3)


def test_the_mean_of_several_benchmarks_counts_each_alike_however_many_problems_it_has(study, tmp_path):
    names = ("MATH-500",) * 6 + ("AIME24",) * 2
    runs = [dataclasses.replace(run, benchmarks=names) for run in some_records(study)]
    made = summarize(study, runs, command="", seconds=0.0, devices="none")
    found = made["cells"]["easy"]["arms"]["base"]["benchmarks"]["final"]
    last = np.mean([run.accuracy[-1] for run in runs if (run.cell, run.arm) == ("easy", "base")], axis=0)
    assert found["of"] == pytest.approx({"MATH-500": last[:6].mean(), "AIME24": last[6:].mean()}, rel=1e-4)
    assert found["mean"] == pytest.approx((last[:6].mean() + last[6:].mean()) / 2, rel=1e-4)
    assert found["mean"] != pytest.approx(last.mean(), rel=1e-3)
    cell = made["cells"]["easy"]
    small = {name: {**arm, "curves": {}, "evaluations": {}} for name, arm in cell["arms"].items()}  # few pictures
    written = page.write({**made, "cells": {"easy": {**cell, "arms": small}}}, tmp_path / "report.html").read_text()
    for part in ("Accuracy by benchmark", "MATH-500", "AIME24", "mean of the benchmarks", f"{100 * found['mean']:.1f}"):
        assert part in written


def test_an_arm_that_gives_the_same_answers_is_identical_and_all_cells_are_corrected_together(summary):
    for cell in summary["cells"].values():
        one, other = cell["comparisons"]
        assert (other["arm"], other["identical"], other["verdict"]) == ("mine", True, "no_difference")
        assert one["p_adjusted"] > one["p"] * 1.99
    assert summary["cells"]["easy"]["arms"]["mine"]["tricks"][0]["code"] is True


def test_curves_are_thinned_and_have_bands_over_seeds(summary):
    curves = summary["cells"]["easy"]["arms"]["base"]["curves"]
    assert set(curves) == {"reward", "sampled_entropy", "effect/clip_high"}, "repeat_ratio has no number at all"
    reward = curves["reward"]
    assert len(reward["steps"]) == 40 and reward["steps"][0] == 2 and reward["steps"][-1] == 99.5
    first = np.array([record("easy", "base", seed).curves["reward"][:3].mean() for seed in range(4)])
    expected = over_seeds(first[:, None])
    got = [reward[name][0] for name in ("mean", "low", "high")]
    np.testing.assert_allclose(got, [expected.value, *expected.interval()], rtol=1e-3)
    assert curves["sampled_entropy"]["mean"][:5] == [1.0, None, None, 1.0, None]


def test_counts_are_summed_over_seeds_and_texts(summary):
    counts = summary["cells"]["easy"]["arms"]["base"]["counts"]
    assert counts == {"probability": [0, 4, 8, 12, 16, 20], "clipped": {"b": 12}, "tokens": {"b": 52}}


def test_a_knob_that_did_nothing_is_named(summary):
    arms = summary["cells"]["hard"]["arms"]
    assert (arms["clip_high_0_28"]["inert"], arms["base"]["inert"]) == (["effect/clip_high"], [])


def test_the_time_to_target_is_to_nine_tenths_of_the_gain_of_the_reference(summary):
    cell = summary["cells"]["easy"]
    base, faster = cell["arms"]["base"], cell["arms"]["clip_high_0_28"]
    start, final = (np.mean(base["per_seed"][name]) for name in ("start", "final"))
    assert cell["target"] == pytest.approx(start + 0.9 * (final - start), rel=1e-4)
    assert faster["reached"]["median"] < 100 and faster["reached"]["reached"] == faster["reached"]["of"] == 4


def test_failed_and_missing_runs_are_counted_and_their_pairs_left_out(study):
    every = some_records(study)
    jobs = {(run.cell, run.arm, run.seed): run for run in every}
    lost = jobs.pop(("easy", "base", 1))
    jobs["easy", "mine", 2] = records.failure("easy", "mine", 2, "killed", seconds=0.0, config_hash="")
    sick = jobs["hard", "base", 0]
    jobs["hard", "base", 0] = dataclasses.replace(sick, accuracy=np.full_like(sick.accuracy, np.nan))
    found = summarize(study, jobs.values(), command="", seconds=0.0, devices="none")
    easy, hard = found["cells"]["easy"], found["cells"]["hard"]
    assert easy["arms"]["base"]["missing"] == [lost.seed]
    assert easy["arms"]["mine"]["failed"] == [{"seed": 2, "reason": "killed"}]
    assert [run["seed"] for run in hard["arms"]["base"]["failed"]] == [0]
    mine = next(row for row in easy["comparisons"] if row["arm"] == "mine")
    assert (mine["seeds"], mine["missing"], mine["verdict"]) == (2, 2, "undecided")
    assert "2 of 4 pairs are missing" in mine["text"]
    assert easy["arms"]["mine"]["per_seed"]["seeds"] == [0, 1, 3]


def test_a_study_without_any_run_has_a_summary_and_a_page(study, tmp_path):
    found = summarize(study, [], command="", seconds=0.0, devices="none")
    assert {row["verdict"] for cell in found["cells"].values() for row in cell["comparisons"]} == {"undecided"}
    save_summary(found, tmp_path / "summary.json")
    page.write(found, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "grpo"}, "easy/grpo, seed 0: no run of study test"),
        ({"seed": 4}, "easy/base, seed 4: no run of study test"),
        ({"seed": 3, "eval_steps": 2 * STEPS}, r"easy/base, seed 3.*\[0, 40,.*expected those.*\[0, 20,"),
    ],
)
def test_a_record_of_something_else_is_refused(study, changes, message):
    foreign = dataclasses.replace(record("easy", "base", 0), **changes)
    with pytest.raises(ValueError, match=message):
        summarize(study, [record("easy", "base", 1), foreign], command="", seconds=0.0, devices="none")


def test_two_records_of_one_run_are_refused(study):
    with pytest.raises(ValueError, match="easy/base, seed 0: a second one"):
        summarize(study, [record("easy", "base", 0)] * 2, command="", seconds=0.0, devices="none")


def test_a_summary_is_read_as_it_was_saved_and_each_list_of_numbers_is_one_line(summary, tmp_path):
    path = save_summary(summary, tmp_path / "deep" / "summary.json")
    assert load_summary(path) == summary
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]
    assert f'"steps": {json.dumps(STEPS.tolist())}' in path.read_text()


def test_a_summary_never_holds_what_json_does_not(summary, tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        save_summary({**summary, "seconds": math.nan}, tmp_path / "summary.json")
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not the summary of a study: it has no schema"),
        ('{"schema": 2}', "schema = 2, expected 1"),
        ('{"schema": 1, "name": "x"}', "is not the summary of a study: scale, question"),
    ],
)
def test_what_is_no_summary_is_refused_with_its_file(tmp_path: Path, text, message):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=rf"summary\.json.*{message}"):
        load_summary(tmp_path / "summary.json")


def test_a_summary_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"summary\.json does not exist"):
        load_summary(tmp_path / "summary.json")
