"""The commands `jaxrl-llm study plan`, `run` and `report`."""

from __future__ import annotations

import argparse
import json
import runpy
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl_llm.study.plan import Study
    from jaxrl_llm.study.tricks import Trick

SUMMARY, PAGE = "summary.json", "report.html"
COMMANDS = "commands.jsonl"  # one line a command that had something to run: what it was, and its seconds


def add_commands(study: argparse.ArgumentParser) -> None:
    """Adds the commands to the parser of `study`."""
    actions = study.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(command=f"study {name}")
        return action

    plan = add("plan", "say what a study would run, what it costs, and how small a difference it could find")
    run = add("run", "run a study and compare its arms; the same command again goes on where a stopped one was")
    for action in (plan, run):
        action.add_argument(
            "--config", required=True, metavar="FILE[:SCALE]", help="such as configs/paper/e12_lite_ppo.py:lab"
        )
        action.add_argument("--trick", type=Path, metavar="FILE", help="a file with TRICK = Trick(...): one arm more")
        action.add_argument("--to", type=Path, metavar="DIR", help="folder of the study (default: its run_dir)")
        action.epilog = "--config.path=value changes a key, as in --config.seeds=4 or --config.run.steps=100"
    of_train = run.add_argument_group("engine train", "each run is a process of its own")
    of_train.add_argument("--processes", type=int, default=1, metavar="N", help="runs at a time here (default 1)")
    of_train.add_argument("--index", type=int, metavar="I", help="take every N-th run, from run I on, counted from 0")
    of_train.add_argument("--of", type=int, metavar="N", help="with --index: how many workers there are")
    of_train.add_argument("--keep-checkpoints", action="store_true", help="of runs that ended; else they are removed")
    report = add("report", "write the page of a study again, and print its verdicts")
    report.add_argument("study", type=Path, metavar="FOLDER", help="of a study, or a summary.json")


