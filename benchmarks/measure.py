"""What every measuring process does: two cores, a tuned allocator, and a JSON line a measurement.

Imports nothing but the standard library: the scripts in peers/ read it in environments of their own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Iterator

CORES = 2

# Of glibc, for the peers. As it comes, it hands every growing cache of keys back to the kernel, and TRL's rollout of W1
# takes up to twice the time.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def pin() -> None:
    """Puts this process, and what it starts, on two cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def restart_with(environment: dict[str, str]) -> None:
    """Starts this process again, once, with ``environment``, which libc reads at the start; what is set stays."""
    missing = {name: value for name, value in environment.items() if name not in os.environ}
    if missing:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | missing)


@contextlib.contextmanager
def clock(times: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds of the block to ``times[name]``."""
    begun = time.perf_counter()
    yield
    times[name] = times.get(name, 0.0) + time.perf_counter() - begun


def peak_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}


def report(library: str, workload: str, part: str, seconds: float, **more: object) -> None:
    """Prints a line of JSON to stdout."""
    line = {"library": library, "workload": workload, "part": part, "seconds": round(seconds, 4)}
    print(json.dumps(line | {"peak_gib": round(peak_gib(), 2)} | more), flush=True)
