"""`jaxrl-llm diff` says in which keys two configs differ, and nothing else."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path

import pytest

from jaxrl_llm import cli, config
from jaxrl_llm.diff import diff, differences, read

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def path(name: str) -> str:
    return str(CONFIGS / f"{name}.py")


def test_lite_ppo_and_grpo_differ_in_std_aggregation_and_kl():
    found = {one.path: one.values for one in differences(read(path("lite_ppo")), read(path("grpo")))}
    assert found == {
        "algorithm.scale": ("batch", "group"),
        "algorithm.aggregation": ("token_mean", "sequence_mean"),
        "algorithm.kl_placement": ("none", "loss"),
        "algorithm.kl_estimator": (None, "k3"),
        "algorithm.kl_coefficient": (0.0, 0.04),
    }


def test_a_knob_of_the_algorithm_has_both_formulas_and_another_key_its_values():
    text = diff((path("grpo"), path("rloo")))
    assert "r_i − mean_g(r): mean_g is over the samples of the same prompt" in text
    assert "r_i − mean_g∖i(r): mean_g∖i is over the other samples of the same prompt" in text
    assert re.search(r"training\.mini_batches\n  \S+grpo\.py  4\n  \S+rloo\.py  1\n", text)
    assert re.search(r"algorithm\.clip_low\n  \S+grpo\.py  0\.2   \[1 − 0\.2, .*\n  \S+rloo\.py  None  off\n", text)
    assert text.endswith("keys differ (run_dir: runs/grpo, runs/rloo)")


def test_a_config_does_not_differ_from_itself_and_the_folder_is_no_difference():
    assert diff((path("grpo"), path("grpo"))) == "no difference"
    assert diff((path("models/qwen3_4b"), path("models/qwen3_4b")), ["seed=3"]) == "no difference"
    one, other = read(path("grpo")), read(path("grpo"), ["run_dir=elsewhere"])
    assert one != other
    assert differences(one, other) == []


def test_two_files_that_differ_in_their_folder_alone_say_so(tmp_path):
    copy = tmp_path / "copy.py"
    copy.write_text(Path(path("grpo")).read_text().replace("runs/grpo", "runs/copy"))
    assert diff((path("grpo"), str(copy))) == "no difference (run_dir: runs/grpo, runs/copy)"


def test_every_key_of_every_section_is_compared():
    settings = read(path("grpo"))
    for key in config.key_types():
        if key.startswith("algorithm.") or key == "run_dir":  # knobs check each other; see above for the folder
            continue
        other = copy.deepcopy(settings)
        *sections, name = key.split(".")
        object.__setattr__(functools.reduce(getattr, sections, other), name, "another")
        assert [one.path for one in differences(settings, other)] == [key]


def test_an_override_applies_to_both(capsys):
    arguments = ["diff", path("lite_ppo"), path("dapo"), "--config.algorithm.clip_high=0.3"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "algorithm.clip_high" not in printed
    assert "algorithm.scale" in printed


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((path("grpo"), "nope.py"), ("nope.py does not exist",)),
        ((path("grpo"), path("rloo"), "--config.algorithm.dual_clip=3"), ("rloo.py: ", "dual_clip = 3.0 with")),
        ((path("grpo"), path("dapo"), "--config.algorithm.clip_hi=3"), ("grpo.py: ", "nearest: algorithm.clip_high")),
        (
            (path("grpo"), path("dapo"), "--config.data.samples_per_prompt=1", "--config.training.mini_batches=1"),
            ("grpo.py: ", "samples_per_prompt = 1"),
        ),
    ],
)
def test_a_set_that_contradicts_itself_is_refused_with_the_file_and_the_reason(capsys, arguments, parts):
    assert cli.main(["diff", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    for part in parts:
        assert part in line
