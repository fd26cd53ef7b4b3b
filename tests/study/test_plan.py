"""Plans: which runs a study consists of, what is compared, and what is refused before anything runs."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm.study import budget, plan, records
from jaxrl_llm.study.statistics import minimum_detectable
from tests.study.evidence import ROOT
from tests.study.test_records import record

HEAD = """
from ml_collections import ConfigDict
from configs import lite_ppo
from jaxrl_llm.study import Trick

def get_config(scale="lab"):
    c = ConfigDict()
    c.name, c.question, c.claim, c.source = "test", "why?", "none", "nobody"
    c.engine = "lab"
    c.run = lite_ppo.get_config()
    c.run.steps = 30 if scale == "lab" else 90
    c.cells = ConfigDict({"easy": {"data.tier": "easy"}, "hard": {"data": {"tier": "hard"}}}, allow_dotted_keys=True)
    c.mode = "one_at_a_time"
    c.tricks = ("clip_high_0_28", "overlong_filter")
    c.seeds = 2
"""


def write(folder: Path, body: str = "") -> Path:
    path = folder / "study.py"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    path.write_text(f"{HEAD}{lines}    return c\n")
    return path


def load(folder: Path, body: str = "", *overrides: str, scale: str = "") -> plan.Study:
    return plan.load(f"{write(folder, body)}{scale}", overrides)


def test_a_study_is_base_and_tricks_in_every_cell_with_seeds_outermost(tmp_path):
    study = load(tmp_path)
    assert [arm.name for arm in study.arms] == ["base", "clip_high_0_28", "overlong_filter"]
    assert study.jobs() == [
        (cell, arm.name, seed) for seed in (0, 1) for cell in ("easy", "hard") for arm in study.arms
    ]
    assert study.comparisons == (("clip_high_0_28", "base"), ("overlong_filter", "base"))
    assert study.folder == Path("runs/studies/test/lab")
    assert plan.load(f"{tmp_path}/study.py:full").base["steps"] == 90


def test_the_config_of_a_run_is_base_cell_tricks_and_seed(tmp_path):
    study = load(tmp_path, "", "first_seed=7", "run.sampling.max_tokens=20", f"run_dir={tmp_path}/out")
    config: Any = study.config("hard", "clip_high_0_28", 8)
    assert (config.data.tier, config.algorithm.clip_high, config.seed) == ("hard", 0.28, 8)
    assert (config.steps, config.sampling.max_tokens) == (30, 20)
    assert config.run_dir == f"{tmp_path}/out/hard/clip_high_0_28/seed_0008"
    settings = study.run_settings("hard", "clip_high_0_28", 8)
    assert settings == configs.parse(config)
    same = dataclasses.replace(settings, algorithm=study.run_settings("hard", "base", 8).algorithm)
    base = study.run_settings("hard", "base", 8)
    assert dataclasses.replace(same, run_dir=base.run_dir) == base, "arms share seeds and all else"
    with pytest.raises(ValueError, match="cell 'none', arm 'base': expected a cell of easy, hard"):
        study.config("none", "base", 0)


MODES = {
    "leave one out": (
        "c.mode = 'leave_one_out'",
        ["all", "without_clip_high_0_28", "without_overlong_filter"],
        [("without_clip_high_0_28", "all"), ("without_overlong_filter", "all")],
    ),
    "pairs": (
        "c.mode = 'pairs'",
        ["base", "clip_high_0_28", "overlong_filter", "clip_high_0_28+overlong_filter"],
        [(arm, "base") for arm in ("clip_high_0_28", "overlong_filter", "clip_high_0_28+overlong_filter")],
    ),
    "grid that holds the base": (
        "c.mode, c.tricks = 'grid', ()\n"
        "c.grid = ConfigDict({'algorithm.clip_high': (0.2, 0.3)}, allow_dotted_keys=True)",
        ["clip_high=0.2", "clip_high=0.3"],
        [("clip_high=0.3", "clip_high=0.2")],
    ),
    "grid of two keys": (
        "c.mode, c.tricks = 'grid', ()\n"
        "c.grid = ConfigDict({'algorithm': {'scale': ('none', 'group'), 'overlong_filter': (True,)}})",
        ["base", "overlong_filter=True,scale=none", "overlong_filter=True,scale=group"],
        [("overlong_filter=True,scale=none", "base"), ("overlong_filter=True,scale=group", "base")],
    ),
    "arms": (
        "c.mode, c.tricks, c.own = 'arms', (), (Trick('mine', {'algorithm.clip_low': 0.1}),)\n"
        "c.arms = ConfigDict({'base': (), 'b': ('mine', 'overlong_filter'), 'c': ('mine',)})\n"
        "c.comparisons = (('b', 'c'),)",
        ["b", "base", "c"],
        [("b", "c")],
    ),
    "another reference": (
        "c.reference = 'overlong_filter'",
        ["base", "clip_high_0_28", "overlong_filter"],
        [("base", "overlong_filter"), ("clip_high_0_28", "overlong_filter")],
    ),
    "nothing compared": ("c.comparisons = ()", ["base", "clip_high_0_28", "overlong_filter"], []),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_makes_arms_of_tricks(tmp_path, mode):
    body, arms, comparisons = MODES[mode]
    study = load(tmp_path, body)
    assert [arm.name for arm in study.arms] == arms
    assert list(study.comparisons) == comparisons


def test_a_pair_sets_what_both_tricks_set_and_leaving_one_out_what_the_rest_sets(tmp_path):
    pairs = load(tmp_path, MODES["pairs"][0]).run_settings("easy", "clip_high_0_28+overlong_filter", 0).algorithm
    assert (pairs.clip_high, pairs.overlong_filter) == (0.28, True)
    left = load(tmp_path, MODES["leave one out"][0]).run_settings("easy", "without_overlong_filter", 0).algorithm
    assert (left.clip_high, left.overlong_filter) == (0.28, False)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("c.seed = 3", ["unknown config key seed"]),
        ("c.run.algorithm.clip_hihg = 3.0", ["unknown config key run.algorithm.clip_hihg", "clip_high"]),
        ("c.seeds = 0", ["seeds = 0", "at least 1"]),
        ("c.metric = 'last'", ["metric = 'last'", "one of final, area, best"]),
        ("c.name = 'a/b'", ["name = 'a/b'", "a folder"]),
        ("c.cells = ConfigDict()", ["cells", "one cell or more"]),
        ("c.cells = ConfigDict({'x': {'data': {'teir': 'easy'}}})", ["cells.x: unknown config key data.teir"]),
        ("c.cells = ConfigDict({'x': {'steps': 'many'}})", ["cells.x.steps = 'many'", "an integer"]),
        ("c.cells = ConfigDict({'a b': {}})", ["cells.a b", "a folder"]),
        ("c.tricks = ('clip_higher',)", ["unknown trick 'clip_higher'", "clip_high_0_28"]),
        ("c.tricks = ()", ["tricks = ()", "names of tricks in the file, or --trick FILE with a trick of your own"]),
        ("c.tricks = ('overlong_filter', 3)", ["tricks = ('overlong_filter', 3)", "a tuple of names"]),
        ("c.own = ('overlong_filter',)", ["own = ('overlong_filter',)", "a tuple of Trick"]),
        ("c.tricks = ('overlong_filter', 'overlong_filter')", ["two arms have the name overlong_filter"]),
        ("c.arms = ConfigDict({'a': ()})", ["only arms reads it"]),
        ("c.mode, c.tricks = 'arms', ()\nc.arms = ConfigDict({'a': 'lite_ppo'})", ["arms.a", "a tuple of names"]),
        ("c.mode = 'grid'\nc.tricks = ()", ["grid = None", "what to compare"]),
        ("c.reference = 'none'", ["reference = 'none'", "base, clip_high_0_28"]),
        ("c.comparisons = (('base', 'base'),)", ["('base', 'base')", "expected (arm, reference)"]),
        ("c.comparisons = ('base',)", ["expected (arm, reference)"]),
        ("c.run.evaluation.every = 0", ["run.evaluation.every = 0", "accuracy"]),
        ("c.tricks = ('dual_clip', 'reinforce_loss')", []),
        (
            "c.mode, c.tricks = 'pairs', ('dual_clip', 'reinforce_loss')",
            [
                "study test, cell easy, arm dual_clip+reinforce_loss: algorithm.dual_clip = 3.0",
                "only surrogate ppo_clip",
            ],
        ),
        (
            "c.cells = ConfigDict({'short': {'sampling': {'max_tokens': 4}}})\n"
            "c.tricks = (Trick('buffer', {'algorithm.overlong_buffer': 8, 'algorithm.overlong_penalty': 1.0}),)",
            ["cell short, arm buffer: algorithm.overlong_buffer = 8 with sampling.max_tokens = 4"],
        ),
        ("c.tricks = ('clip_high_0_28', 'token_loss')", ["cell easy, arm token_loss", "is that of arm base"]),
        (
            "c.cells = ConfigDict({'wide': {'algorithm': {'clip_high': 0.3}}})",
            ["cell wide, arm clip_high_0_28: the cell sets algorithm.clip_high to 0.3 and the arm to 0.28"],
        ),
        (
            "c.engine = 'train'\nc.tricks = (Trick('code', {}, transform=lambda batch: batch),)",
            ["engine = 'train' with trick code", "expected engine lab"],
        ),
    ],
)
def test_a_study_that_cannot_run_is_refused_with_the_key_or_cell_and_arm(tmp_path, body, parts):
    if not parts:  # each alone is fine
        assert load(tmp_path, body).jobs()
        return
    with pytest.raises(ValueError, match=re.escape(parts[0])) as error:
        load(tmp_path, body)
    for part in parts[1:]:
        assert part in str(error.value)


def test_a_trick_that_is_code_is_an_arm_of_its_own(tmp_path):
    study = load(tmp_path, "c.tricks = (Trick('code', {}, transform=lambda batch: batch),)")
    assert [arm.name for arm in study.arms] == ["base", "code"]


CODE = """
import functools
FACTOR = {factor}

