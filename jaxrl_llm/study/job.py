"""One run of a study, as a process of its own (`python -m jaxrl_llm.study.job FOLDER`), and the record of its files.

The folder holds the run's config.json, and the run goes on where an earlier one was. The process ends when whoever
started it does: its standard input is then at its end.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_llm.study.records import RunRecord
from jaxrl_llm.training.log import read

SAMPLES = 4  # texts of the first evaluation in a record, and of the last


def command(folder: Path) -> list[str]:
    """What starts the process."""
    return [sys.executable, "-m", "jaxrl_llm.study.job", str(folder)]


def _main(folder: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import jax

    from jaxrl_llm import config as configs
    from jaxrl_llm import distributed
    from jaxrl_llm.report.run import write
    from jaxrl_llm.training.loop import train

    config = json.loads((folder / "config.json").read_text()) | {"run_dir": str(folder)}
    settings = configs.parse(config)
    distributed.require_alone("a run of a study")
    configs.check(settings, devices=jax.device_count())
    print(f"report: {write(train(settings, config=config))}", flush=True)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def record_of(folder: Path, cell: str, arm: str, seed: int, *, seconds: float, config_hash: str) -> RunRecord:
    """The record of a run that ended, from its files.

    Args:
      folder: of the run.
      seconds: that its processes took; at least the time of its steps, of which some may be from an earlier start.

    Raises:
      FileNotFoundError: a file of the run is missing.
      ValueError: a line is not JSON, or the evaluations are not of the same problems.
    """
    evaluations = read(folder / "evaluations.jsonl")
    problems = [(row["problems"], row.get("benchmarks", [])) for row in evaluations]
    if not problems or any(ids != problems[0] for ids in problems):
        raise ValueError(f"{folder / 'evaluations.jsonl'}: expected evaluations of the same problems, found {problems}")
    of_steps = sum(row["seconds"] for row in read(folder / "speed.jsonl"))
    return RunRecord(
        cell,
        arm,
        seed,
        curves=_curves(read(folder / "metrics.jsonl")),
        eval_steps=np.array([row["step"] for row in evaluations], np.int32),
        accuracy=np.array([row["accuracy"] for row in evaluations], np.float32),
        counts={},
        seconds=max(seconds, of_steps),
        samples=tuple(_samples(read(folder / "samples.jsonl"))),
        config_hash=config_hash,
        benchmarks=tuple(problems[0][1]),
    )


def _curves(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Metric -> float32 [steps]; the metrics of evaluations are left out, whose problems the record has one by one."""
    of_steps = [row for row in rows if "reward" in row]
    names = dict.fromkeys(name for row in of_steps for name in row if name != "step")
    curves = {name: np.full(len(of_steps), math.nan, np.float32) for name in sorted(names)}
    for place, row in enumerate(of_steps):
        for name in curves:
            if (value := row.get(name)) is not None:
                curves[name][place] = value
    return curves


def _samples(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some texts of the first evaluation and of the last."""
    steps = sorted({row["step"] for row in rows})
    return [
        {
            "question": row["prompt"],
            "answer": row["answer"],
            "completion": row["completion"],
            "correct": row["outcome"] == "correct",
            "step": step,
        }
        for step in dict.fromkeys([*steps[:1], *steps[-1:]])
        for row in [row for row in rows if row["step"] == step][:SAMPLES]
    ]


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
