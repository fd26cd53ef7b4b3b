"""The adapter against slow oracles of the pages, on cases that no other project computed.

The oracles are held to the stored vectors first; then both see random params, shapes, gaps, empty rows and extremes.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from tests.oracles.kinds import ORACLES
from tests.oracles.kinds_basics import Inputs, Undefined
from tests.oracles.kinds_cases import grid_samples, random_inputs
from tests.oracles.kinds_params import TABLE
from tests.reference_vectors import FOLDER, GRADIENTS, KINDS, cases, evaluate

NUMBER = 8
SINGLE = 3e-5  # 250 roundings of float32, relative to the largest entry: sums of 42 terms, exponentials, two divisions
SHAPES = [(7, 6), (4, 3), (1, 1)]
# Outputs that mean something at the tokens of the mask alone.
AT_TOKENS = {
    "adv_gae": ("advantages", "returns", "whitened"),
    "adv_optimal_token_baseline": ("returns",),
    "adv_pipeline": ("advantages", "returns"),
    "adv_reinforce_pp": ("returns",),
    "adv_remax": ("advantages", "returns"),
    "is_weights": ("weights",),
    "returns_discounted": ("returns",),
    "reward_kl": ("token_rewards",),
    "whiten": ("whitened",),
}


def assert_close(
    what: str, got: Any, want: Any, rtol: float, at_tokens: np.ndarray | None = None, atol: float = 0.0
) -> None:
    """Within ``rtol`` of the entry or of the largest entry, whichever is more; ``atol`` comes on top."""
    got, want = np.float64(got), np.float64(want)
    if at_tokens is not None:
        got, want = (np.broadcast_to(x, at_tokens.shape)[at_tokens == 1] for x in (got, want))
    atol += rtol * max(1, np.abs(want).max(initial=0))
    np.testing.assert_allclose(np.broadcast_to(got, want.shape), want, rtol, atol, err_msg=what)


def test_every_kind_has_an_oracle_and_random_cases():
    assert set(ORACLES) == set(TABLE) == set(KINDS)


@pytest.mark.parametrize("kind", sorted({case["kind"] for case in cases()}))
def test_the_oracle_gives_the_stored_numbers(kind: str):
    for case in cases():
        if case["kind"] != kind:
            continue
        name = case["name"]
        with np.load(FOLDER / "vectors" / case["file"]) as arrays:
            inputs = {key: arrays[f"{name}/in/{key}"] for key in case["inputs"]}
            outputs = ORACLES[kind](
                {k: np.float64(x) if x.dtype.kind == "f" else x for k, x in inputs.items()}, **case["params"]
            )
            for key, info in case["outputs"].items():
                bits = "64" if f"{name}/out64/{key}" in arrays else "32"
                tolerance = info["tolerance"].get(f"float{bits}", {"rtol": 0.0})
                rows = inputs["mask"] if info.get("where") == "mask" else None
                assert_close(f"{name} {key}", outputs[key], arrays[f"{name}/out{bits}/{key}"], tolerance["rtol"], rows)


def defined_case(kind: str, rng: np.random.Generator, params: Inputs, shape: tuple[int, int]) -> tuple[Inputs, Inputs]:
    """Inputs for which the pages define every number, with the outputs of the oracle."""
    for attempt in range(40):
        inputs = random_inputs(rng, *TABLE[kind][:2], params, shape if attempt < 8 else SHAPES[0])
        try:
            return inputs, ORACLES[kind](inputs, **params)
        except Undefined:
            continue
    raise AssertionError(f"{kind} {params}: no defined case")


def slope(kind: str, params: Inputs, inputs: Inputs, name: str, of: str, at: tuple[int, ...]) -> float:
    """The derivative by one number, what the pages call ``sg`` held still."""
    ends = []
    for step in (1e-5, -1e-5):
        moved = inputs[name].copy()
        moved[at] += step
        ends.append(ORACLES[kind](inputs | {"frozen": inputs[name], name: moved}, **params)[of])
    return (ends[0] - ends[1]) / 2e-5


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_random_cases_are_computed_as_the_pages_say(kind: str):
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    grid = TABLE[kind][2]
    number = max(NUMBER, *(len(values) for name, values in grid.items() if name != "agg" or kind == "agg"), 0)
    for i, params in enumerate(grid_samples(rng, grid, number)):
        inputs, want = defined_case(kind, rng, params, SHAPES[i % len(SHAPES)])
        outputs, gradients = evaluate(kind, params, inputs)
        for key, value in want.items():
            mask = inputs["mask"] if key in AT_TOKENS.get(kind, ()) else None
            assert_close(f"{key} of {params}", outputs[key], value, 1e-9, mask)
        for name, gradient in gradients.items():
            of = GRADIENTS[kind][0]
            rounding = 1e-10 * abs(float(want[of]))  # of the difference of two losses, divided by its step
            for _ in range(4):
                at = tuple(rng.integers(size) for size in gradient.shape)
                derivative = slope(kind, params, inputs, name, of, at)
                assert_close(f"gradient of {params} at {at}", gradient[at], derivative, 1e-6, atol=rounding)
        if i % 2 == 0:
            single = {key: x.astype(np.float32) if x.dtype.kind == "f" else x for key, x in inputs.items()}
            singles, single_gradients = evaluate(kind, params, single)
            for key, value in want.items():
                mask = inputs["mask"] if key in AT_TOKENS.get(kind, ()) else None
                assert_close(f"{key} of {params} in float32", singles[key], value, SINGLE, mask)
            for name, gradient in gradients.items():
                assert_close(f"gradient of {params} in float32", single_gradients[name], gradient, SINGLE)