def times(x):
    return {body} * x

def transform(batch):
    return FACTOR * times(batch)
"""


def test_a_record_is_that_of_the_code_of_a_trick_too(tmp_path):
    """The function itself, what it calls and reads, and nothing else of the study's file."""

    def hash_of(factor: str = "2", body: str = "3", transform: str = "transform", seeds: int = 2) -> str:
        path = write(tmp_path, f"c.seeds = {seeds}\nc.tricks = (Trick('code', {{}}, transform={transform}),)")
        path.write_text(CODE.format(factor=factor, body=body) + path.read_text())
        return plan.load(path).hash_of("easy", "code", 0)

    hashes = [
        hash_of(),
        hash_of(factor="20"),
        hash_of(body="30"),
        hash_of(transform="times"),
        hash_of(transform="functools.partial(transform, 1)"),
        load(tmp_path).hash_of("easy", "base", 0),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(seeds=3) == hashes[0]


def test_runs_without_a_record_are_missing_and_a_record_of_another_config_is_refused(tmp_path):
    study = load(tmp_path, "", f"run_dir={tmp_path}/out")
    jobs = study.jobs()
    assert study.missing() == jobs and study.records() == []
    for job in jobs[:2]:
        named = dict(zip(("cell", "arm", "seed"), job, strict=True))
        records.save(study.folder, record(**named, config_hash=study.hash_of(*job)))
    records.save(study.folder, records.failure(*jobs[2], "boom", seconds=1.0, config_hash=study.hash_of(*jobs[2])))
    records.save(study.folder, record(cell="easy", arm="of_another_study"))
    assert study.missing() == jobs[2:]
    assert [one.failed for one in study.records()] == ["", "", "boom"]
    changed = load(tmp_path, "", f"run_dir={tmp_path}/out", "run.steps=31")
    with pytest.raises(ValueError, match=r"easy/base/seed_0000/record\.npz is the record of another config"):
        changed.missing()


def test_a_large_study_is_planned_in_under_two_seconds(tmp_path):
    values = ", ".join(str(0.2 + i / 100) for i in range(20))
    body = (
        f"c.mode, c.tricks, c.seeds = 'grid', (), 16\nc.grid = ConfigDict({{'algorithm': {{'clip_high': ({values})}}}})"
    )
    body += "\nc.cells = ConfigDict({f'c{i}': {'sampling': {'max_tokens': 10 + i}} for i in range(4)})"
    path = write(tmp_path, body)
    started = time.process_time()
    assert len(plan.load(path).jobs()) == 20 * 4 * 16
    assert time.process_time() - started < 2, "each arm of each cell is parsed once, not once for each seed"


def test_the_estimate_counts_tokens_and_flops_of_all_runs(tmp_path):
    study = load(tmp_path, "c.cells = ConfigDict({'easy': {}})\nc.tricks = ('trainer_logprobs', 'greedy_baseline')")
    found = plan.estimate(study, spread=0.05, seconds_a_run=60.0)
    run = study.settings.run
    rows, limit = 30 * 16 * 8, run.sampling.max_tokens
    evaluated = 3 * run.evaluation.problems * run.evaluation.samples * limit  # before step 1, after 20 and 30
    greedy = 30 * 16 * limit
    assert found.runs == 6
    assert found.sampled_tokens == 2 * (3 * (rows * limit + evaluated) + greedy)
    whole = rows * (run.data.max_prompt_tokens + limit)
    assert found.trained_tokens == 2 * 3 * whole
    parameters = found.flops / (2 * found.sampled_tokens + 2 * 2 * whole + 6 * found.trained_tokens)
    assert parameters == round(parameters) > 1e5
    assert found.detectable is None
    assert found.seconds == 360
    assert "6 runs" in found.text() and "0.1 hours" in found.text() and "take more seeds" in found.text()


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("c.seeds = 1", "1 seed can find no difference, however large: a verdict needs 3; take more seeds (18 find"),
        ("c.seeds = 2", "2 seeds can find no difference, however large: a verdict needs 3; take more seeds (18 find"),
        ("c.comparisons = ()", "it compares nothing, and no verdict"),
        ("", "varies by 0.023 from seed to seed (assumed)"),
        ("c.metric = 'area'", "varies by 0.012 from seed to seed (assumed)"),
        ("c.seeds = 9", "more than a difference that counts: take more seeds (18 find smallest_effect = 0.02)"),
        ("c.smallest_effect = 1e-6", "take more seeds (over a million find smallest_effect = 1e-06)"),
    ],
)
def test_the_estimate_says_where_no_verdict_is_to_be_had_and_what_is_assumed(tmp_path, body, line):
    assert line in plan.estimate(load(tmp_path, body)).text()


