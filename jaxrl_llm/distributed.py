"""Several processes as one run, by `jax.distributed`: how they meet, that they agree, and what only the first one does.

Every process runs the same program over one mesh. Small texts go through JAX's coordination service, which process 0
holds; it needs no device, so processes can compare versions before they compute together. It also watches them: a
process whose heartbeat stays away for ``distributed.heartbeat_seconds`` is dead, and JAX then ends all others (SIGABRT,
with a line on stderr). SIGTERM to one of them stops all after a step, at a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state  # its key-value store has no public name
from jax.experimental import multihost_utils

AUTO = "auto"  # where JAX finds the processes by itself
_PATIENCE_MS = 24 * 3600 * 1000  # for a process that is alive and slow (it downloads); a dead one ends the run sooner
_calls = itertools.count()  # every process makes the same calls in the same order


@dataclasses.dataclass(frozen=True)
class DistributedSettings:
    heartbeat_seconds: int
    start_seconds: int


class AgreedError(ValueError):
    """What every process raises at the same place, so that all of them end in good order."""


@contextlib.contextmanager
def joined(
    place: str | None, settings: DistributedSettings, describe: Callable[[BaseException], str]
) -> Iterator[None]:
    """A run together with the other processes. Nothing may have asked JAX for a device before.

    An error that only this process has ends it at once with exit code 1: the others wait for it in a collective
    operation, and cannot be told otherwise than by its death.

    Args:
      place: None for a process alone; "auto" where TPU VMs, GKE, SLURM or Open MPI tell JAX who the processes are; else
        "HOST:PORT,PROCESS/PROCESSES": the address of process 0, the number of this one from 0, and how many they are.
      describe: what to print of an error.

    Raises:
      ValueError: there are other processes that ``place`` does not speak of, or the form of ``place`` is another.
      TimeoutError: not all processes have come within ``start_seconds``.
    """
    if place is None:
        if jax.process_count() > 1:
            raise ValueError(f"this is one of {jax.process_count()} processes: expected --distributed")
        yield
        return
    _initialize(place, settings)
    try:
        yield
    except AgreedError:
        raise
    except BaseException as error:
        print(
            f"{describe(error)}\nerror: process {global_state.process_id} of {global_state.num_processes} on "
            f"{socket.gethostname()} ends here; the others follow within {settings.heartbeat_seconds} seconds "
            "(distributed.heartbeat_seconds) and may say more",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        os._exit(1)  # a usual exit would wait for the others


def require_alone(command: str) -> None:
    """Refuses to compute in one of several processes, such as on a host of a pod: its devices wait for the others'.

    Raises:
      ValueError: there are other processes.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"this is one of {jax.process_count()} processes, and {command} computes in one: expected a machine alone, "
            "or JAX_PLATFORMS=cpu"
        )


def _initialize(place: str, settings: DistributedSettings) -> None:
    initialize = functools.partial(
        jax.distributed.initialize,
        initialization_timeout=settings.start_seconds,
        heartbeat_timeout_seconds=settings.heartbeat_seconds,
        shutdown_timeout_seconds=settings.heartbeat_seconds,
    )
    if place == AUTO:
        try:
            initialize()
        except ValueError as error:  # no cluster that JAX knows
            raise ValueError(
                f"--distributed: {error} Expected a TPU VM, GKE, SLURM or Open MPI, which say who the processes are, "
                "or --distributed=HOST:PORT,PROCESS/PROCESSES"
            ) from error
        return
    found = re.fullmatch(r"([^,\s]+:\d+),(\d+)/(\d+)", place)
    if found is None or not int(found[2]) < int(found[3]):
        raise ValueError(
            f"--distributed={place}: expected HOST:PORT,PROCESS/PROCESSES, such as 10.0.0.1:8476,0/2 (processes count "
            "from 0), or nothing after --distributed"
        )
    address, process, processes = found[1], int(found[2]), int(found[3])
    initialize(address, processes, process, cluster_detection_method="deactivate")


def is_first() -> bool:
    """Whether this process is the one that writes: process 0, or one that is alone."""
    return global_state.process_id == 0


def processes() -> int:
    return global_state.num_processes if global_state.client is not None else 1


def share(rows: int) -> slice:
    """The rows of this process, where ``rows`` are cut into one contiguous part for each."""
    process, count = global_state.process_id, processes()
    return slice(rows * process // count, rows * (process + 1) // count)


def gather(value: Any) -> list[Any]:
    """The JSON values that the processes give, in their order; every process must call it. Through the devices."""
    if processes() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(data)))).reshape(-1)
    width = 1 << int(lengths.max() - 1).bit_length()  # few widths: each is compiled once
    rows = np.asarray(multihost_utils.process_allgather(np.pad(data, (0, width - len(data)))))
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def on_first(action: Callable[[], None]) -> None:
    """Runs ``action`` on the first process while the others wait; every process must call it.

    Raises:
      AgreedError: on every process, where the action raises ValueError or OSError. A process that is alone raises what
        the action raises.
    """
    if processes() == 1:
        action()
        return
    key, told = f"jaxrl_llm/{next(_calls)}", ""
    if is_first():
        try:
            action()
        except (ValueError, OSError) as error:
            told = str(error) or type(error).__name__
        global_state.client.key_value_set(key, json.dumps(told))  # type: ignore[union-attr]
    else:
        told = json.loads(global_state.client.blocking_key_value_get(key, _PATIENCE_MS))  # type: ignore[union-attr]
    if told:
        raise AgreedError(told)


def agree(facts: Callable[[], Mapping[str, Any]]) -> None:
    """Refuses to go on where a process knows other facts than process 0; every process must call it.

    Args:
      facts: name -> JSON value; called only where there are several processes.

    Raises:
      AgreedError: on every process; names the processes that differ, their hosts, the facts, and both values.
    """
    if processes() == 1:
        return
    client: Any = global_state.client
    prefix = f"jaxrl_llm/{next(_calls)}"
    said = {"host": socket.gethostname(), "facts": dict(facts())}
    client.key_value_set(f"{prefix}/{global_state.process_id}", json.dumps(said))

    def compare() -> None:
        everyone = [
            json.loads(client.blocking_key_value_get(f"{prefix}/{process}", _PATIENCE_MS))
            for process in range(processes())
        ]
        if differing := list(_differing(everyone)):
            raise ValueError("; ".join(differing))

    on_first(compare)


def _differing(everyone: list[dict[str, Any]]) -> Iterator[str]:
    first = everyone[0]
    for process, other in enumerate(everyone[1:], start=1):
        told = [
            f"{path} is {json.dumps(its)}, process 0 has {json.dumps(ours)}"
            for path, ours, its in differences(first["facts"], other["facts"])
        ]
        if told:
            yield f"process {process} on {other['host']} differs from process 0 on {first['host']}: {', '.join(told)}"


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, value, other value) of every key in which two nested mappings differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted(one.keys() | other.keys()):
            inside = f"{path}.{key}" if path else key
            yield from differences(one.get(key, "absent"), other.get(key, "absent"), inside)
    elif one != other:
        yield path, one, other


def source_hash() -> str:
    """Of the code of this package: two commits may have one version number."""
    package = Path(__file__).parent
    hashed = hashlib.blake2b(digest_size=8)
    for file in sorted(package.rglob("*.py")):
        hashed.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return hashed.hexdigest()
