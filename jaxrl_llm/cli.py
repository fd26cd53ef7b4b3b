"""The command line: `jaxrl-llm COMMAND`. `--config.path=value` changes any key of the config."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxrl_llm import cli_study, cli_unread, environment
from jaxrl_llm.cli_arguments import make_parser, split_overrides

_PACKAGE = Path(__file__).resolve().parent

_COMPUTES = ("train", "evaluate", "sample", "pretrain", "microscope", "study run")


@contextlib.contextmanager
def _checked(arguments: argparse.Namespace, overrides: list[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The settings of a config and the same as plain values; inside, this process runs with its others."""
    import jax

    from jaxrl_llm import config as configs
    from jaxrl_llm import distributed
    from jaxrl_llm.training.log import versions

    config = configs.load(arguments.config, overrides)
    settings = configs.parse(config)
    configs.check(settings, devices=None)
    facts = {"versions": versions(), "code": distributed.source_hash(), "config": config.to_dict()}
    describe = functools.partial(_described, whole=arguments.traceback)
    with distributed.joined(arguments.distributed, settings.distributed, describe):
        distributed.agree(lambda: facts)
        configs.check(settings, devices=jax.device_count())
        yield settings, config.to_dict()


def _train(arguments: argparse.Namespace, overrides: list[str]) -> None:
    with _checked(arguments, overrides) as (settings, config):
        from jaxrl_llm import distributed  # after the checks: the loop imports flax, orbax and more
        from jaxrl_llm.report.effects import inert_of
        from jaxrl_llm.report.run import write
        from jaxrl_llm.training.loop import train

        run = train(settings, config=config)

        def conclude() -> None:
            for line in inert_of(run):
                print(line)
            print(f"report: {write(run)}")

        distributed.on_first(conclude)


def _evaluate(arguments: argparse.Namespace, overrides: list[str]) -> None:
    with _checked(arguments, overrides) as (settings, _):
        from jaxrl_llm import distributed
        from jaxrl_llm.evaluation.evaluate import evaluate_source, rates

        if distributed.is_first():
            _note("evaluate", settings, overrides)
        evaluation, problems = evaluate_source(settings)

        def conclude() -> None:
            for name, value in evaluation.metrics.items():
                print(f"{name:<16} {value:.4f}")
            if arguments.to is not None:
                samples = settings.evaluation.samples
                _write_rates(arguments.to, rates(evaluation, problems, samples), samples)

        distributed.on_first(conclude)


