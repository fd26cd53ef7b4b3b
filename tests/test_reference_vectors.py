"""Six other projects' numbers, by way of the adapter in ``reference_vectors.py``."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.reference_vectors import FOLDER, KINDS, cases, evaluate

CASES = list(cases())
RUNS = [(case, precision) for case in CASES for precision in case["precisions"]]


@cache
def arrays_of(file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / "vectors" / file) as arrays:
        return dict(arrays)


def assert_close(name: str, got: np.ndarray, want: np.ndarray, info: dict[str, Any], precision: str, inputs: Any):
    if got.shape != want.shape:  # a row's weight may be written at each of its tokens
        got = np.broadcast_to(got, want.shape)
    got, want = got.astype(np.float64), want.astype(np.float64)
    if info.get("where") == "mask":
        got, want = got[inputs["mask"] == 1], want[inputs["mask"] == 1]
    tolerance = info["tolerance"][precision]
    excess = np.abs(got - want) - (tolerance["atol"] + tolerance["rtol"] * np.abs(want))
    assert np.all(excess <= 0), f"{name}: off by {np.max(np.abs(got - want))}, {np.sum(~(excess <= 0))} entries"


@pytest.mark.parametrize(("case", "precision"), RUNS, ids=[f"{case['name']}-{p}" for case, p in RUNS])
def test_values_and_gradients_are_those_of_the_reference(case: dict[str, Any], precision: str):
    arrays, name = arrays_of(case["file"]), case["name"]
    inputs = {key: arrays[f"{name}/in/{key}"] for key in case["inputs"]}
    inputs = {key: x.astype(precision) if x.dtype.kind == "f" else x for key, x in inputs.items()}
    outputs, gradients = evaluate(case["kind"], case["params"], inputs)
    compared = 0
    for part, infos, results in (("out", case["outputs"], outputs), ("grad", case["grads"], gradients)):
        for key, info in infos.items():
            stored = f"{name}/{part}{'64' if info['dtype'] == 'exact' else precision[-2:]}/{key}"
            if stored in arrays:  # a few large cases store one precision
                assert_close(f"{part} {key}", results[key], arrays[stored], info, precision, inputs)
                compared += 1
    assert compared or precision == "float32"


def test_the_kinds_are_those_that_the_pages_name():
    pages = "".join((FOLDER / name).read_text() for name in ("README.md", "MORE-KINDS.md"))
    kinds = set(re.findall(r"^(?:- |\*\*|- \*\*)(?:Kind )?`([a-z0-9_]+)`(?:\*\*)?[:.]", pages, flags=re.MULTILINE))
    assert kinds == set(KINDS)
    assert {case["kind"] for case in CASES} <= kinds
