"""docs/studies.md shows the files and keys that there are, and a trick of one's own gets its verdict as it says."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm import cli
from jaxrl_llm.study import plan
from jaxrl_llm.study.arms import StudySettings
from jaxrl_llm.study.lab.lanes import LAB_IGNORES
from jaxrl_llm.study.words import VERDICTS
from tests.strategies import step
from tests.study.evidence import ROOT

PAGE = (ROOT / "docs" / "studies.md").read_text()
TRICKS = sorted((ROOT / "docs" / "tricks").glob("*.py"))


def test_the_page_shows_the_tricks_of_its_folder_each_in_under_20_lines():
    shown = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert sorted(shown) == sorted(path.read_text() for path in TRICKS)
    assert all(len(text.splitlines()) < 20 for text in shown)


def test_the_page_names_every_key_and_mode_of_a_study_and_all_that_the_lab_ignores():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    modes = {"one_at_a_time", "leave_one_out", "pairs", "grid", "arms"}
    assert named == {field.name for field in dataclasses.fields(StudySettings)} - {"comparisons"} | modes
    (listed,) = re.findall(r"It does not read\n\n(.*?)\n\nwhich", PAGE, flags=re.DOTALL)
    assert listed.replace(",", " ").split() == list(LAB_IGNORES)


def test_a_trick_of_one_s_own_gets_a_verdict_by_the_command_of_the_page(tmp_path, capsys):
    """The study of the page with 3 seeds, 1 step and 4 problems, on the base model alone; see `reduced`."""
    file = ROOT / "docs" / "tricks" / "wider_clip.py"  # two numbers: a lane of the base's program
    assert cli.main(["study", "run", "--config", reduced(tmp_path), "--trick", str(file)]) == 0
    printed, summary = capsys.readouterr().out, json.loads((tmp_path / "study" / "summary.json").read_text())
    (comparison,) = summary["cells"]["base"]["comparisons"]
    assert (comparison["arm"], comparison["reference"], comparison["seeds"]) == ("wider_clip", "base", 3)
    assert comparison["verdict"] in VERDICTS
    assert comparison["text"] in printed
    assert "wider_clip" in (tmp_path / "study" / "report.html").read_text()


@pytest.mark.parametrize("file", TRICKS, ids=lambda file: file.stem)
def test_every_trick_of_the_page_is_an_arm_of_the_whole_study_of_16_seeds_on_two_models(file):
    assert f"jaxrl-llm study run --config configs/studies/try.py --trick docs/tricks/{TRICKS[0].name}" in PAGE
    study = plan.load(ROOT / "configs" / "studies" / "try.py", tricks=[runpy.run_path(str(file))["TRICK"]])
    assert [arm.name for arm in study.arms] == ["base", file.stem]
    assert [cell.name for cell in study.cells] == ["base", "aligned"]
    assert len(study.seeds) == 16


def test_the_code_of_the_page_damps_advantages_and_touches_nothing_else():
    """That the lab applies it: tests/study/test_lab.py."""
    trick = runpy.run_path(str(ROOT / "docs" / "tricks" / "damped_advantages.py"))["TRICK"]
    values = np.array([[4.0, -0.25], [0.0, 9.0]], np.float32)
    batch = step(0).train_batch(np.ones((2, 2), bool), jnp.asarray(values))
    damped = trick.transform(batch)
    np.testing.assert_array_equal(damped.advantages, [[2.0, -0.5], [0.0, 3.0]])
    assert dataclasses.replace(damped, advantages=batch.advantages) == batch


def reduced(folder: Path) -> str:
    """A config file that is configs/studies/try.py, smaller."""
    text = f"""
import runpy

from configs.studies import lab


def get_config():
    c = runpy.run_path({str(ROOT / "configs" / "studies" / "try.py")!r})["get_config"]()
    c.run_dir = {str(folder / "study")!r}
    c.seeds, c.run.steps = 3, 1
    c.run.data.prompts_per_step, c.run.data.samples_per_prompt = 2, 4
    c.run.evaluation.every, c.run.evaluation.problems, c.run.evaluation.samples = 1, 4, 1
    del c.cells["aligned"]
    return c
"""
    (folder / "small.py").write_text(text)
    return str(folder / "small.py")
