"""Engine `train`: every run of a study is an ordinary training run, in a process of its own.

Any number of machines take jobs from the folder of the study (`study.claims`), or share them out by number. A run that
fails is tried again; then its record says why, and the others go on. A run that was stopped goes on from its last
checkpoint.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from jaxrl_llm import environment
from jaxrl_llm.study import job as child
from jaxrl_llm.study import records
from jaxrl_llm.study.claims import HEARTBEAT_SECONDS, STALE_SECONDS, Claim
from jaxrl_llm.study.plan import Job, Study
from jaxrl_llm.study.queue import Queue
from jaxrl_llm.study.records import RunRecord
from jaxrl_llm.study.words import duration
from jaxrl_llm.training import log
from jaxrl_llm.training.checkpoint import FOLDER as CHECKPOINTS

RETRIES = 2  # of a run that failed
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0  # for a process that was told to end
_LINES, _CHARACTERS = 12, 2000  # of a log that say why a run failed
_GPUS = Path("/proc/driver/nvidia/gpus")


class StoppedError(Exception):
    """A signal has stopped the study; ``number`` is the signal's."""

    def __init__(self, number: int, done: int, total: int):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} with {done} of {total} runs done; the same command goes on from there")
        self.number = number


class _StopError(Exception):
    """The queue's `stop` is set."""


class _LostError(Exception):
    """The job has become another worker's."""


