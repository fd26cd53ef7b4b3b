"""Files of problems drawn from others: which rows each rule takes, what is left out, and the command that does it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from configs.models import paper
from configs.paper import common
from jaxrl_llm import cli
from jaxrl_llm import config as configs
from jaxrl_llm.cli_tiers import TiersSettings, parts_of
from jaxrl_llm.data.tasks import TASKS
from jaxrl_llm.data.tiers import Part, draw, make
from tests.policies import CONFIGS

DIFFICULTIES = (5.0, 1.5, 3.0, 1.5, 9.0, 2.0, 4.5, 8.0)


def source(folder: Path, rows: list[dict], name: str = "pool") -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def pool(**changes: object) -> list[dict]:
    """In the form of DeepMath-103K."""
    rows = [{"question": f"q{i}", "final_answer": str(i), "difficulty": d} for i, d in enumerate(DIFFICULTIES)]
    return [row | changes for row in rows]


def drawn(folder: Path, lines: list[dict], seed: int = 0, readable=lambda answer: answer != "?", **keys) -> dict:
    part = Part(source(folder, lines), answer_key="final_answer", **keys)
    found = draw("file.part", part, lambda answers: {a: readable(a) for a in answers}, seed, set())
    return {"questions": [row.problem.question for row in found.rows], **found.report}


def test_the_lowest_are_those_of_the_smallest_numbers_in_the_order_of_the_source(tmp_path):
    assert drawn(tmp_path, pool(), by="difficulty", draw="lowest", rows=4)["questions"] == ["q1", "q2", "q3", "q5"]
    ties = {
        tuple(drawn(tmp_path, pool(), seed, by="difficulty", draw="lowest", rows=1)["questions"]) for seed in range(9)
    }
    assert ties == {("q1",), ("q3",)}, "the seed decides between equals"


def test_bounds_are_part_of_what_is_kept(tmp_path):
    found = drawn(tmp_path, pool(), by="difficulty", low=2, high=5)
    assert found["questions"] == ["q0", "q2", "q5", "q6"]
    assert found["dropped"]["out_of_bounds"] == 4


@pytest.mark.parametrize("rule", ["uniform", "lowest", "proportional"])
def test_seed_and_rows_decide_and_not_the_order_of_the_rows(tmp_path, rule):
    keys: dict[str, Any] = {"draw": rule, "rows": 3} | ({} if rule == "uniform" else {"by": "difficulty"})
    one, other = drawn(tmp_path, pool(), **keys), drawn(tmp_path, pool()[::-1], **keys)
    assert sorted(one["questions"]) == sorted(other["questions"])
    assert one == drawn(tmp_path, pool(), **keys)


@pytest.mark.parametrize(("rule", "weights"), [("uniform", (1, 1, 1, 1)), ("proportional", (1, 2, 3, 4))])
def test_a_row_is_drawn_first_in_proportion_to_its_weight(tmp_path, rule, weights):
    """Over 600 seeds; 4.5 standard errors of a share of at most one half are 0.092."""
    rows = [{"question": f"q{i}", "final_answer": "1", "weight": i + 1} for i in range(4)]
    keys: dict[str, Any] = {"draw": rule, "rows": 1} | ({} if rule == "uniform" else {"by": "weight"})
    first = Counter(drawn(tmp_path, rows, seed, **keys)["questions"][0] for seed in range(600))
    for i, weight in enumerate(weights):
        assert first[f"q{i}"] / 600 == pytest.approx(weight / sum(weights), abs=0.092)


def test_an_answer_that_cannot_be_read_is_named_and_the_next_row_takes_its_place(tmp_path):
    rows = pool()
    rows[1]["final_answer"] = "?"
    found = drawn(tmp_path, rows, by="difficulty", draw="lowest", rows=3)
    assert found["questions"] == ["q2", "q3", "q5"]
    assert found["unreadable_rows"] == [{"row": f"{tmp_path}/pool.jsonl, line 2", "answer": "?"}]
    assert (found["dropped"]["unreadable"], found["drawn"], found["rows_of_source"]) == (1, 3, 8)


def test_few_rows_are_answered_true_or_false(tmp_path):
    rows = [row | {"final_answer": ("True", "false ", "yes", "7")[i % 4]} for i, row in enumerate(pool())]
    found = drawn(tmp_path, rows, true_false_rows=1)
    assert found["questions"] == ["q0", "q2", "q3", "q6", "q7"] and found["dropped"]["true_or_false"] == 3
    assert len(drawn(tmp_path, rows)["questions"]) == 8


def test_a_question_is_taken_once_and_never_where_another_file_holds_it(tmp_path):
    rows = [*pool(), {"question": " q0\n", "final_answer": "0", "difficulty": 1.0}]
    files = {
        "tier": {"mine": Part(source(tmp_path, rows), answer_key="final_answer")},
        "tests": {"a": Part(source(tmp_path, rows[2:4], "tests"), answer_key="final_answer")},
    }
    for held_out, expected in ((None, 8), ("tests", 6)):
        made = make(tmp_path / "out", files, lambda answers: dict.fromkeys(answers, True), seed=0, held_out=held_out)
        part = made["files"]["tier"]["parts"]["mine"]
        assert (made["files"]["tier"]["rows"], part["dropped"]["repeated_or_held_out"]) == (expected, 9 - expected)
    with pytest.raises(ValueError, match="held_out = 'none': expected one of the files tier, tests"):
        make(tmp_path, files, lambda answers: {}, seed=0, held_out="none")


@pytest.mark.parametrize(
    ("keys", "changes", "message"),
    [
        ({"rows": 3}, {}, "rows = 3 with draw = 'all': expected a number, unless"),
        ({"draw": "uniform"}, {}, "rows = None with draw = 'uniform'"),
        ({"draw": "uniform", "rows": 0}, {}, "rows = 0 .* at least 1"),
        ({"draw": "lowest", "rows": 1}, {}, "by = None .* the key of a number"),
        ({"by": "difficulty"}, {}, "by = 'difficulty' .* expected None"),
        ({"by": "difficulty", "low": 2.0, "high": 1.0}, {}, r"low = 2\.0 .* at most high = 1\.0"),
        ({"draw": "uniform", "rows": 9}, {}, r"file\.part: .* has 8 rows to draw, of 8 .*expected at least 9"),
        ({"by": "hardness", "low": 1.0}, {}, r"pool\.jsonl, line 1: no key 'hardness'"),
        ({"by": "difficulty", "low": 1.0}, {"difficulty": "5"}, "line 1: 'difficulty' is '5', expected a number"),
        ({"by": "difficulty", "draw": "proportional", "rows": 1}, {"difficulty": 0.0}, "expected a number above 0"),
        ({}, {"final_answer": None}, "line 1: 'final_answer' is None, expected a text"),
        ({}, {"final_answer": "?"}, r"has 0 rows to draw, of 8 .*8 unreadable\); expected at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(tmp_path, keys, changes, message):
    with pytest.raises(ValueError, match=message):
        drawn(tmp_path, pool(**changes), **keys)


def settings(name: str) -> TiersSettings:
    return configs.parse(configs.load(CONFIGS / "paper" / f"{name}.py", [], TiersSettings), TiersSettings)


def test_the_files_of_the_paper_are_those_that_its_experiments_read():
    wanted, run = settings("tiers"), common.run("paper")
    files = parts_of(wanted)
    read = {common.cell("paper", f"base_4b_{tier}")["data.source"] for tier in common.TIERS}
    assert {f"jsonl:{wanted.folder}/{name}.jsonl" for name in files} == {*read, run.evaluation.source}
    assert (run.data.answer_key, run.evaluation.answer_key, run.evaluation.source_key) == ("answer", "answer", "source")
    assert run.evaluation.source == paper.get_config().evaluation.source
    assert set(files["benchmarks"]) == {"MATH-500", "AMC23", "AIME24", "AIME25", "Minerva", "OlympiadBench"}
    rules = {name: [(part.draw, part.rows) for part in files[name].values()] for name in common.TIERS}
    assert rules == {"easy": [("uniform", 5000)], "medium": [("lowest", 5000)], "hard": [("proportional", 5000)]}
    rates = parts_of(settings("tiers_by_rate"))
    bounds = [(part.low, part.high) for parts in rates.values() for part in parts.values()]
    assert sorted(bounds) == [(0, 2), (3, 5), (6, 8)], "every count of 8 is in one tier"


CONFIG = """
from configs.paper import tiers
from ml_collections import ConfigDict

