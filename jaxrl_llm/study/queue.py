"""The jobs that one process still has to do, shared by its threads and, through claims, with other processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxrl_llm.study import records
from jaxrl_llm.study.claims import Claim, Claims
from jaxrl_llm.study.plan import Job, Study

_WAIT_SECONDS = 5.0  # between two looks at the jobs of other processes


class Queue:
    """Jobs without a record, in their order.

    A run that failed before the queue was made is tried again. One that fails now, here or elsewhere, is not.

    Attributes:
      stop: set when no more jobs shall be taken, and those that run shall end.
    """

    def __init__(self, study: Study, wanted: Sequence[Job]):
        missing = set(study.missing())
        self.stop = threading.Event()
        self._study = study
        self._claims = Claims()
        self._lock = threading.Lock()
        self._waiting = [job for job in wanted if job in missing]
        self._failed_before = {job: self._time_of_record(job) for job in self._waiting}

    def folder(self, job: Job) -> Path:
        """Of the job's run."""
        return records.run_folder(self._study.folder, *job)

    def _time_of_record(self, job: Job) -> int | None:
        try:
            return records.path_of(self._study.folder, *job).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _is_done(self, job: Job) -> bool:
        written = self._time_of_record(job)
        return written is not None and written != self._failed_before[job]

    def missing(self) -> int:
        """How many runs have no record yet, wherever they are."""
        return sum(not self._is_done(job) for job in self._failed_before)

    def take(self, say: Callable[[str], None]) -> tuple[Job, Claim] | None:
        """The next job that nobody has; while others have all that is left, waits. None: all is done, or `stop`."""
        told = False
        while not self.stop.is_set():
            with self._lock:
                if taken := self._next():
                    return taken
                left = list(self._waiting)
            if not left:
                return None
            if not told:
                say(f"waiting for {len(left)} runs of others: {self._claims.holder(self.folder(left[0]))} ...")
                told = True
            self.stop.wait(_WAIT_SECONDS)
        return None

    def _next(self) -> tuple[Job, Claim] | None:
        for job in list(self._waiting):
            if self._is_done(job):
                self._waiting.remove(job)
            elif claim := self._claims.take(self.folder(job)):
                self._waiting.remove(job)
                if not self._is_done(job):
                    return job, claim
                claim.clear()  # its worker ended between the two looks
        return None

    def give_back(self, job: Job) -> None:
        """Waits for the job again, which another process has taken over."""
        with self._lock:
            self._waiting.append(job)