def _write_rates(path: Path, rows: list[dict[str, Any]], samples: int) -> None:
    """JSON lines, and on the console how many problems have how many right samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    counts = collections.Counter(row["correct"] for row in rows)
    print(f"problems by right samples of {samples}: {', '.join(f'{i}: {counts[i]}' for i in range(samples + 1))}")
    print(path)


def _sample(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm import config as configs
    from jaxrl_llm import distributed
    from jaxrl_llm.evaluation.sample import sample

    settings = configs.parse(configs.load(arguments.config, overrides))
    distributed.require_alone("sample")
    _note("sample", settings, overrides)
    texts = sample(settings, arguments.question, samples=arguments.samples)
    for number, text in enumerate(texts, start=1):
        print(text if len(texts) == 1 else f"[{number}] {text}")


def _note(command: str, settings: Any, overrides: list[str]) -> None:
    for line in cli_unread.notes(command, settings, overrides):
        print(line, file=sys.stderr, flush=True)


def _explain(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm import config as configs
    from jaxrl_llm.explain import explain

    settings = configs.parse(configs.load(arguments.config, overrides))
    configs.check(settings, devices=None)
    print(explain(settings))


def _diff(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm.diff import diff

    print(diff((arguments.one, arguments.other), overrides))


def _microscope(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm import distributed, microscope

    _refuse(overrides, "microscope")
    distributed.require_alone("microscope")
    recipes = {Path(name).stem: microscope.load_recipe(name) for name in arguments.recipes.split(",")}
    result = microscope.compare_folder(recipes, arguments.rollouts, parameters=arguments.parameters)
    print(microscope.table(result))
    print(microscope.draw(result, arguments.to or arguments.rollouts / "microscope.svg"))


def _pretrain(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm import config as configs
    from jaxrl_llm import distributed
    from jaxrl_llm.training.pretrain import PretrainSettings, pretrain

    settings = configs.parse(configs.load(arguments.config, overrides, PretrainSettings), PretrainSettings)
    configs.check_ranges(settings)
    distributed.require_alone("pretrain")
    print(pretrain(settings))


def _tiers(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm.cli_tiers import tiers

    tiers(arguments, overrides)


def _report(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm.report.run import write

    _refuse(overrides, "report")
    print(write(arguments.run))


def _convert(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm import distributed
    from jaxrl_llm.training.export import convert

    _refuse(overrides, "convert")
    distributed.require_alone("convert")
    print(convert(arguments.run, arguments.to, adapter=arguments.adapter, certified=arguments.certify))


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the machine that is planned is not this one
    from jaxrl_llm import config as configs
    from jaxrl_llm.planning import models, report
    from jaxrl_llm.planning.hardware import parse_topology
    from jaxrl_llm.planning.plan import make_plan
    from jaxrl_llm.planning.search import search

    settings = configs.parse(configs.load(arguments.config, overrides))
    topology = parse_topology(arguments.topology)
    architecture = models.architecture(settings.model.source, arguments.model_config)
    configs.check(settings, devices=None if arguments.search else topology.devices)
    options: dict[str, Any] = {
        "price": arguments.price,
        "by_formula": arguments.formula,
        "quick": arguments.quick,
        "say": lambda line: print(f"{line}\n", end="", file=sys.stderr, flush=True),  # whole lines, from two threads
    }
    if arguments.search:
        plans = search(settings, architecture, topology, **options)
        print(report.table(plans))
    else:
        plans = [make_plan(settings, architecture, topology, **options)]
        print(report.text(plans[0]))
    name = f"{settings.run_dir}_plan_{topology.name.replace(':', '_')}.json"
    print(f"saved: {report.save(plans, arguments.to or Path(name))}")


def _advise(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from jaxrl_llm.study import advise, takeaways
    from jaxrl_llm.study.rules import Situation

    if overrides:
        raise ValueError(f"--config.{overrides[0]}: advise prints the lines of a config and takes none")
    situation = Situation(arguments.model_kind, arguments.data, arguments.max_length, arguments.model_size)
    print(advise.text(situation, advise.advise(situation, takeaways.load(advise.EVIDENCE))))


def _refuse(overrides: list[str], command: str) -> None:
    if overrides:
        raise ValueError(f"--config.{overrides[0]}: {command} reads the run's own config and takes no other")


# Each imports what it needs inside: `explain` starts without the training stack.
_COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "sample": _sample,
    "explain": _explain,
    "diff": _diff,
    "microscope": _microscope,
    "pretrain": _pretrain,
    "plan": _plan,
    "report": _report,
    "convert": _convert,
    "advise": _advise,
    "tiers": _tiers,
    "study plan": cli_study.plan,
    "study run": cli_study.run,
    "study report": cli_study.report,
}


def _described(error: BaseException, *, whole: bool) -> str:
    plain = _is_plain(error) and not whole
    return f"error: {error}" if plain else "".join(traceback.format_exception(error)).rstrip()


def _is_plain(error: BaseException) -> bool:
    """Whether the message alone says what is wrong: files, and what this package raised itself."""
    if isinstance(error, OSError):
        return True
    *_, innermost = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError | ImportError) and Path(innermost.filename).is_relative_to(_PACKAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; a mistake of the user is one line on stderr and code 2."""
    from_shell = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    show_traceback = "--traceback" in arguments
    try:
        overrides, others = split_overrides([argument for argument in arguments if argument != "--traceback"])
        parsed = make_parser().parse_args(others)
        parsed.traceback, parsed.words = show_traceback, arguments
        if from_shell and parsed.command in _COMPUTES:
            environment.prepare()
        code = _COMMANDS[parsed.command](parsed, overrides)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError) as error:
        if show_traceback or not _is_plain(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
