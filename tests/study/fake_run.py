"""Leaves what a training run leaves, in no time, or fails: python fake_run.py FOLDER < pipe.

How it goes is written in plan.json of the study's folder: arm -> "fails", "fails once" or "waits"; each start adds a
line to starts.txt there.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
study = folder.parents[2]
config = json.loads((folder / "config.json").read_text())
name = "/".join(folder.parts[-3:])
with (study / "starts.txt").open("a") as file:
    file.write(f"{name}\n")
starts = (study / "starts.txt").read_text().splitlines().count(name)
plan = study / "plan.json"
how = json.loads(plan.read_text()).get(folder.parts[-2], "") if plan.exists() else ""
print(f"start {starts} of {name}", flush=True)
(folder / "checkpoints").mkdir(exist_ok=True)
if how == "waits" and starts == 1:
    time.sleep(60)
if how == "fails" or (how == "fails once" and starts == 1):
    sys.exit(f"no luck with seed {config['seed']}")

steps = range(1, config["steps"] + 1)
learned = 0.1 + 0.1 * config["seed"] + 0.2 * config["algorithm"]["clip_high"]
files = {
    "metrics": [{"step": 0, "eval/avg": 0.25}]
    + [
        {"step": step, "reward": step * learned, "length": 8.0} | ({"gradient_norm": None} if step > 1 else {})
        for step in steps
    ],
    "speed": [{"step": step, "seconds": 0.01} for step in steps],
    "evaluations": [{"step": step, "problems": [0, 1], "accuracy": [step * learned] * 2} for step in (0, *steps)],
    "samples": [
        {"step": step, "prompt": f"question\u2028{i}", "answer": "4", "completion": "4", "outcome": "correct"}
        for step in (0, *steps)
        for i in range(6)
    ],
}
for stream, rows in files.items():
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{stream}.jsonl").write_text(text, encoding="utf-8")
