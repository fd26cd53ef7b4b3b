"""Runs an hour of the engine `lab`, its lanes side by side on every core, beside the same runs one after the other.

Command: python benchmarks/study.py       (on an otherwise idle machine; --steps 120 is a whole run of configs/studies)

All are runs of one config, compiled before the clock starts. One after the other means either as the engine `train` has
it, its evaluations not counted, or as a loop over the program of one lane.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import CORES, pin


def lanes_of(steps: int, count: int) -> tuple[Callable[[Any], Any], list[Any]]:
    """The function of stacked lanes, not compiled yet, and ``count`` lanes."""
    from jaxrl_llm import config
    from jaxrl_llm.study.lab import engine, program
    from jaxrl_llm.study.plan import Job

    host, runs = engine.Host(), []
    for seed in range(count):
        settings = config.parse(config.load("configs/studies/lab.py", [f"seed={seed}", f"steps={steps}"]))
        runs.append(engine.Planned(Job("cell", "arm", seed), settings, None, ""))
    return program.make_program(host.setup(runs[0])), [host.lane(run.settings) for run in runs]


def seconds_of_train(steps: int) -> float:
    """Of all rollout steps of a run of `train`, by the median step of its second half."""
    from jaxrl_llm import config
    from jaxrl_llm.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"steps={steps}", f"run_dir={folder}/run", "evaluation.every=0"]
        loaded = config.load("configs/studies/lab.py", overrides)
        with contextlib.redirect_stdout(None):
            train(config.parse(loaded), config=loaded.to_dict())
        lines = (Path(folder) / "run" / "speed.jsonl").read_text().splitlines()
    return steps * statistics.median(json.loads(line)["seconds"] for line in lines[steps // 2 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="rollout steps of a run (default 40)")
    parser.add_argument("--lanes", type=int, default=16, help="of a program (default 16, as the engine has)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts (default 3)")
    arguments = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    pin()
    import jax

    from jaxrl_llm.study.lab.engine import stack

    program, lanes = lanes_of(arguments.steps, arguments.lanes)
    alone, together = stack(lanes[:1]), stack(lanes)
    one, many = jax.jit(program).lower(alone).compile(), jax.jit(program).lower(together).compile()
    jax.block_until_ready((one(alone), many(together)))

    def seconds(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    def all_cores(pool: concurrent.futures.Executor) -> None:
        list(pool.map(lambda lanes: jax.block_until_ready(many(lanes)), [together] * CORES))

    trained = seconds_of_train(arguments.steps)
    single, side_by_side = [], []
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        for _ in range(arguments.repeats):  # in turn: machines drift
            single.append(seconds(lambda: jax.block_until_ready(one(alone))))
            side_by_side.append(seconds(lambda: all_cores(pool)))
    lanes_together = min(side_by_side) / (CORES * arguments.lanes)
    of_a_run = {"train": trained, "one lane at a time": min(single), "lanes": lanes_together}
    hourly = {name: round(3600 / spent) for name, spent in of_a_run.items()}
    print(json.dumps({"steps": arguments.steps, "lanes": arguments.lanes, "runs_an_hour": hourly}))


if __name__ == "__main__":
    main()
