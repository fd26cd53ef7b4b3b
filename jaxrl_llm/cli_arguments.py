"""The commands of the command line and their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxrl_llm import cli_study


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options; what changes a config is split off before, by :func:`split_overrides`."""
    parser = argparse.ArgumentParser(prog="jaxrl-llm", description="Reinforcement learning for LLM reasoning in JAX.")
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *, config: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        if config:
            command.add_argument(
                "--config", required=True, metavar="FILE", help="a config file, such as configs/grpo.py"
            )
            command.epilog = "--config.path=value changes a key, as in --config.algorithm.clip_high=0.28"
        return command

    train = add("train", "train; the same command again goes on where a stopped run was")
    evaluate = add("evaluate", "score config.model.source on the held-out problems of config.evaluation")
    evaluate.add_argument(
        "--to", type=Path, metavar="FILE", help="JSON lines to write: each problem, and how many samples were right"
    )
    for command in (train, evaluate):
        command.add_argument(
            "--distributed",
            nargs="?",
            const="auto",
            metavar="HOST:PORT,I/N",
            help="with other processes: found on TPU VMs, GKE, SLURM; else address of process 0, number of this, count",
        )
    sample = add("sample", "print completions of a question")
    sample.add_argument("question")
    sample.add_argument("--samples", type=int, default=1, metavar="K", help="completions to print (default 1)")
    add("explain", "print the objective that a config resolves to, in words and formula")
    diff = add("diff", "print the keys in which two configs differ, with both values and formulas", config=False)
    diff.add_argument("one", metavar="A.py", help="a config file")
    diff.add_argument("other", metavar="B.py", help="another")
    diff.epilog = "--config.path=value changes a key of both"
    microscope = add("microscope", "compare what recipes do, token by token, on saved rollouts", config=False)
    microscope.add_argument("--rollouts", type=Path, required=True, metavar="DIR", help="folder rollouts of a run")
    microscope.add_argument(
        "--recipes", required=True, metavar="A,B", help="names in configs/ or files; first: reference"
    )
    microscope.add_argument(
        "--parameters", action="store_true", help="gradients by the parameters of the run's last checkpoint"
    )
    microscope.add_argument("--to", type=Path, metavar="FILE", help="the figure (default: microscope.svg in DIR)")
    add("pretrain", "make a small model from a built-in task")
    add("tiers", "draw files of problems, tiers and benchmarks, from the Hub or JSON lines, as a config says")
    report = add("report", "write report.html into the folder of a run", config=False)
    report.add_argument("run", type=Path, help="folder of a run")
    _add_plan(add("plan", "say what a run would need on a machine that is not there: memory, network, time and cost"))
    cli_study.add_commands(add("study", "which trick helps, where, and how sure are we", config=False))
    text = "print the recipe that the evidence supports, the paper's and ours, and how strong it is"
    _add_advise(add("advise", text, config=False))
    convert = add("convert", "export a run's last checkpoint as a Hugging Face folder", config=False)
    convert.add_argument("run", type=Path, help="folder of a run")
    convert.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write")
    convert.add_argument("--adapter", action="store_true", help="write the adapter alone, for peft; else it is merged")
    convert.add_argument("--certify", action="store_true", help="compare its logits, here and in transformers or peft")
    return parser


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("--topology", required=True, metavar="CHIP:SHAPE", help="such as v5p:4x4x8, v5e:4x4 or h200:8")
    plan.add_argument("--model-config", type=Path, metavar="FILE", help="a config.json, in place of model.source")
    plan.add_argument("--price", type=float, metavar="P", help="of a chip and hour, for the cost of 1,000 steps")
    plan.add_argument("--formula", action="store_true", help="by formula alone: no compiler, seconds; GPUs always")
    plan.add_argument("--quick", action="store_true", help="compile with less optimization (O1): sooner, less exact")
    plan.add_argument("--search", action="store_true", help="rank meshes and remat policies; compile the best")
    plan.add_argument("--to", type=Path, metavar="FILE", help="JSON to write (default: beside run_dir)")


def _add_advise(advise: argparse.ArgumentParser) -> None:
    advise.add_argument("--model-kind", required=True, metavar="KIND", help="base, or aligned (instruction-tuned)")
    advise.add_argument("--data", required=True, metavar="TIER", help="easy, medium or hard for this model")
    advise.add_argument("--max-length", required=True, type=int, metavar="N", help="tokens of a completion")
    advise.add_argument("--model-size", type=float, metavar="B", help="billions of parameters")


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The `--config.path=value` (or `--config.path value`) arguments as "path=value", and the others."""
    overrides, others = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--config."):
            others.append(argument)
            continue
        override = argument.removeprefix("--config.")
        if "=" not in override:
            value = next(rest, None)
            if value is None or value.startswith("--"):
                raise ValueError(f"{argument} has no value: expected {argument}=value")
            override = f"{override}={value}"
        overrides.append(override)
    return overrides, others