def run(
    study: Study,
    *,
    processes: int = 1,
    index: int | None = None,
    of: int | None = None,
    keep_checkpoints: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Runs what a study misses, and returns when each run has a record; runs of other workers are waited for.

    Args:
      processes: runs at a time on this machine. GPUs are shared out among them.
      index: takes only every ``of``-th run, from this one on; from 0.
      keep_checkpoints: of runs that ended; else they are removed when the record is written.

    Raises:
      FileExistsError, ValueError: a number out of range, or a folder or a record of another config. Nothing has started
        then.
      StoppedError: SIGTERM or SIGINT came.
    """
    if processes < 1:
        raise ValueError(f"processes = {processes}: expected 1 or more")
    if (index is None) != (of is None) or (index is not None and of is not None and not 0 <= index < of):
        raise ValueError(f"index = {index}, of = {of}: expected both, with 0 <= index < of, or neither")
    wanted = study.jobs()[index::of]
    queue = Queue(study, wanted)
    for job in wanted:
        log.is_claimed(queue.folder(job), study.config(*job).to_dict())
    work = _Work(study, queue, len(wanted), processes, keep_checkpoints, say)
    signals: list[int] = []
    with _stopped_by_signals(queue, signals), concurrent.futures.ThreadPoolExecutor(processes) as pool:
        slots = [pool.submit(work.run, slot) for slot in range(processes)]
        for slot in concurrent.futures.as_completed(slots):
            slot.result()
    if signals:
        raise StoppedError(signals[0], len(wanted) - queue.missing(), len(wanted))


@contextlib.contextmanager
def _stopped_by_signals(queue: Queue, came: list[int]) -> Iterator[None]:
    """Lets SIGTERM and SIGINT end the work in good order; Python tells only the main thread of them."""

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        queue.stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Work:
    """What the threads of one process share; each runs one job after another."""

    def __init__(
        self,
        study: Study,
        queue: Queue,
        total: int,
        processes: int,
        keep_checkpoints: bool,
        say: Callable[[str], None],
    ):
        self.queue = queue
        self._study = study
        self._total = total
        self._processes = processes
        self._keep_checkpoints = keep_checkpoints
        self._print = say
        self._printing = threading.Lock()
        self._seconds: list[float] = []  # of the runs that ended here
        self._environment = environment.of_child()

    def _say(self, line: str) -> None:
        with self._printing:
            self._print(line)

    def run(self, slot: int) -> None:
        """Until nothing is left. An error that is not a run's own stops the other threads too."""
        try:
            while taken := self.queue.take(self._say):
                self._job(*taken, slot)
        except BaseException:
            self.queue.stop.set()
            raise

    def _job(self, job: Job, claim: Claim, slot: int) -> None:
        folder = self.queue.folder(job)
        log.claim(folder, self._study.config(*job).to_dict())
        begun, facts = time.monotonic(), {"config_hash": self._study.hash_of(*job)}
        record, reason = None, ""
        try:
            for attempt in range(1 + RETRIES):
                if attempt:
                    last = reason.splitlines()[-1]
                    self._say(f"{_name(job)} failed and is tried again ({attempt} of {RETRIES}): {last}")
                try:
                    reason = self._attempt(folder, claim, slot)
                    if not reason:
                        record = child.record_of(folder, *job, seconds=time.monotonic() - begun, **facts)
                        break
                except (FileNotFoundError, ValueError) as error:
                    reason = str(error)
        except _StopError:
            claim.release()
            return
        except _LostError:
            self._say(f"{_name(job)} is another worker's now: this one was silent for {STALE_SECONDS:.0f} s")
            self.queue.give_back(job)
            return
        seconds = time.monotonic() - begun
        records.save(self._study.folder, record or records.failure(*job, reason, seconds=seconds, **facts))
        claim.clear()
        if record and not self._keep_checkpoints:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        self._seconds.append(seconds)
        self._say(self._progress(job, record, reason, seconds))

    def _attempt(self, folder: Path, claim: Claim, slot: int) -> str:
        """Runs the process of a job to its end: "" where it went well, else why not.

        Raises:
          _StopError, _LostError: the process has been ended before.
        """
        path = folder / "train.log"
        with path.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                child.command(folder),
                stdin=subprocess.PIPE,  # the process ends when this one has, and the pipe with it
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment | _share_of_gpus(slot, self._processes),
                start_new_session=True,  # a terminal's Ctrl-C comes to this process alone
            )
            try:
                self._watch(process, claim)
            finally:
                _end(process)
        return "" if process.returncode == 0 else _reason(process.returncode, path, start)

    def _watch(self, process: subprocess.Popen[bytes], claim: Claim) -> None:
        beaten = time.monotonic()
        while process.poll() is None:
            if self.queue.stop.wait(_POLL_SECONDS):
                raise _StopError
            if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                beaten = time.monotonic()
                if not claim.beat():
                    raise _LostError

    def _progress(self, job: Job, record: RunRecord | None, reason: str, seconds: float) -> str:
        missing = self.queue.missing()
        if record:
            first, last = record.accuracy[0].mean(), record.accuracy[-1].mean()
            outcome = f"held-out accuracy {first:.3f} → {last:.3f}"
        else:
            outcome = f"FAILED: {reason.splitlines()[-1]}"
        line = f"[{self._total - missing}/{self._total}] {_name(job)}  {outcome}  {duration(seconds)}"
        left = missing * sum(self._seconds) / len(self._seconds) / self._processes
        return f"{line}  about {duration(left)} left" if missing else line


def _name(job: Job) -> str:
    return f"{job.cell}/{job.arm} seed {job.seed}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, if it is still there, and waits for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin:
        process.stdin.close()


def _reason(code: int, path: Path, start: int) -> str:
    """How a process ended, and the last lines that it wrote into the log from ``start`` on."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace").strip()
    how = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
    return "\n".join([f"{how}; the end of {path}:", *text[-_CHARACTERS:].splitlines()[-_LINES:]])


def _share_of_gpus(slot: int, processes: int) -> dict[str, str]:
    """Environment variables that give one of several processes its own GPUs, or its part of the memory of one."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(number) for number in range(len(list(_GPUS.glob("*"))))]
    if processes == 1 or not gpus:
        return {}
    mine = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot::processes] or [gpus[slot % len(gpus)]])}
    sharers = math.ceil(processes / len(gpus))
    if sharers > 1:
        mine["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharers:.3f}"
    return mine
