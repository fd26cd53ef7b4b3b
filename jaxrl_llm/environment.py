"""The machine: its cores, and what a command sets for its own process before JAX starts.

It sets where compiled programs are kept, and the allocator. Both are matters of the machine, not of the run: no keys of
a config, but environment variables, and the user's own win.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
from pathlib import Path

COMPILED = "JAX_COMPILATION_CACHE_DIR"
_TUNABLES = "GLIBC_TUNABLES"
_LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

# How glibc should keep the blocks that XLA asks for at every step on a CPU. In huge pages: as it comes, a good part of
# a step goes into faulting its memory in again (benchmarks/cpu.py). Blocks of more than 4 MiB come from the kernel and
# go back to it, which costs little in huge pages: in a heap they leave holes that the blocks of the next program do not
# fit into (docs/performance.md, w2). The others come from one heap, which is not handed back in between; with a heap a
# thread, each keeps what was freed there.
MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=4194304:"
    "glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864"
)


def prepare() -> None:
    """Keeps what is compiled, and tunes the allocator, which starts the process anew."""
    _keep_compiled_programs()
    _tune_allocator()


def of_child() -> dict[str, str]:
    """The environment of a process that this one starts to compute: as :func:`prepare` would leave it."""
    _keep_compiled_programs()
    tuned = {_TUNABLES: MALLOC} if _may_tune() else {}
    return dict(os.environ) | tuned


def cores() -> int:
    """CPU cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where compiled programs are kept: a folder of this user alone, for what lies there is run.

    Raises:
      RuntimeError: the user has no home.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "jaxrl_llm" / "compiled"


def _keep_compiled_programs() -> None:
    """Switches JAX's persistent compilation cache on, unless the user has named a folder, or "" for none.

    A program is kept if compiling it took a tenth of a second, under a key of its text, the versions of jax and XLA,
    XLA's flags and the hardware. The next start loads it, with the bits that compiling it again would give.
    """
    if COMPILED in os.environ:
        return
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
    except (OSError, RuntimeError) as error:
        print(f"compiled programs are not kept for the next start: {error}; {COMPILED} names a folder", file=sys.stderr)
        return
    os.environ[COMPILED] = str(folder)
    os.environ.setdefault(_LEAST_SECONDS, "0.1")


def _may_tune() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc" and _TUNABLES not in os.environ


def _tune_allocator() -> None:
    """Starts this process anew with `MALLOC` (glibc reads it at start-up only), unless the user has set their own."""
    if _may_tune():
        os.environ[_TUNABLES] = MALLOC
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@functools.cache
def has_avx512() -> bool:
    """Whether this machine's processor has AVX-512, as Linux says; elsewhere False."""
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