def get_config():
    c = tiers.get_config()
    c.folder, c.held_out, c.reward.verifier = {folder!r}, None, "exact"
    c.files = ConfigDict({files!r}, sort_keys=False)
    return c
"""


def test_measured_rates_become_tiers_and_benchmarks_are_averaged_alike(tmp_path, capsys):
    """The small base model answers 6 problems of its task, of two benchmarks, 4 times; the commands do the rest."""
    make_row = TASKS["digit_chain"].generate
    examples = [make_row(tier, "held_out", i) for tier, count in (("easy", 4), ("hard", 2)) for i in range(count)]
    rows = [{"question": e.question, "answer": e.answer, "set": ("A", "B")[i > 3]} for i, e in enumerate(examples)]
    keys = {"source": source(tmp_path, rows), "source_key": "set", "problems": 9, "samples": 4}
    changes = [f"--config.evaluation.{key}={value}" for key, value in keys.items()]
    measured = tmp_path / "new" / "rates.jsonl"
    lab = str(CONFIGS / "studies" / "lab.py")
    assert (
        cli.main(
            [
                "evaluate",
                "--config",
                lab,
                *changes,
                "--config.mesh.fsdp=1",
                "--config.mesh.data=8",
                "--to",
                str(measured),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    found = [json.loads(line) for line in measured.read_text().splitlines()]
    assert [(row["question"], row["source"], row["samples"]) for row in found] == [
        (row["question"], row["set"], 4) for row in rows
    ]
    counts = Counter(row["correct"] for row in found)
    assert f"problems by right samples of 4: {', '.join(f'{i}: {counts[i]}' for i in range(5))}" in printed
    shares = {name: [row["correct"] / 4 for row in found if row["source"] == name] for name in "AB"}
    means = {name: sum(values) / len(values) for name, values in shares.items()}
    expected = {f"eval/{name}/avg": mean for name, mean in means.items()} | {
        "eval/benchmarks_avg": sum(means.values()) / 2,
        "eval/avg": sum(sum(values) for values in shares.values()) / 6,
    }
    shown = dict(line.split()[:2] for line in printed.splitlines() if line.startswith("eval/"))
    assert {name: float(shown[name]) for name in expected} == pytest.approx(expected, abs=1e-4)
    assert means["A"] > means["B"], "the easy ones are easier"

    bounds = {"none": (0, 0), "some": (1, 4)}
    files = {name: {"m": {"source": f"jsonl:{measured}", "by": "correct", "low": low, "high": high}}
             for name, (low, high) in bounds.items()}  # fmt: skip
    (tmp_path / "tiers.py").write_text(CONFIG.format(folder=str(tmp_path / "out"), files=files))
    assert cli.main(["tiers", "--config", str(tmp_path / "tiers.py")]) == 0
    assert f"some: {6 - counts[0]} rows" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "out" / "some.jsonl").read_text().splitlines()]
    assert [(line["question"], line["correct"]) for line in lines] == [
        (row["question"], row["correct"]) for row in found if row["correct"]
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    part = manifest["files"]["none"]["parts"]["m"]
    assert (part["low"], part["high"], part["drawn"], part["rows_of_source"]) == (0, 0, counts[0], 6)

    files["none"]["m"]["drew"] = "all"
    (tmp_path / "tiers.py").write_text(CONFIG.format(folder=str(tmp_path / "out"), files=files))
    assert cli.main(["tiers", "--config", str(tmp_path / "tiers.py")]) == 2
    assert "unknown config key files.none.m.drew; nearest: files.none.m.draw" in capsys.readouterr().err
