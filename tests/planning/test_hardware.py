"""Names of topologies, and what a box of chips can hold."""

from __future__ import annotations

import pytest

from jaxrl_llm.planning.hardware import CHIPS, parse_topology


@pytest.mark.parametrize(
    ("name", "chips", "devices"),
    [("v5p:4x4x8", 128, 128), ("v5e:16x16", 256, 256), ("v4:2x2x1", 4, 4), ("tpu7x:2x2x1", 4, 8), ("h200:8", 8, 8)],
)
def test_a_topology_counts_its_chips_and_the_devices_that_jax_sees(name, chips, devices):
    topology = parse_topology(name)
    assert (topology.chips, topology.devices) == (chips, devices)
    assert topology.per_device(topology.chip.memory) * devices == topology.chip.memory * chips


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("v9:4x4", "chip of v4, v5e"),
        ("v5p", "expected CHIP:SHAPE"),
        ("v5p:4x4", "expected 3 sizes"),
        ("v5e:0x4", "at least 1"),
        ("tpu7x:4x8x8", "512 devices"),
    ],
)
def test_what_is_no_topology_is_refused_with_what_was_expected(name, part):
    with pytest.raises(ValueError, match=part):
        parse_topology(name)


def test_every_chip_names_the_source_of_its_figures():
    assert all(chip.source.startswith("https://") and chip.memory >= 16e9 for chip in CHIPS.values())
