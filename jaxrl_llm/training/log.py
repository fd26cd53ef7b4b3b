"""The files of a run: who owns the folder, and what is written there while it trains.

config.json        the resolved config; a folder that holds another one is refused
starts.jsonl       one line a start: time, command, versions, devices
metrics.jsonl      one line a step: numbers that the same config and seed give again, byte for byte
speed.jsonl        one line a step: numbers of the clock
evaluations.jsonl  one line an evaluation: the share of right samples of each problem
samples.jsonl      full texts of each evaluation
tensorboard/       events of the numbers above
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from jaxrl_llm import distributed

_STREAMS = ("metrics", "speed", "evaluations", "samples")
_PACKAGES = ("jaxrl-llm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")


def is_claimed(run_dir: str | Path, config: Mapping[str, Any]) -> bool:
    """Whether the folder is this config's already; a run may lie elsewhere than its run_dir once said.

    Raises:
      FileExistsError: the folder holds a run of another config, or files of a run without a config.
      NotADirectoryError: ``run_dir`` is a file.
      ValueError: the folder's config.json cannot be read.
    """
    folder = Path(run_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"run_dir {folder} is a file: expected a folder, or a path that does not exist yet")
    target = folder / "config.json"
    if target.exists():
        try:
            old = json.loads(target.read_text())
        except ValueError as error:
            raise ValueError(f"{target} is not JSON ({error}): choose another run_dir") from error
        differing = [
            f"{path} ({json.dumps(was)} -> {json.dumps(wanted)})"
            for path, was, wanted in distributed.differences(old, json.loads(_text(config)))
            if path != "run_dir"
        ]
        if differing:
            raise FileExistsError(
                f"run_dir {folder} holds a run of another config, which differs in {'; '.join(differing)}: choose "
                "another run_dir, or give the same config to go on"
            )
        return True
    found = [name for name in (*(f"{stream}.jsonl" for stream in _STREAMS), "checkpoints") if (folder / name).exists()]
    if found:
        raise FileExistsError(f"run_dir {folder} holds {', '.join(found)} but no config.json: choose another run_dir")
    return False


def claim(run_dir: str | Path, config: Mapping[str, Any]) -> None:
    """Makes the folder this config's, or finds that it already is.

    Raises:
      FileExistsError, NotADirectoryError, ValueError: as :func:`is_claimed`.
    """
    folder = Path(run_dir)
    if is_claimed(folder, config):
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "config.json.partial"  # renamed when whole: a kill in between leaves no half config
    partial.write_text(_text(config))
    partial.replace(folder / "config.json")


def _text(config: Mapping[str, Any]) -> str:
    """Of config.json."""
    return json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"


def read(path: Path, *, required: bool = True) -> list[dict[str, Any]]:
    """The rows of a file of lines that a run has written; none where the file is missing and not ``required``.

    Raises:
      FileNotFoundError: the file is missing.
      ValueError: a line is not JSON.
    """
    if not path.is_file():
        if required:
            raise FileNotFoundError(f"{path} does not exist: expected the folder of a run")
        return []
    rows = []
    with path.open(encoding="utf-8") as file:  # line by line: str.splitlines would cut a text at U+2028 too
        for number, line in enumerate(file, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def versions() -> dict[str, str]:
    """Of Python and of the packages that a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a checkout on the path, not installed
            found[package] = "not installed"
    return found


def devices() -> str:
    """All devices of this process and those it runs with."""
    import jax

    return f"{jax.device_count()} × {jax.devices()[0].device_kind}, processes: {jax.process_count()}"


def _start() -> dict[str, Any]:
    """What starts.jsonl says of this process."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "platform": platform.platform(),
        "devices": devices(),
    }


def _number(value: Any) -> float | None:
    """A float for JSON, which has neither NaN nor infinities: None."""
    number = float(value)
    return number if math.isfinite(number) else None


class RunLog:
    """Writes the files of one run; every line is with the operating system when its call returns.

    Of several processes the first one writes; the others make the same calls and leave nothing. Used as a context
    manager, or closed by :meth:`close`.
    """

    def __init__(self, run_dir: str | Path, config: Mapping[str, Any], *, tensorboard: bool):
        """Claims the folder, see :func:`claim`, and opens its files at their ends.

        Raises:
          AgreedError: the processes do not see one folder.
        """
        self.run_dir = Path(run_dir)
        self._files: dict[str, TextIO] = {}  # empty where another process writes
        self._tensorboard = tensorboard
        self._events: Any = None

        def open_files() -> None:
            claim(run_dir, config)
            with (self.run_dir / "starts.jsonl").open("a") as starts:
                starts.write(json.dumps(_start()) + "\n")
            for stream in _STREAMS:
                self._files[stream] = (self.run_dir / f"{stream}.jsonl").open("a", encoding="utf-8")

        distributed.on_first(open_files)
        distributed.agree(lambda: {"config.json in run_dir": (self.run_dir / "config.json").is_file()})

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _line(self, stream: str, row: Mapping[str, Any]) -> None:
        if stream not in self._files:
            return
        self._files[stream].write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._files[stream].flush()

    def _scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        if not self._tensorboard or not self._files:
            return
        if self._events is None:
            from tensorboardX import SummaryWriter

            # events of an earlier start at or after this step are void: the run was rewound to it
            self._events = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=step, write_to_disk=True)
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl: ``values`` as floats, sorted by name; NaN and infinities become null."""
        numbers = {name: _number(values[name]) for name in sorted(values)}
        self._line("metrics", {"step": step, **numbers})
        self._scalars(step, numbers)

    def speed(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of speed.jsonl: what the clock says, apart from metrics.jsonl because it never repeats."""
        numbers = {name: _number(values[name]) for name in sorted(values)}
        self._line("speed", {"step": step, **numbers})
        self._scalars(step, {f"speed/{name}": number for name, number in numbers.items()})

    def evaluation(
        self, step: int, problems: Sequence[int], accuracy: Sequence[float], benchmarks: Sequence[str] = ()
    ) -> None:
        """One line of evaluations.jsonl: ids of the held-out problems, the share of right samples of each, and the
        benchmark of each where the data names them.
        """
        row = {"step": step, "problems": list(problems), "accuracy": list(accuracy)}
        self._line("evaluations", row | ({"benchmarks": list(benchmarks)} if benchmarks else {}))

    def samples(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Lines of samples.jsonl, one a completion."""
        for row in rows:
            self._line("samples", {"step": step, **row})

    def console(self, line: str) -> None:
        """A line for the person who watches."""
        if self._files:
            print(line, flush=True)

    def position(self) -> dict[str, int]:
        """Bytes of each file so far, safely on disk: a checkpoint stores it beside its arrays."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {stream: os.fstat(file.fileno()).st_size for stream, file in self._files.items()}

    def rewind(self, position: Mapping[str, int]) -> None:
        """Cuts the files back to where they stood when a checkpoint was made; ``{}`` empties them.

        Raises:
          ValueError: a file is shorter than the checkpoint says.
        """
        distributed.on_first(lambda: self._rewind(position))

    def _rewind(self, position: Mapping[str, int]) -> None:
        for stream, file in self._files.items():
            size, kept = os.fstat(file.fileno()).st_size, position.get(stream, 0)
            if size < kept:
                raise ValueError(
                    f"{file.name} has {size} bytes, but had {kept} when the checkpoint was made: it was cut or replaced"
                )
            file.truncate(kept)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._events is not None:
            self._events.close()
            self._events = None
