"""The count of collectives: on a text with every spelling, and on a program that XLA compiled."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_llm.planning.hlo import Collective, census, shape_bytes
from jaxrl_llm.sharding import MeshSettings, make_mesh

MESH = {"data": 1, "fsdp": 4, "tensor": 2}
# In the spellings of XLA for TPU: a loop whose trips XLA states around one with a counter (0, 2, 4, 6: 4 trips), one
# that the data end, a fusion that keeps a part of a sum, one collective of a backward pass in two fusions that it runs
# beside, a kernel whose settings have lines like the end of a computation, and groups as lists, as an iota and as axes
# of a mesh.
TEXT = (Path(__file__).parent / "collectives.hlo").read_text()


def test_loops_groups_and_bytes_are_read_from_the_text():
    """Loops run 3 and 10 times. A device receives 3/4 of 256 bytes gathered, 2 · 1/2 of 128 summed, 64, 3/4 of 512."""
    found = census(TEXT, MESH, unknown_trips=10)
    assert found == [
        Collective("all-gather", "fsdp", 10, True, 1, 10, 10 * 192),
        Collective("collective-permute", "fsdp", 3 * 4, False, 1, 3 * 4, 3 * 4 * 64),
        Collective("all-gather", "fsdp", 3, False, 1, 3, 3 * 192),
        Collective("all-reduce", "tensor", 3, False, 1, 3, 3 * 128),
        Collective("reduce-scatter", "fsdp", 1, False, 1, 1, 384),
    ]


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", "tensor"),
        ("{{0,1,2,3,4,5,6,7}}", "fsdp+tensor"),
        ("[1,8]<=[8]", "fsdp+tensor"),
        ("{{0,2},{4,6},{1,3},{5,7}}", "?"),  # half of fsdp: no product of axes
        ("mesh['a'=4,'b'=2] {'a','b'}", "fsdp+tensor"),
        ("mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}", "tensor"),
    ],
)
def test_groups_are_named_by_the_axes_that_they_span(groups, axes):
    line = f"  ROOT %r = f32[8]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add"
    (found,) = census("ENTRY %main (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0)\n" + line + "\n}\n", MESH)
    assert found.axes == axes


def test_bytes_of_a_type_are_those_of_all_its_arrays():
    assert shape_bytes("(bf16[2,3], f32[], pred[5], /*index=3*/s4[4], f8e4m3fn[7])") == 12 + 4 + 5 + 2 + 7


def test_an_asynchronous_gather_counts_its_result_and_not_its_operand():
    line = (
        "  %g = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}"
    )
    done = "  ROOT %d = f32[8,4]{1,0} all-gather-done(%g)"
    (found,) = census(f"ENTRY %main (x: f32[2,4]) -> f32[8,4] {{\n{line}\n{done}\n}}\n", MESH)
    assert found == Collective("all-gather", "fsdp", 1, False, 1, 1, 96)


def test_a_compiled_scan_counts_its_collective_once_a_trip():
    mesh = make_mesh(MeshSettings(1, 4, 2, 1))

    def place(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    def layers(x, weights):
        def layer(x, weight):
            return jax.lax.with_sharding_constraint(x @ weight, place(None, "tensor")), None

        return jax.lax.scan(layer, x, weights)[0]

    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=place(None, "tensor"))
    weights = jax.ShapeDtypeStruct((5, 32, 32), jnp.float32, sharding=place(None, "tensor", None))
    text = jax.jit(layers).lower(x, weights).compile().as_text() or ""
    found = [one for one in census(text, dict(mesh.shape)) if one.trips == 5]
    assert all(one.runs == 5 * one.sites for one in found)
    # The products' summands lie along tensor: half of a result of 16 × 16 numbers, twice, is received a trip.
    assert [(one.axes, one.bytes) for one in found if one.kind == "all-reduce"] == [("tensor", 5 * 16 * 16 * 4)]


def test_two_sums_that_a_shard_map_states_are_two_though_they_share_a_channel():
    mesh = make_mesh(MeshSettings(1, 4, 2, 1))
    spec = PartitionSpec("fsdp", "tensor")

    def body(x, y):
        return jax.lax.psum(jax.lax.psum(x, "tensor") * y.sum(), "fsdp")

    sums = jax.shard_map(body, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=PartitionSpec())
    x, y = jax.ShapeDtypeStruct((16, 32), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.float32)
    text = jax.jit(sums).lower(x, y).compile().as_text() or ""
    assert {(one.axes, one.sites) for one in census(text, dict(mesh.shape))} == {("tensor", 1), ("fsdp", 1)}
