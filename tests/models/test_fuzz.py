"""Five hundred damaged checkpoint folders: each is refused with a plain error, or is the model that it was."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl_llm.models import hub, writer
from tests.models import tiny

SEEDS = range(500)
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
Random = np.random.Generator
# Values that a reader may trust by mistake: of another type, out of range, huge, or paths out of the folder.
LIES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**40, 0.5, float("nan"), "", "F64", "I64", "x" * 10_000,
    "../outside.safetensors", "/etc/passwd", [], [-1], [0, 2**62], [2**62, 2**62], {}, {"a": {}},
]  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    """A folder of one file and one of shards, with a stranger's weights beside them that no damage may lead to."""
    root = tmp_path_factory.mktemp("fuzz")
    single = tiny.write_case(root / "single", "llama")
    policy = hub.load(str(single))
    writer.save(policy.config, policy.params, root / "sharded", dtype="float32", max_shard_bytes=20_000)
    return {"single": single, "sharded": root / "sharded"}


def split(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the bytes behind it."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(file: Path, header: Any, body: bytes, length: int | None = None) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def a_tensor_file(folder: Path, rng: Random) -> Path:
    return rng.choice(sorted(folder.glob("*.safetensors")))  # type: ignore[arg-type]


def put_a_lie(value: Any, rng: Random) -> Any:
    """The JSON value with one part, at any depth, replaced, removed or added."""
    lie = LIES[rng.integers(len(LIES))]
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return lie
    changed = value.copy()
    key = list(value)[rng.integers(len(value))] if isinstance(value, dict) else int(rng.integers(len(value)))
    deed = rng.random()
    if deed < 0.15:
        del changed[key]
    elif deed < 0.25 and isinstance(changed, dict):
        changed[f"{key}.more"] = lie
    else:
        changed[key] = put_a_lie(value[key], rng)
    return changed


def cut_bytes(folder: Path, rng: Random) -> None:
    file = sorted(folder.iterdir())[rng.integers(len(list(folder.iterdir())))]
    raw = file.read_bytes()
    start = int(rng.integers(len(raw)))
    end = len(raw) if rng.random() < 0.5 else min(len(raw), start + int(rng.integers(1, 64)))
    file.write_bytes(raw[:start] + raw[end:])


def turn_header_bytes(folder: Path, rng: Random) -> None:
    file = a_tensor_file(folder, rng)
    raw = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    for _ in range(rng.integers(1, 4)):
        raw[rng.integers(8 + length)] = int(rng.integers(256))
    file.write_bytes(raw)


def lie_about_the_length(folder: Path, rng: Random) -> None:
    file = a_tensor_file(folder, rng)
    header, body = split(file)
    join(file, header, body, [0, 1, 2**31, 2**63, 2**64 - 1, len(body)][rng.integers(6)])


def lie_in_the_header(folder: Path, rng: Random) -> None:
    file = a_tensor_file(folder, rng)
    header, body = split(file)
    join(file, put_a_lie(header, rng), body)


def lie_in_json(folder: Path, rng: Random) -> None:
    file = sorted(folder.glob("*.json"))[rng.integers(len(list(folder.glob("*.json"))))]
    file.write_text(json.dumps(put_a_lie(json.loads(file.read_text()), rng)))


def lead_the_index_outside(folder: Path, rng: Random) -> None:
    file = folder / INDEX
    if not file.exists():
        return lie_in_json(folder, rng)
    index = json.loads(file.read_text())
    name = list(index["weight_map"])[rng.integers(len(index["weight_map"]))]
    ways = [
        "../single/model.safetensors",
        str(folder.parent / "single" / SINGLE),
        "./../single/model.safetensors",
        "..",
    ]
    index["weight_map"][name] = ways[rng.integers(len(ways))]
    file.write_text(json.dumps(index))


DAMAGES: list[Callable[[Path, Random], None]] = [
    cut_bytes, turn_header_bytes, lie_about_the_length, lie_in_the_header, lie_in_json, lead_the_index_outside,
]  # fmt: skip


def test_damaged_folders_are_refused_or_are_the_model_that_they_were(originals, tmp_path):
    wanted = {kind: hub.load(str(folder)) for kind, folder in originals.items()}
    refused = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        kind = "sharded" if seed % 2 else "single"
        folder = tmp_path / str(seed)
        shutil.copytree(originals[kind], folder)
        DAMAGES[seed % len(DAMAGES)](folder, rng)
        try:
            config = hub.load_config(folder)
            params = hub.load_params(folder, config)
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            if str(folder) not in str(error):
                pytest.fail(f"seed {seed}: an error that names no file: {error}")
        else:
            same = jax.tree.map(np.array_equal, params, wanted[kind].params)
            assert all(jax.tree.leaves(same)), (
                f"seed {seed}: {DAMAGES[seed % len(DAMAGES)].__name__} gave other weights"
            )
            # a number of config.json that is plausible, such as another theta, cannot be told from the right one
        shutil.rmtree(folder)
    assert refused > 0.6 * len(SEEDS)  # the damage is real