@pytest.mark.parametrize(
    ("spread", "line"),
    [
        (0.1, f"3 seeds find with probability 0.8, corrected for 4 comparisons: {minimum_detectable(0.1, 3, 4):.3f}"),
        (0.3, "3 seeds find no difference, however large, with probability 0.8, corrected for 4 comparisons"),
    ],
)
def test_a_difference_above_all_that_accuracies_can_have_is_none_that_can_be_found(tmp_path, spread, line):
    found = plan.estimate(load(tmp_path, "c.seeds = 3"), spread=spread)
    assert found.detectable == minimum_detectable(spread, 3, 4)
    assert line in found.text()


def test_the_typical_spread_is_that_of_the_studies_in_this_repository():
    """The median over their comparisons of the standard deviation over seeds; identical arms are left out."""
    found: dict[str, list[float]] = {metric: [] for metric in budget.TYPICAL_SPREAD}
    for path in (ROOT / "docs" / "paper").glob("*_lab.json"):
        for cell in json.loads(path.read_text())["cells"].values():
            for row in cell["comparisons"]:
                ours, theirs = (cell["arms"][row[role]]["per_seed"] for role in ("arm", "reference"))
                for metric, spreads in found.items():
                    spreads.append(statistics.stdev(a - b for a, b in zip(ours[metric], theirs[metric], strict=True)))
    for metric, spreads in found.items():
        varying = [spread for spread in spreads if spread > 0]
        assert len(varying) > 20
        assert statistics.median(varying) == pytest.approx(budget.TYPICAL_SPREAD[metric], abs=0.001)
