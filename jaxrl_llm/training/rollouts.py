"""Rollouts on disk: what a step sampled, how it was judged, and how likely the policies before and after it found it.

One file a step, rollouts/step_000020.npz in the run's folder: uncompressed NumPy arrays, and step and config as JSON
in the array `metadata`. The same run writes the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl_llm.types import Rollout

FOLDER = "rollouts"
_ROLLOUT = tuple(field.name for field in dataclasses.fields(Rollout))
_OF_ROWS = ("rewards", "correct", "parseable")
_OF_TOKENS = ("old_logprobs", "logprobs", "entropy")
_OPTIONAL = "ref_logprobs"


@dataclasses.dataclass(frozen=True)
class SavedRollout:
    """A step's rollout, judged and scored; NumPy arrays where it was read from a file.

    Attributes:
      step: of the rollout.
      config: the resolved config of the run, as plain values.
      rewards: float32 [B], as judged, before any shaping.
      correct: bool [B].
      parseable: bool [B], whether an answer was found.
      old_logprobs: float32 [B, T], nats, of the policy that the ratio was measured against.
      logprobs: float32 [B, T], nats, of the policy after the step's updates.
      entropy: float32 [B, T], nats, of the same policy.
      ref_logprobs: float32 [B, T], nats, of the reference policy; None without one.
    """

    step: int
    config: dict[str, Any]
    rollout: Rollout
    rewards: Any
    correct: Any
    parseable: Any
    old_logprobs: Any
    logprobs: Any
    entropy: Any
    ref_logprobs: Any = None


def path_of(run_dir: str | Path, step: int) -> Path:
    return Path(run_dir) / FOLDER / f"step_{step:06d}.npz"


def save(run_dir: str | Path, saved: SavedRollout) -> Path:
    """Writes the file of a step into the run's folder, whole or not at all, and returns its path."""
    path = path_of(run_dir, saved.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(saved.rollout, name) for name in _ROLLOUT}
    arrays |= {name: getattr(saved, name) for name in (*_OF_ROWS, *_OF_TOKENS)}
    if saved.ref_logprobs is not None:
        arrays[_OPTIONAL] = saved.ref_logprobs
    metadata = json.dumps({"step": saved.step, "config": saved.config}, sort_keys=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, metadata=np.array(metadata), **jax.device_get(arrays))
    partial.replace(path)
    return path


def load(path: str | Path) -> SavedRollout:
    """Reads what :func:`save` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no rollout, or an array is missing or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a file of {FOLDER}/ in the folder of a run")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(str(arrays.pop("metadata")))
        step, config = int(metadata["step"]), dict(metadata["config"])
    except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a saved rollout ({type(error).__name__}: {error})") from error
    _check(path, arrays)
    rollout = Rollout(**{name: arrays.pop(name) for name in _ROLLOUT})  # type: ignore[arg-type]
    return SavedRollout(step=step, config=config, rollout=rollout, **arrays)


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    needed = {*_ROLLOUT, *_OF_ROWS, *_OF_TOKENS}
    if missing := needed - arrays.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    if strange := arrays.keys() - needed - {_OPTIONAL}:
        raise ValueError(f"{path} holds {', '.join(sorted(strange))}, which no saved rollout has")
    tokens, prompts = arrays["tokens"].shape, arrays["prompt_tokens"].shape
    if len(tokens) != 2 or len(prompts) != 2:
        raise ValueError(f"{path}: tokens {tokens} and prompt_tokens {prompts}, expected [B, T] and [B, Q]")
    of_tokens = {"tokens", "mask", "sampler_logprobs", *_OF_TOKENS, _OPTIONAL}
    for name, array in arrays.items():
        expected = tokens if name in of_tokens else (tokens[0], prompts[1]) if name == "prompt_tokens" else tokens[:1]
        if array.shape != expected:
            raise ValueError(f"{path}: {name} has shape {array.shape}, expected {expected}")
