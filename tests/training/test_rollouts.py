"""Rollouts on disk: what is written is read again, byte for byte the same, and anything else is named."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxrl_llm.training import rollouts
from jaxrl_llm.training.rollouts import SavedRollout
from jaxrl_llm.types import Rollout

ROWS, TOKENS = 4, 6


def saved(**changes) -> SavedRollout:
    rng = np.random.default_rng(0)
    of_tokens = {name: rng.normal(size=(ROWS, TOKENS)).astype(np.float32) for name in "abcde"}
    rollout = Rollout(
        prompt_tokens=rng.integers(0, 9, (ROWS, 3)).astype(np.int32),  # type: ignore[arg-type]
        prompt_length=np.full(ROWS, 3, np.int32),  # type: ignore[arg-type]
        tokens=rng.integers(0, 9, (ROWS, TOKENS)).astype(np.int32),  # type: ignore[arg-type]
        mask=rng.random((ROWS, TOKENS)) < 0.8,  # type: ignore[arg-type]
        sampler_logprobs=of_tokens["a"],  # type: ignore[arg-type]
        truncated=rng.random(ROWS) < 0.5,  # type: ignore[arg-type]
        prompt_id=np.array([1, 1, -7, -7], np.int32),  # type: ignore[arg-type]
    )
    whole = SavedRollout(
        step=20,
        config={"seed": 3, "algorithm": {"clip_low": None, "baseline": "group"}},
        rollout=rollout,
        rewards=np.array([0, 1, np.nan, 1], np.float32),
        correct=np.array([False, True, False, True]),
        parseable=np.array([True, True, False, True]),
        old_logprobs=of_tokens["b"],
        logprobs=of_tokens["c"],
        entropy=of_tokens["d"],
        ref_logprobs=of_tokens["e"],
    )
    return dataclasses.replace(whole, **changes)


@pytest.mark.parametrize("changes", [{}, {"ref_logprobs": None}], ids=["with reference", "without"])
def test_what_was_saved_is_loaded_with_its_types_step_and_config(tmp_path, changes):
    wanted = saved(**changes)
    path = rollouts.save(tmp_path, wanted)
    assert path == tmp_path / "rollouts" / "step_000020.npz" == rollouts.path_of(tmp_path, 20)
    got = rollouts.load(path)
    assert (got.step, got.config) == (20, wanted.config)
    assert (got.ref_logprobs is None) == (wanted.ref_logprobs is None)
    pairs = [(vars(got.rollout), vars(wanted.rollout)), (vars(got), vars(wanted))]
    for one, other in pairs:
        for name, array in other.items():
            if isinstance(array, np.ndarray):
                np.testing.assert_array_equal(one[name], array, err_msg=name)
                assert one[name].dtype == array.dtype, name


def test_the_same_rollout_gives_the_same_bytes_and_leaves_no_other_file(tmp_path):
    one, other = rollouts.save(tmp_path / "a", saved()), rollouts.save(tmp_path / "b", saved())
    first = one.read_bytes()
    assert first == other.read_bytes() and rollouts.save(tmp_path / "a", saved()).read_bytes() == first
    assert [file.name for file in one.parent.iterdir()] == [one.name]


def test_arrays_on_devices_are_saved_as_they_are(tmp_path):
    on_device = jax.tree.map(jax.numpy.asarray, saved().rollout)
    got = rollouts.load(rollouts.save(tmp_path, saved(rollout=on_device)))
    np.testing.assert_array_equal(got.rollout.tokens, saved().rollout.tokens)


def rewritten(path, **changes):
    """The file with some arrays replaced, or left out where None."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entropy": None}, "lacks entropy"),
        ({"mask": None, "rewards": None}, "lacks mask, rewards"),
        ({"values": np.zeros(3)}, "holds values, which no saved rollout has"),
        ({"logprobs": np.zeros((ROWS, TOKENS + 1))}, r"logprobs has shape \(4, 7\), expected \(4, 6\)"),
        ({"rewards": np.zeros(ROWS + 1)}, r"rewards has shape \(5,\), expected \(4,\)"),
        ({"tokens": np.zeros(ROWS)}, r"tokens \(4,\) and prompt_tokens \(4, 3\), expected \[B, T\]"),
        ({"metadata": None}, "is not a saved rollout"),
        ({"metadata": np.array("{}")}, "is not a saved rollout"),
        ({"metadata": np.array({"step": 1}, dtype=object)}, "is not a saved rollout"),
    ],
)
def test_a_file_that_is_damaged_is_named_with_what_is_wrong(tmp_path, changes, message):
    path = rollouts.save(tmp_path, saved())
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=rf"step_000020\.npz:? {message}"):
        rollouts.load(path)


def test_a_file_that_is_missing_or_something_else_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npz does not exist: expected a file of rollouts/"):
        rollouts.load(tmp_path / "gone.npz")
    whole = rollouts.save(tmp_path, saved()).read_bytes()
    for name, content in (("text.npz", b"text"), ("empty.npz", b""), ("half.npz", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is not a saved rollout"):
            rollouts.load(tmp_path / name)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"array\.npy is not a saved rollout"):
        rollouts.load(tmp_path / "array.npy")
