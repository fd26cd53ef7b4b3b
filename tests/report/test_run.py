"""The page of a run, from a folder that looks like one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm.report import curves, effects, run
from jaxrl_llm.training.log import RunLog
from tests.pages import Page

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.py"
HOSTILE = "<script>alert(1)</script> & \"quotes\" 'too' ≥\x00"


def make_run(
    folder: Path, *, steps: int = 40, overrides: tuple[str, ...] = (), fixed: Mapping[str, float] = MappingProxyType({})
) -> Path:
    """A run folder whose accuracy rises from 0.3; ``fixed`` replaces metrics by a constant."""
    config = configs.load(QUICKSTART, overrides).to_dict()
    with RunLog(folder, config, tensorboard=False) as log:
        for step in range(steps + 1):
            accuracy = 0.3 + 0.4 * step / max(1, steps)
            if step % 20 == 0:
                values = {"eval/avg": accuracy, "eval/avg_low": accuracy - 0.05, "eval/avg_high": accuracy + 0.05}
                log.metrics(step, values | {"eval/pass": 0.9, "eval/majority": 0.5, "eval/length": 20.0})
                log.samples(step, [sample(problem, step) for problem in range(3)])
            if step:
                values = {"reward": accuracy, "length": 20.0, "entropy": 1 / step, "kl_sampler": math.nan}
                log.metrics(step, values | {"effect/clip_low": 0.01, "effect/clip_high": 0.02} | dict(fixed))
                log.speed(step, {"seconds": 2.0, "tokens_per_second": 1000.0})
    return folder


def sample(problem: int, step: int) -> dict:
    return {
        "problem": problem,
        "prompt": f"question {problem} {HOSTILE}",
        "completion": f"completion of step {step} {HOSTILE}",
        "answer": "7",
        "extracted": HOSTILE if step == 0 else "7",
        "reward": float(step > 0),
        "outcome": "correct" if step else "unparseable",
        "truncated": step == 0,
        "length": 12,
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, str]:
    folder = make_run(tmp_path_factory.mktemp("runs") / "first <run>", overrides=("algorithm.dual_clip=3.0",))
    path = run.write(folder)
    return path, path.read_text()


def test_the_page_is_one_file_that_fetches_nothing(written):
    path, text = written
    assert path.name == "report.html"
    assert Page(text).fetches_nothing()


def test_texts_of_the_model_are_shown_as_they_are(written):
    page = Page(written[1])
    shown = "".join(page.texts)
    assert f"completion of step 0 {HOSTILE}" in shown
    assert f"completion of step 40 {HOSTILE}" in shown
    assert f"question 2 {HOSTILE}" in shown
    assert "first <run>" in shown


def test_the_headline_is_the_accuracy_before_and_after_with_its_interval(written):
    shown = "".join(Page(written[1]).texts)
    assert "30.0 % → 70.0 %" in shown
    assert "+40.0 points; 95 % intervals 25.0–35.0 and 65.0–75.0" in shown
    assert "1 min 20 s" in shown
    assert "40 steps, 2.00 s each (median)" in shown


def test_every_recorded_curve_is_drawn_and_none_that_was_not(written):
    page = Page(written[1])
    headings = "".join(page.texts)
    for title in ("Held-out accuracy", "Reward of the rollouts", "Response length, tokens", "Entropy, nats a token"):
        assert title in headings
    assert "Tokens where the clip binds" in headings
    assert "KL, nats a token" not in headings  # nothing but NaN
    assert "Gradient norm" not in headings
    assert page.tags.count("svg") == page.tags.count("figure") == 5
    drawn = [name for name in page.ids if name]
    assert len(set(drawn)) == len(drawn)


def test_the_objective_the_config_and_the_start_are_on_the_page(written):
    shown = "".join(Page(written[1]).texts)
    assert "A_i = (r_i − mean_g(r)) / (std_b(r) + 1e-06)" in shown
    assert "optimizer.learning_rate" in shown
    assert "jaxlib" in shown
    assert "seed" in shown


def test_the_same_files_give_the_same_page(written):
    path, text = written
    assert run.write(path.parent).read_text() == text


def test_a_knob_that_changed_nothing_is_named_with_its_value_and_what_it_counts(tmp_path):
    zero = {"effect/dual_clip": 0.0, "effect/clip_high": 0.0, "effect/overlong_filter": math.nan}
    overrides = ("algorithm.dual_clip=3.0", "algorithm.overlong_filter=True")
    make_run(tmp_path, overrides=overrides, fixed=zero)
    shown = "".join(Page(run.write(tmp_path).read_text()).texts)
    assert "algorithm.dual_clip = 3.0 changed no token in the whole run" in shown
    assert "algorithm.clip_high = 0.2 changed no token" in shown
    assert "algorithm.overlong_filter = true changed no row" in shown
    assert "algorithm.clip_low" not in shown.partition("Curves")[0]
    assert effects.inert_of(tmp_path) == sorted(effects.inert_of(tmp_path)) and len(effects.inert_of(tmp_path)) == 3


def test_one_step_at_which_a_knob_changed_something_is_enough():
    rows = [{"effect/clip_low": 0.0}, {"reward": 1.0}, {"effect/clip_low": 0.01}, {"effect/clip_low": None}]
    assert effects.inert({"algorithm": {"clip_low": 0.2}}, rows) == []


def test_a_filter_whose_groups_were_all_replaced_has_changed_something():
    refilled = {"effect/group_filter": 0.0, "effect/resample_rounds": 0.5}
    assert effects.inert({"algorithm": {}}, [refilled]) == []
    assert len(effects.inert({"algorithm": {}}, [refilled | {"effect/resample_rounds": 0.0}])) == 2


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    make_run(tmp_path, steps=1)
    shown = "".join(Page(run.write(tmp_path).read_text()).texts)
    assert "1 of" in shown
    assert "step 0" in shown


def test_a_run_without_evaluation_or_speed_has_a_page(tmp_path):
    make_run(tmp_path)
    for name in ("samples.jsonl", "speed.jsonl", "starts.jsonl"):
        (tmp_path / name).unlink()
    assert "No texts were recorded." in run.write(tmp_path).read_text()


def test_a_config_of_another_version_is_shown_without_the_objective(tmp_path):
    make_run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["algorithm"]["older_knob"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    shown = "".join(Page(run.write(tmp_path).read_text()).texts)
    assert "unknown config key algorithm.older_knob" in shown
    assert "algorithm.older_knob" in shown


def test_a_folder_that_is_no_run_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        run.write(tmp_path)
    make_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": ')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line \d+ is not JSON"):
        run.write(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl does not exist"):
        run.write(tmp_path)


def test_the_moving_mean_is_that_of_the_last_values():
    points = [(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0)]
    assert curves.moving_mean(points, 2) == [(1, 1.0), (2, 2.0), (3, 4.0), (4, 6.0)]


def test_a_value_that_is_missing_or_null_leaves_a_gap_in_its_curve():
    rows = [{"step": 0, "a": 1.0}, {"step": 1}, {"step": 2, "a": None}, {"step": 3, "a": 0.0}]
    assert curves.series(rows, "a") == [(0, 1.0), (3, 0.0)]


@pytest.mark.parametrize("named", [True, False])
def test_the_averages_of_several_benchmarks_stand_before_and_after(tmp_path, named):
    with RunLog(tmp_path, configs.load(QUICKSTART, ()).to_dict(), tensorboard=False) as log:
        for step, value in ((0, 0.25), (2, 0.5)):
            of_all = dict.fromkeys(("avg", "avg_low", "avg_high", "pass", "majority", "length"), value)
            of_each = {"AMC23/avg": value + 0.125, "AIME24/avg": value - 0.125, "benchmarks_avg": value}
            values = of_all | (of_each if named else {})
            log.metrics(step, {f"eval/{name}": number for name, number in values.items()})
    shown = Page(run.write(tmp_path).read_text()).shown
    assert ("Benchmarks" in shown) == named
    for part in ("AMC23", "37.5 % → 62.5 % (+25.0 points)", "AIME24", "12.5 % → 37.5 %", "plain mean of these"):
        assert (part in shown) == named