def plan(arguments: argparse.Namespace, overrides: list[str]) -> None:
    _print_plan(_load(arguments, overrides))


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Runs what is missing, then compares. 1 where runs have failed, 128 + the signal where one stopped it."""
    from jaxrl_llm.study import page
    from jaxrl_llm.study.summary import save_summary, summarize
    from jaxrl_llm.training.log import read

    study = _load(arguments, overrides)
    if study.settings.engine == "lab":
        _refuse_options_of_train(arguments)
    _print_plan(study)
    command = shlex.join(["jaxrl-llm", *arguments.words])
    missing, begun = len(study.missing()), time.perf_counter()
    code = _run_engine(study, arguments)
    if missing:
        study.folder.mkdir(parents=True, exist_ok=True)
        with (study.folder / COMMANDS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"command": command, "seconds": round(time.perf_counter() - begun, 1)}) + "\n")
    if code:
        return code
    records = study.records()
    if len(records) < len(study.jobs()):
        print(
            f"{len(records)} of {len(study.jobs())} runs have ended: when the other workers have, the same command "
            "without --index compares the arms"
        )
        return 0
    commands = read(study.folder / COMMANDS, required=False)  # engines may be called without this command
    took = sum(row["seconds"] for row in commands) or sum(record.seconds for record in records)
    summary = summarize(study, records, command=command, seconds=took)
    save_summary(summary, study.folder / SUMMARY)
    print(verdicts(summary))
    print(f"report: {page.write(summary, study.folder / PAGE)}")
    failed = [record for record in records if record.failed]
    for record in failed:
        print(f"failed: {record.cell}/{record.arm} seed {record.seed}: {record.failed.splitlines()[-1]}")
    return 1 if failed else 0


def report(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm.study import page
    from jaxrl_llm.study.summary import load_summary

    if overrides:
        raise ValueError(f"--config.{overrides[0]}: study report reads what the study left and takes no config")
    path: Path = arguments.study / SUMMARY if arguments.study.is_dir() else arguments.study
    summary = load_summary(path)
    written = page.write(summary, path.parent / PAGE if path.name == SUMMARY else path.with_suffix(".html"))
    print(verdicts(summary))
    print(f"report: {written}")


def _load(arguments: argparse.Namespace, overrides: list[str]) -> Study:
    from jaxrl_llm.study import plan

    tricks = [_trick(arguments.trick)] if arguments.trick else []
    if arguments.to:
        overrides = [*overrides, f"run_dir={arguments.to}"]
    study = plan.load(arguments.config, overrides, tricks=tricks)
    study.missing()  # refuses records of another config
    return study


def _trick(path: Path) -> Trick:
    """The trick of a file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file fails, or has no trick.
    """
    from jaxrl_llm.study.tricks import Trick

    if not path.is_file():
        raise FileNotFoundError(f"--trick {path} does not exist: expected a Python file with TRICK = Trick(...)")
    try:
        found = runpy.run_path(str(path)).get("TRICK")
    except Exception as error:
        raise ValueError(f"--trick {path}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Trick):
        raise ValueError(f"--trick {path}: TRICK is {found!r}, expected a Trick of jaxrl_llm.study")
    return found


def _print_plan(study: Study) -> None:
    from jaxrl_llm.distributed import differences
    from jaxrl_llm.study.plan import estimate

    settings = study.settings
    print(f"{settings.name}: {settings.question}")
    print(f"engine {settings.engine}, {len(study.seeds)} seeds from {study.seeds[0]} on, in {study.folder}")
    for cell in study.cells:
        print(_line("cell", cell.name, cell.changes))
    first = study.cells[0]
    for arm in study.arms:
        config = study.runs[first.name, arm.name].config
        changes = {key: value for key, _, value in differences(study.base, config) if key not in first.changes}
        print(_line("arm", arm.name, changes, *(f"code of {t.name}" for t in arm.tricks if t.transform)))
    ended = [record.seconds for record in study.records() if not record.failed]
    print(estimate(study, seconds_a_run=statistics.fmean(ended) if ended else None).text())
    print(f"{len(ended)} runs have ended already" if ended else "how long it takes is known when the first runs end")


def _line(kind: str, name: str, changes: Mapping[str, Any], *more: str) -> str:
    parts = [*(f"{key} = {value}" for key, value in changes.items()), *more]
    return f"  {kind} {name}: {', '.join(parts) or 'no change'}"


def _refuse_options_of_train(arguments: argparse.Namespace) -> None:
    given = {"--processes": arguments.processes != 1, "--index": arguments.index is not None}
    given |= {"--of": arguments.of is not None, "--keep-checkpoints": arguments.keep_checkpoints}
    for option, is_given in given.items():
        if is_given:
            raise ValueError(f"{option} with engine = 'lab', which is one process: expected engine = 'train'")


def _run_engine(study: Study, arguments: argparse.Namespace) -> int:
    """0, or the exit code of a study that was stopped."""
    say: Callable[[str], None] = _say
    if study.settings.engine == "lab":
        from jaxrl_llm.study.lab import engine

        engine.run(study, say=say)
        return 0
    from jaxrl_llm.study import workers

    try:
        workers.run(
            study,
            processes=arguments.processes,
            index=arguments.index,
            of=arguments.of,
            keep_checkpoints=arguments.keep_checkpoints,
            say=say,
        )
    except workers.StoppedError as stopped:
        print(stopped)
        return 128 + stopped.number
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def verdicts(summary: Mapping[str, Any]) -> str:
    """The comparisons of a study as a table for the console, then a sentence for each."""
    from jaxrl_llm.study.words import METRICS, VERDICTS, points_with_interval, probability

    compared = sum(len(cell["comparisons"]) for cell in summary["cells"].values())
    lines = [
        "",
        f"Difference in {METRICS[summary['metric']]}, in points;",
        f"{100 * summary['confidence']:g} % intervals and p, corrected for {compared} comparisons",
    ]
    for name, cell in summary["cells"].items():
        rows = [("arm", "against", "difference", "p", "verdict")]
        for row in cell["comparisons"]:
            verdict = VERDICTS[row["verdict"]]
            difference = points_with_interval(row["difference"], row["low_adjusted"], row["high_adjusted"])
            p = probability(row["p_adjusted"])
            rows.append((row["arm"], row["reference"], difference, p, f"{verdict.symbol} {verdict.words}"))
        lines += ["", name, *_columns(rows), "", *(f"  {row['text']}" for row in cell["comparisons"])]
    return "\n".join([*lines, ""])


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
