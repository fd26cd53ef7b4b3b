"""What one run of a study leaves, whichever engine ran it: curves, answers to held-out problems, counts, a few texts.

One file a run, CELL/ARM/seed_0003/record.npz in the study's folder: compressed NumPy arrays, and the rest as JSON in
the array `metadata`. The same run writes the same bytes but for its time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FILE = "record.npz"
_PLAIN = ("cell", "arm", "seed", "seconds", "vocabulary", "samples", "failed", "config_hash", "benchmarks")
_OF_VOCABULARY = ("clipped", "tokens")


@dataclasses.dataclass(frozen=True, eq=False)
class RunRecord:
    """One run of a study: cell, arm and seed, and what was seen.

    Attributes:
      curves: metric of metrics.jsonl -> float32 [steps], nan where a step has none.
      eval_steps: int [E], rising; the first is 0, before any update.
      accuracy: float32 [E, N], share of right samples of each of the N held-out problems.
      counts: name -> counts summed over the run: "probability" [6], tokens by the probability they were sampled with,
        between 0, 0.3, 0.6, 0.85, 0.95, 0.99 and 1; "clipped" [V] and "tokens" [V], of each token of the vocabulary.
      seconds: wall time of the run; its share of it where runs share a program.
      vocabulary: texts of the V tokens, where ``counts`` has "clipped"; else empty.
      samples: a few texts: {"question", "answer", "completion", "correct", "step"}.
      failed: why the run failed; its arrays are then empty. Empty for a run that ended as it should.
      config_hash: :func:`config_hash` of the run's config.
      benchmarks: of each held-out problem, where ``evaluation.source_key`` names them; else empty.
    """

    cell: str
    arm: str
    seed: int
    curves: dict[str, np.ndarray]
    eval_steps: np.ndarray
    accuracy: np.ndarray
    counts: dict[str, np.ndarray]
    seconds: float
    vocabulary: tuple[str, ...] = ()
    samples: tuple[dict[str, Any], ...] = ()
    failed: str = ""
    config_hash: str = ""
    benchmarks: tuple[str, ...] = ()


def failure(cell: str, arm: str, seed: int, reason: str, *, seconds: float, config_hash: str) -> RunRecord:
    """The record of a run that failed."""
    none = np.zeros((0,), np.int32)
    return RunRecord(
        cell, arm, seed, {}, none, np.zeros((0, 0), np.float32), {}, seconds, failed=reason, config_hash=config_hash
    )


def config_hash(config: Mapping[str, Any], code: str = "") -> str:
    """Sixteen digits that name a run's config, as plain values, and the code of its tricks.

    ``run_dir``, which moves nothing, is left out.
    """
    values = {key: value for key, value in config.items() if key != "run_dir"}
    return hashlib.sha256((json.dumps(values, sort_keys=True) + code).encode()).hexdigest()[:16]


def run_folder(folder: str | Path, cell: str, arm: str, seed: int) -> Path:
    """The folder of one run in the folder of its study."""
    return Path(folder) / cell / arm / f"seed_{seed:04d}"


def path_of(folder: str | Path, cell: str, arm: str, seed: int) -> Path:
    """The file of one run's record in the folder of its study."""
    return run_folder(folder, cell, arm, seed) / FILE


def save(folder: str | Path, record: RunRecord) -> Path:
    """Writes a record into the study's folder, whole or not at all, and returns its path.

    Raises:
      ValueError: an array has a shape that does not fit the others.
    """
    path = path_of(folder, record.cell, record.arm, record.seed)
    _check(path, record)
    arrays = {"eval_steps": record.eval_steps, "accuracy": record.accuracy}
    arrays |= {f"curves/{name}": values for name, values in record.curves.items()}
    arrays |= {f"counts/{name}": values for name, values in record.counts.items()}
    metadata = json.dumps({name: getattr(record, name) for name in _PLAIN}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, metadata=np.array(metadata), **arrays)  # type: ignore[arg-type]
    partial.replace(path)
    return path


def load(path: str | Path, config_hash: str | None = None) -> RunRecord:
    """Reads what :func:`save` wrote.

    Args:
      config_hash: that the record must have; None: any.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no record, an array is missing or misshapen, or it is the record of another config.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected the record of a run of a study")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(str(arrays.pop("metadata")))
        metadata.setdefault("benchmarks", ())  # records were made before there were any
        plain: dict[str, Any] = {name: metadata[name] for name in _PLAIN}
        plain |= {name: tuple(plain[name]) for name in ("vocabulary", "samples", "benchmarks")}
        record = RunRecord(
            **plain,
            eval_steps=arrays["eval_steps"],
            accuracy=arrays["accuracy"],
            curves=_inside(arrays, "curves/"),
            counts=_inside(arrays, "counts/"),
        )
    except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not the record of a run ({type(error).__name__}: {error})") from error
    _check(path, record)
    if config_hash is not None and record.config_hash != config_hash:
        raise ValueError(
            f"{path} is the record of another config ({record.config_hash}, expected {config_hash}): the study has "
            "changed since; expected an empty folder, or the study as it was"
        )
    return record


def load_all(folder: str | Path) -> list[RunRecord]:
    """Every record in a study's folder, by cell, arm and seed; those of runs that failed too.

    Raises:
      ValueError: a file is no record, or lies in the folder of another run.
    """
    records = []
    for path in sorted(Path(folder).glob(f"*/*/seed_*/{FILE}")):
        record = load(path)
        if path != path_of(folder, record.cell, record.arm, record.seed):
            raise ValueError(f"{path} is the record of {record.cell}/{record.arm}, seed {record.seed}")
        records.append(record)
    return records


def _inside(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def _check(path: Path, record: RunRecord) -> None:
    def refuse(name: str, shape: tuple[int, ...], expected: str) -> None:
        raise ValueError(f"{path}: {name} has shape {shape}, expected {expected}")

    steps, accuracy = record.eval_steps, record.accuracy
    if steps.ndim != 1:
        refuse("eval_steps", steps.shape, "[E]")
    if accuracy.ndim != 2 or len(accuracy) != len(steps):
        refuse("accuracy", accuracy.shape, f"[{len(steps)}, N], a row for each of eval_steps")
    if not record.failed and (accuracy.size == 0 or steps[0] != 0 or np.any(np.diff(steps) <= 0)):
        raise ValueError(f"{path}: eval_steps = {steps.tolist()}, expected 0 first, then rising steps")
    if record.benchmarks and accuracy.shape[1:] != (len(record.benchmarks),):
        refuse("accuracy", accuracy.shape, f"[E, {len(record.benchmarks)}], a column for each of benchmarks")
    lengths = {len(values) if values.ndim == 1 else None for values in record.curves.values()}
    if len(lengths) > 1 or None in lengths:
        shapes = {name: values.shape for name, values in record.curves.items()}
        raise ValueError(f"{path}: curves have shapes {shapes}, expected the same [steps] of all")
    for name, values in record.counts.items():
        size = len(record.vocabulary)
        if values.ndim != 1 or (name in _OF_VOCABULARY and "clipped" in record.counts and values.shape != (size,)):
            refuse(f"counts {name}", values.shape, f"[V], V = {size} texts of the vocabulary")
