"""Who runs a job: claims as files on shared storage, made exclusively and touched while their worker is alive.

The claims of a job are files claim.0, claim.1, ... in its folder; the last one counts. A claim is free again when it is
marked as released, when its process is known to be dead, or when nobody has touched it for `STALE_SECONDS` while
another worker looked on, by that worker's own clock: clocks of different machines are not compared. Who makes the next
number has the job, and a file can be made only once. The storage must know exclusive creation, as local disks, NFS,
Lustre and GPFS do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import threading
import time
from pathlib import Path

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # an NFS client may show the times of a file a minute late

_NAME = re.compile(r"claim\.(\d+)")


def _place() -> str:
    """Names the boot and the process namespace of this machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process of this place started, in clock ticks since the boot; None: it is dead."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def _claims(folder: Path) -> list[tuple[int, Path]]:
    """Number and file of every claim, by number."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("claim.*"))
    return sorted((int(name[1]), path) for name, path in found if name)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A job that is this worker's."""

    path: Path
    number: int

    def beat(self) -> bool:
        """Touches the file; False where the job has become another's, because this worker was silent for too long."""
        if _claims(self.path.parent)[-1:] != [(self.number, self.path)]:
            return False
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True

    def release(self) -> None:
        """Gives the job back, to be taken by anyone."""
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps({"released": True}))
        partial.replace(self.path)

    def clear(self) -> None:
        """Removes all claims of a job that needs none any more: its record is there. This claim goes last."""
        for _, path in _claims(self.path.parent):
            path.unlink(missing_ok=True)


class Claims:
    """Takes jobs for the threads of one process.

    Args:
      stale_seconds: without a touch, after which a job is taken from its worker.
    """

    def __init__(self, stale_seconds: float = STALE_SECONDS):
        self._stale_seconds = stale_seconds
        self._seen: dict[Path, tuple[int, float]] = {}  # others' claims: time of the file, when it was first seen here
        self._lock = threading.Lock()
        self._me = {"host": socket.gethostname(), "process": os.getpid(), "place": _place()}
        self._me["started"] = _started(os.getpid())

    def take(self, folder: Path) -> Claim | None:
        """The job of a folder, or None where another worker has it."""
        folder.mkdir(parents=True, exist_ok=True)
        number = -1
        if existing := _claims(folder):
            number, last = existing[-1]
            if not self._free(last):
                return None
        claim = Claim(folder / f"claim.{number + 1}", number + 1)
        try:
            with claim.path.open("x") as file:
                file.write(json.dumps(self._me))
        except FileExistsError:  # another worker was faster
            return None
        return claim

    def holder(self, folder: Path) -> str:
        """Host and process that have a job, for messages; empty where nobody has."""
        existing = _claims(folder)
        facts = _read(existing[-1][1]) if existing else {}
        return f"process {facts['process']} on {facts['host']}" if "host" in facts else ""

    def _free(self, path: Path) -> bool:
        facts = _read(path)
        if facts.get("released"):
            return True
        if facts.get("place") and facts["place"] == self._me["place"]:
            return _started(facts["process"]) != facts["started"]
        try:
            touched = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        now = time.monotonic()
        with self._lock:
            seen, since = self._seen.get(path, (None, now))
            if seen != touched:
                since = now
            self._seen[path] = (touched, since)
        return now - since > self._stale_seconds


def _read(path: Path) -> dict:
    """What a claim says; nothing where it is gone, or where its worker has not written it yet."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
