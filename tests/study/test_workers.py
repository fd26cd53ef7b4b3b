"""Engine train: each run once, in a process of its own, whatever fails, stops or reaches for it at the same time."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm.study import job, records, workers
from jaxrl_llm.study.plan import Study, load
from tests.compilation import CHEAP_FLAGS
from tests.policies import save_character_model
from tests.training.tiny_runs import KEYS

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "study" / "fake_run.py"
STUDY = """
from configs import lite_ppo
from jaxrl_llm.study import Trick
from ml_collections import ConfigDict

def get_config():
    c = ConfigDict()
    c.name, c.question, c.claim, c.source, c.engine = "tiny", "Which?", "", "", "train"
    c.run = lite_ppo.get_config()
    c.run.steps = 2
    c.run.evaluation.every = 1
    c.cells = ConfigDict({{"one": ConfigDict()}})
    c.mode = "one_at_a_time"
    c.tricks = (Trick("higher", {{"algorithm.clip_high": 0.3}}), Trick("lower", {{"algorithm.clip_high": 0.1}}))
    c.seeds = 2
    c.run_dir = {folder!r}
    return c
"""
# Another process that runs a study: python -c WORKER FAKE FILE
WORKER = """
import sys
from jaxrl_llm.study import job, plan, queue, workers
queue._WAIT_SECONDS = 0.1
job.command = lambda folder: [sys.executable, "-S", sys.argv[1], str(folder)]
workers.run(plan.load(sys.argv[2]), processes=2)
"""


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """Three arms and two seeds of runs that take no time."""
    monkeypatch.setattr(job, "command", lambda folder: [sys.executable, "-S", str(FAKE), str(folder)])
    return load(config_file(tmp_path))


def config_file(folder: Path) -> Path:
    (folder / "study").mkdir()
    path = folder / "study.py"
    path.write_text(STUDY.format(folder=str(folder / "study")))
    return path


def starts(folder: Path) -> dict[str, int]:
    """How often each run was started."""
    path = folder / "starts.txt"
    return dict(collections.Counter(path.read_text().splitlines())) if path.exists() else {}


def names(study: Study) -> list[str]:
    return [f"{cell}/{arm}/seed_{seed:04d}" for cell, arm, seed in study.jobs()]


def test_every_run_leaves_a_record_of_its_files_and_is_not_done_again(study):
    said: list[str] = []
    workers.run(study, processes=2, say=said.append)
    assert starts(study.folder) == dict.fromkeys(names(study), 1)
    assert not study.missing() and len(study.records()) == 6
    record = records.load(records.path_of(study.folder, "one", "higher", 1))
    learned = 0.1 + 0.1 + 0.2 * 0.3
    np.testing.assert_allclose(record.curves["reward"], [learned, 2 * learned], rtol=1e-6)
    assert (
        set(record.curves) == {"reward", "length", "gradient_norm"} and np.isnan(record.curves["gradient_norm"]).all()
    )
    np.testing.assert_array_equal(record.eval_steps, [0, 1, 2])
    np.testing.assert_allclose(record.accuracy, [[0, 0], [learned, learned], [2 * learned, 2 * learned]], rtol=1e-6)
    assert [sample["step"] for sample in record.samples] == [0] * 4 + [2] * 4
    assert record.samples[1]["question"] == "question\u20281" and record.samples[1]["correct"] is True
    assert record.seconds > 0 and not record.failed
    left = {path.name for path in (study.folder / "one" / "higher" / "seed_0001").iterdir()}
    assert not {name for name in left if "claim" in name or name == "checkpoints"}
    assert len(said) == 6 and "[6/6]" in said[-1] and "held-out accuracy 0.000 → " in said[-1]

    workers.run(study, say=said.append)
    assert starts(study.folder) == dict.fromkeys(names(study), 1)


def test_a_run_that_fails_is_tried_again_then_recorded_with_its_reason_and_the_others_go_on(study):
    (study.folder / "plan.json").write_text(json.dumps({"higher": "fails once", "lower": "fails"}))
    said: list[str] = []
    workers.run(study, say=said.append)
    counts = {"base": 1, "higher": 2, "lower": 1 + workers.RETRIES}
    assert starts(study.folder) == {name: counts[name.split("/")[1]] for name in names(study)}
    failed = {record.arm: record.failed for record in study.records() if record.seed == 1}
    assert failed["base"] == failed["higher"] == ""
    assert failed["lower"].startswith("exit code 1") and failed["lower"].endswith("no luck with seed 1")
    assert "start 3 of" in failed["lower"] and "start 2 of" not in failed["lower"], "the last attempt alone"
    assert sum("FAILED: no luck" in line for line in said) == 2
    assert {job.arm for job in study.missing()} == {"lower"}

    (study.folder / "plan.json").write_text("{}")
    workers.run(study, say=said.append)
    assert not study.missing(), "what failed is tried again when the study is run again"


def worker(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(FAKE), str(folder / "study.py")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def test_two_processes_share_the_runs_and_a_stopped_one_leaves_its_runs_to_the_other(study, tmp_path):
    (study.folder / "plan.json").write_text(json.dumps({"higher": "waits"}))
    first = worker(tmp_path)
    while len([name for name in starts(study.folder) if "higher" in name]) < 2:
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    assert starts(study.folder)["one/higher/seed_0000"] == 1, "both of its children wait"
    second = worker(tmp_path)
    while len(study.missing()) > 2:
        assert second.poll() is None, second.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    told, _ = first.communicate(timeout=30)
    assert first.returncode == 1 and "StoppedError: stopped by SIGTERM with" in told and "of 6 runs done" in told
    told, _ = second.communicate(timeout=30)
    assert second.returncode == 0, told
    assert not study.missing()
    counts = {"base": 1, "higher": 2, "lower": 1}
    assert starts(study.folder) == {name: counts[name.split("/")[1]] for name in names(study)}


def test_by_number_each_worker_has_its_own_runs(study):
    workers.run(study, index=1, of=4, say=lambda _: None)
    assert starts(study.folder) == {"one/higher/seed_0000": 1, "one/lower/seed_0001": 1}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"processes": 0}, "processes = 0"),
        ({"index": 4, "of": 4}, "index = 4, of = 4"),
        ({"index": 0}, "index = 0, of = None"),
    ],
)
def test_a_number_out_of_range_is_refused(study, options, part):
    with pytest.raises(ValueError, match=part):
        workers.run(study, **options)


def test_a_folder_of_another_config_is_refused_before_anything_starts(study, tmp_path):
    workers.run(study, index=0, of=6, say=lambda _: None)
    other = load(tmp_path / "study.py", ["run.optimizer.learning_rate=0.5"])
    with pytest.raises(ValueError, match="another config"):
        workers.run(other)
    records.path_of(study.folder, "one", "base", 0).unlink()
    with pytest.raises(FileExistsError, match=r"optimizer\.learning_rate"):
        workers.run(other)
    assert sum(starts(study.folder).values()) == 1


def test_processes_on_one_machine_share_its_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    shares = [workers._share_of_gpus(slot, 3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert shares == ["4,7", "5", "6"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert workers._share_of_gpus(0, 1) == {}
    assert workers._share_of_gpus(1, 3) == {"CUDA_VISIBLE_DEVICES": "2", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}


def test_a_real_run_is_recorded_and_its_process_ends_when_its_parent_does(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", CHEAP_FLAGS)
    overrides = KEYS | {"model.source": save_character_model(tmp_path / "model"), "steps": 1}
    overrides |= {"evaluation.every": 1, "evaluation.problems": 4}
    study = load(config_file(tmp_path), [f"run.{key}={value}" for key, value in overrides.items()])
    folder = records.run_folder(study.folder, "one", "base", 0)

    workers.run(study, index=0, of=6, say=lambda _: None)
    (record,) = study.records()
    assert not record.failed, record.failed
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert record.eval_steps.tolist() == [0, 1] and record.accuracy.shape[1] == 4
    np.testing.assert_allclose(record.accuracy.mean(axis=1), [row["eval/avg"] for row in rows if "eval/avg" in row])
    assert len(record.curves["loss"]) == 1 and (folder / "report.html").is_file()

    process = subprocess.Popen(job.command(folder), stdin=subprocess.PIPE, env=os.environ, stdout=subprocess.DEVNULL)
    process.communicate(timeout=60)  # closes its standard input
    assert process.returncode == -signal.SIGTERM
