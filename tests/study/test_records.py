"""Records of runs: what was saved is what is read, and what is no record of this run is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrl_llm.study import records
from jaxrl_llm.study.records import RunRecord


def record(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "cell": "easy",
        "arm": "clip_high=0.28",
        "seed": 3,
        "curves": {
            "reward": np.array([0.1, 0.2, 0.4], np.float32),
            "effect/clip_high": np.array([np.nan, 0, 0.5], np.float32),
        },
        "eval_steps": np.array([0, 2, 3]),
        "accuracy": np.array([[0, 0.25], [0.5, 0.5], [0.5, 1]], np.float32),
        "counts": {"probability": np.arange(6.0), "clipped": np.array([1.0, 0]), "tokens": np.array([4.0, 9])},
        "seconds": 1.5,
        "vocabulary": ("a", "\u2028"),
        "samples": ({"question": "1+1=", "answer": "2", "completion": "3", "correct": False, "step": 2},),
        "config_hash": "0123",
        "benchmarks": ("amc23", "aime24"),
    }
    return RunRecord(**values | changes)


def test_a_record_is_read_as_it_was_saved(tmp_path):
    saved = record()
    path = records.save(tmp_path, saved)
    assert path == tmp_path / "easy" / "clip_high=0.28" / "seed_0003" / "record.npz"
    assert [file.name for file in path.parent.iterdir()] == ["record.npz"], "nothing partial is left"
    got = records.load(path, "0123")
    for field in dataclasses.fields(RunRecord):
        one, other = getattr(saved, field.name), getattr(got, field.name)
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
        else:
            assert np.array_equal(one, other), field.name
    first = path.read_bytes()
    assert records.save(tmp_path, saved).read_bytes() == first


def test_a_failure_is_a_record_too_and_all_are_found_in_order(tmp_path):
    failed = records.failure("easy", "base", 11, "diverged", seconds=0.5, config_hash="0123")
    for one in (record(seed=2), record(), failed, record(cell="hard")):
        records.save(tmp_path, one)
    (tmp_path / "easy" / "base" / "seed_0012").mkdir()  # a run that has not ended
    found = records.load_all(tmp_path)
    assert [(one.cell, one.arm, one.seed) for one in found] == [
        ("easy", "base", 11),
        ("easy", "clip_high=0.28", 2),
        ("easy", "clip_high=0.28", 3),
        ("hard", "clip_high=0.28", 3),
    ]
    assert found[0].failed == "diverged" and found[0].accuracy.size == 0
    assert records.load_all(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_steps": np.zeros((2, 2), int)}, "eval_steps has shape"),
        ({"eval_steps": np.array([0, 2])}, "accuracy has shape"),
        ({"eval_steps": np.array([1, 2, 3])}, "expected 0 first, then rising steps"),
        ({"eval_steps": np.array([0, 3, 3])}, "expected 0 first, then rising steps"),
        ({"accuracy": np.zeros((3, 0), np.float32)}, "expected 0 first"),
        ({"curves": {"reward": np.zeros(3), "length": np.zeros(2)}}, "expected the same"),
        ({"curves": {"reward": np.zeros((3, 1))}}, "expected the same"),
        ({"benchmarks": ("amc23",)}, "a column for each of benchmarks"),
        ({"counts": {"clipped": np.zeros(3)}}, "counts clipped has shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        records.save(tmp_path, record(**changes))
    assert not list(tmp_path.rglob("*.npz"))


def test_what_is_no_record_of_this_run_is_refused_with_its_path(tmp_path):
    path = records.save(tmp_path, record())
    with pytest.raises(ValueError, match=r"record\.npz is the record of another config \(0123, expected 4567\)"):
        records.load(path, "4567")
    elsewhere = records.path_of(tmp_path, "hard", "base", 0)
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"seed_0000.*is the record of easy/clip_high=0\.28, seed 3"):
        records.load_all(tmp_path)
    for damage in (b"", b"text", path.read_bytes()[:-40]):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="is not the record of a run"):
            records.load(path)
    with pytest.raises(FileNotFoundError, match="expected the record of a run"):
        records.load(Path(tmp_path) / "none.npz")


def test_the_hash_names_every_key_but_the_folder():
    config = {"run_dir": "here", "seed": 0, "algorithm": {"clip_high": 0.2, "stop": ("a",)}}
    same = {"algorithm": {"stop": ["a"], "clip_high": 0.2}, "seed": 0, "run_dir": "there"}
    assert records.config_hash(config) == records.config_hash(same)
    for other in ({**config, "seed": 1}, {**config, "algorithm": {"clip_high": 0.3, "stop": ("a",)}}):
        assert records.config_hash(other) != records.config_hash(config)
