"""The commands of studies: the plan, the verdicts, a trick of one's own, and mistakes before anything is computed."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from jaxrl_llm import cli
from jaxrl_llm.study import job, records, workers
from jaxrl_llm.study.summary import load_summary
from tests.study.test_workers import FAKE, config_file, starts

TRICK = """
from jaxrl_llm.study import Trick
TRICK = Trick("mine", {"algorithm.clip_high": 0.5}, title="clip much higher")
"""


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """The config of a study of three arms, whose runs take no time."""
    monkeypatch.setattr(job, "command", lambda folder: [sys.executable, "-S", str(FAKE), str(folder)])
    return config_file(tmp_path)


def test_the_plan_names_arms_and_costs_and_runs_nothing(file, capsys):
    assert cli.main(["study", "plan", "--config", str(file), "--config.seeds=3"]) == 0
    printed = capsys.readouterr().out
    for part in ("tiny: Which?", "engine train, 3 seeds from 0 on", "arm higher: algorithm.clip_high = 0.3", "9 runs"):
        assert part in printed
    assert list((file.parent / "study").iterdir()) == []


def test_a_study_ends_with_verdicts_a_summary_and_a_page_and_runs_once(file, capsys):
    folder = file.parent / "study"
    (file.parent / "mine.py").write_text(TRICK)
    command = ["study", "run", "--config", str(file), "--trick", str(file.parent / "mine.py"), "--config.seeds=3"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "[12/12]" in printed
    table = [line.split() for line in printed.splitlines() if line.strip().endswith(("helps", "hurts", "undecided"))]
    # the fake's last accuracy is 0.4 × clip_high, and more with some seeds: the differences are the same with all
    assert [(row[0], row[1], row[2], row[-1]) for row in table] == [
        ("higher", "base", "+4.0", "helps"),
        ("lower", "base", "−4.0", "hurts"),
        ("mine", "base", "+12.0", "helps"),
    ]
    summary = load_summary(folder / "summary.json")
    assert summary["command"].startswith("jaxrl-llm study run --config")
    (spent,) = [json.loads(line) for line in (folder / "commands.jsonl").read_text().splitlines()]
    assert summary["seconds"] == spent["seconds"] > 0 and spent["command"] == summary["command"]
    assert f"report: {folder / 'report.html'}" in printed
    (folder / "report.html").unlink()

    assert cli.main([*command, "--index", "0", "--of", "2"]) == 0
    assert set(starts(folder).values()) == {1}
    assert load_summary(folder / "summary.json")["seconds"] == spent["seconds"], "nothing was run again"

    capsys.readouterr()
    assert cli.main(["study", "report", str(folder)]) == 0
    assert (folder / "report.html").is_file() and "▲ helps" in capsys.readouterr().out


def test_a_failed_run_is_named_and_the_exit_code_says_so(file, capsys):
    folder = file.parent / "study"
    (folder / "plan.json").write_text(json.dumps({"lower": "fails"}))
    assert cli.main(["study", "run", "--config", str(file), "--config.seeds=2"]) == 1
    assert "failed: one/lower seed 0: no luck with seed 0" in capsys.readouterr().out
    assert (folder / "report.html").is_file()


def test_a_study_that_a_signal_has_stopped_says_how_far_it_came_and_compares_nothing(file, capsys, monkeypatch):
    def stopped(*_, **__):
        raise workers.StoppedError(signal.SIGTERM, 2, 6)

    monkeypatch.setattr(workers, "run", stopped)
    assert cli.main(["study", "run", "--config", str(file)]) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM with 2 of 6 runs done" in capsys.readouterr().out
    assert not (file.parent / "study" / "summary.json").exists()


def test_a_worker_that_has_done_its_share_waits_for_no_other_and_compares_nothing(file, capsys):
    assert cli.main(["study", "run", "--config", str(file), "--index", "1", "--of", "3"]) == 0
    assert "2 of 6 runs have ended" in capsys.readouterr().out
    assert not (file.parent / "study" / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--config.sedes=3"], "nearest: seeds"),
        (["--config.run.algorithm.clip_hi=3"], "clip_high"),
        (["--config.tricks=clip_highest,grpo"], "clip_highest"),
        (["--config.run.algorithm.clip_high=0.3"], "arm higher: its config is that of arm base"),
        (["--trick", "nowhere.py"], "--trick nowhere.py does not exist"),
        (["--trick", "empty.py"], "TRICK is None"),
        (["--trick", "broken.py"], "broken.py: ZeroDivisionError"),
        (["--config.engine=lab", "--processes", "2"], "--processes with engine = 'lab'"),
        (["--config.engine=lab", "--index", "0", "--of", "2"], "--index with engine = 'lab'"),
        (["--index", "2", "--of", "2"], "index = 2, of = 2"),
        (["--index", "0"], "index = 0, of = None"),
        (["--processes", "0"], "processes = 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_anything_runs(file, monkeypatch, capsys, arguments, part):
    monkeypatch.chdir(file.parent)
    Path("empty.py").write_text("")
    Path("broken.py").write_text("1 / 0")
    assert cli.main(["study", "run", "--config", str(file), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and part in line
    assert not starts(file.parent / "study")


def test_a_scale_that_is_missing_and_a_record_of_another_config_are_refused(file, capsys):
    assert cli.main(["study", "run", "--config", f"{file}:huge"]) == 2
    assert "huge" in capsys.readouterr().err
    assert cli.main(["study", "run", "--config", str(file), "--index", "0", "--of", "6"]) == 0
    path = records.path_of(file.parent / "study", "one", "base", 0)
    capsys.readouterr()
    for action in ("plan", "run"):
        assert cli.main(["study", action, "--config", str(file), "--config.run.steps=3"]) == 2
        assert f"{path} is the record of another config" in capsys.readouterr().err
    assert cli.main(["study", "report", str(file.parent / "study")]) == 2
    assert "summary.json does not exist" in capsys.readouterr().err
