"""The kernels of TPU and GPU against the products that XLA computes; and where each of them may be chosen."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from jaxrl_llm.models import attend, decoder, kernels
from jaxrl_llm.models.attention import by_lanes
from jaxrl_llm.planning import compiler
from jaxrl_llm.sharding import MESH_AXES, MeshSettings, make_mesh
from tests.models.test_attention import TOLERANCE, inputs, output_and_gradient, row

# Three segments in a lane; blocks of a lane that are full, partly seen and padding; a prompt that nobody sees.
OF_SPLASH = ["lanes that share a prompt", "a lane of several segments, with padding between and behind"]
OF_CUDNN = [*OF_SPLASH, "branches that share their trunk", "a prompt of padding"]


# Keys of the prompt that a token of a lane does not see, of the prompt and of its own segment, and of its own alone.
WINDOWED = ["lanes that share a prompt", "a lane of several segments, with padding between and behind"]
WINDOW = 4


def span_of(segments, prompt, lanes):
    """Positions as rows have them, of a segment behind those of the prompt; and the first that each token sees."""
    positions, lane = np.zeros_like(segments), (segments.shape[1] - prompt) // lanes
    for b, of_row in enumerate(segments):
        length = np.count_nonzero(of_row[:prompt])
        positions[b, :length] = np.arange(length)
        for start in range(prompt, len(of_row), lane):
            part = of_row[start : start + lane]
            for segment in set(part) - {0}:
                own = part == segment
                positions[b, start : start + lane][own] = length + np.arange(np.count_nonzero(own))
    return jnp.asarray(positions), jnp.asarray(positions - WINDOW + 1)


def assert_equal(function, case, **further):
    """Forward and backward, at the tokens that are no padding; ``further`` goes to both."""
    prompt, lanes, segments = row(case)
    arguments = inputs(segments)

    def expected(query, key, value):
        return by_lanes(query, key, value, jnp.asarray(segments), prompt=prompt, lanes=lanes, **further)

    def found(query, key, value):
        return function(query, key, value, jnp.asarray(segments), prompt=prompt, lanes=lanes, **further)

    (one, gradient), (other, wanted) = (output_and_gradient(f, arguments, segments) for f in (found, expected))
    np.testing.assert_allclose(one[segments != 0], other[segments != 0], rtol=0, atol=TOLERANCE)
    assert np.isfinite(one).all()
    for x, y in zip(gradient, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", OF_SPLASH)
def test_the_kernel_of_tpu_is_attention_by_lanes(case):
    assert_equal(functools.partial(kernels.splash, segments_per_lane=3, interpret=True), case)


@pytest.mark.parametrize("case", OF_CUDNN)
def test_the_call_of_the_kernel_of_gpu_is_attention_by_lanes(case):
    assert_equal(functools.partial(kernels.cudnn, implementation="xla"), case)


CALLS_OF_CUDNN = ("__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward")  # the mask is a bias


@pytest.mark.parametrize("case", OF_CUDNN)
def test_jax_takes_the_call_of_the_kernel_of_gpu_and_makes_of_it_those_of_cudnn_forward_and_backward(case, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as checks  # of library and chip, which are not here

    monkeypatch.setattr(checks, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(checks, "check_compute_capability", lambda capability: True)
    prompt, lanes, segments = row(case)
    arguments = [x.astype(jnp.bfloat16) for x in inputs(segments)]

    def loss(query, key, value):
        out = kernels.cudnn(query, key, value, jnp.asarray(segments), prompt=prompt, lanes=lanes)
        return out.astype(jnp.float32).sum()

    permitted = [jax.export.DisabledSafetyCheck.custom_call(name) for name in CALLS_OF_CUDNN]
    differentiated = jax.jit(jax.grad(loss, (0, 1, 2)))
    program = jax.export.export(differentiated, platforms=["cuda"], disabled_checks=permitted)(*arguments)
    assert set(re.findall(r"__cudnn\$\w+", program.mlir_module())) == set(CALLS_OF_CUDNN)


@pytest.mark.parametrize("case", WINDOWED)
def test_windows_and_caps_of_the_kernel_of_tpu_are_those_of_attention_by_lanes(case):
    prompt, lanes, segments = row(case)
    run = functools.partial(kernels.splash, segments_per_lane=3, interpret=True)
    assert_equal(run, case, span=span_of(segments, prompt, lanes), cap=1.5)


@pytest.mark.parametrize("case", [*WINDOWED, "branches that share their trunk"])
def test_windows_of_the_call_of_the_kernel_of_gpu_are_those_of_attention_by_lanes(case):
    prompt, lanes, segments = row(case)
    run = functools.partial(kernels.cudnn, implementation="xla")
    assert_equal(run, case, span=span_of(segments, prompt, lanes))


def test_a_segment_that_the_kernel_of_tpu_was_not_told_of_gives_nan():
    prompt, lanes, segments = row("lanes that share a prompt")  # up to segment 3, and beside it a row of segment 1
    run = functools.partial(kernels.splash, prompt=prompt, lanes=lanes, segments_per_lane=2, interpret=True)
    first, second = jax.jit(run)(*inputs(segments), segments)
    assert np.isnan(first).all() and np.isfinite(second).all()


@pytest.mark.parametrize("shape", [(2, 1, 2, 1), (1, 1, 3, 2)], ids=str)
def test_a_kernel_computes_on_each_device_of_a_mesh_its_rows_and_heads(shape):
    prompt, lanes, segments = row("lanes that share a prompt")
    query, key, value = inputs(segments)
    kernel = functools.partial(kernels.cudnn, prompt=prompt, lanes=lanes, implementation="xla")
    with jax.set_mesh(make_mesh(MeshSettings(*shape), jax.devices()[: int(np.prod(shape))])):
        mesh = jax.sharding.get_abstract_mesh()
        found = jax.jit(functools.partial(attend.on_mesh, kernel, mesh))(query, key, value, segments)
    expected = by_lanes(query, key, value, jnp.asarray(segments), prompt=prompt, lanes=lanes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


CHOICES = [
    ("tpu", "float32", 64, "splash"),
    ("tpu", "bfloat16", 128, "splash"),
    ("tpu", "bfloat16", 80, "xla"),
    ("gpu", "bfloat16", 64, "cudnn"),
    ("gpu", "float32", 64, "xla"),
    ("gpu", "bfloat16", 256, "xla"),
    ("cpu", "bfloat16", 64, "xla"),
]


@pytest.mark.parametrize(("platform", "dtype", "head_size", "expected"), CHOICES)
def test_auto_is_the_kernel_of_the_platform_where_it_can_run(platform, dtype, head_size, expected):
    device = AbstractDevice(device_kind="a device", num_cores=1, platform=platform)
    with jax.sharding.use_abstract_mesh(AbstractMesh((1, 1, 1, 1), MESH_AXES, abstract_device=device)):
        assert attend.implementation("auto", jnp.dtype(dtype), head_size) == expected
        assert attend.implementation(expected, jnp.dtype(dtype), head_size) == expected
        assert attend.implementation("xla", jnp.dtype(dtype), head_size) == "xla"
        for other in {"splash", "cudnn"} - {expected}:
            with pytest.raises(ValueError, match=rf"model.attention = '{other}' in {dtype} on {platform}, with heads"):
                attend.implementation(other, jnp.dtype(dtype), head_size)


def test_a_cap_of_scores_is_for_the_kernel_of_tpu_and_products_alone():
    """On no platform a kernel that would leave it out."""
    choose = functools.partial(attend.implementation, dtype=jnp.dtype("bfloat16"), head_size=64, capped=True)
    assert choose("auto", platform="tpu") == choose("splash", platform="tpu") == "splash"
    assert choose("auto", platform="gpu") == "xla"
    with pytest.raises(ValueError, match="'cudnn' in bfloat16 on gpu, with heads of 64, and a cap of scores: expected"):
        choose("cudnn", platform="gpu")


def test_columns_that_the_kernel_of_tpu_cannot_be_told_of_are_refused():
    tokens = jax.ShapeDtypeStruct((1, 1 << 16), jnp.int32)
    heads = jax.ShapeDtypeStruct((1, 1 << 16, 1, 1, 64), jnp.float32)
    key = jax.ShapeDtypeStruct((1, 1 << 16, 1, 64), jnp.float32)

    def run(query, key, value, segments, *span):
        return kernels.splash(query, key, value, segments, prompt=64, span=span)

    with pytest.raises(ValueError, match=r"over 65664 columns.*65536 at most; expected shorter lanes, or model\.att"):
        jax.eval_shape(run, heads, key, key, tokens, tokens, tokens)


def test_a_kernel_that_cannot_run_here_is_refused_when_a_program_is_traced():
    from tests.policies import CONFIG

    model = decoder.functions(CONFIG, attention="cudnn")
    tokens = jnp.zeros((1, 8), jnp.int32)
    with pytest.raises(ValueError, match=r"model\.attention = 'cudnn' in float32 on cpu.*expected a GPU"):
        jax.eval_shape(lambda key: model.apply(model.init(key), tokens, tokens, tokens), jax.random.key(0))
    with pytest.raises(ValueError, match=r"model\.attention = 'flash': expected auto or one of splash, cudnn, xla"):
        attend.implementation("flash", jnp.dtype("float32"), 64)


COMPILE = """
    import dataclasses
    import jax, jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec
    from jaxrl_llm.models import decoder
    from jaxrl_llm.models.attend import attend
    from jaxrl_llm.planning.compiler import topology_mesh
    from jaxrl_llm.planning.hardware import parse_topology
    from jaxrl_llm.sharding import MeshSettings
    from tests.models.test_windows import CONFIG

    mesh = topology_mesh(parse_topology("v5e:2x2"), MeshSettings(1, 1, 2, 2))
    shape = dict(prompt=20, lanes=2, segments_per_lane=2)
    deep = dataclasses.replace(CONFIG, layers=9, windowed=CONFIG.windowed * 3, unrotated=(), head_size=64)
    model = decoder.functions(deep, dtype=jnp.bfloat16)
    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    query, key = array((2, 400, 2, 2, 64), jnp.bfloat16), array((2, 400, 2, 64), jnp.bfloat16)
    tokens = array((2, 400), jnp.int32)
    params = jax.tree.map(lambda x: array(x.shape, x.dtype), jax.eval_shape(model.init, jax.random.key(0)))
    def plain(heads, segments):
        return attend(*heads, segments, **shape).astype(jnp.float32).sum()
    def windowed(params, *rows):
        return model.apply(params, *rows, **shape).astype(jnp.float32).sum()
    with jax.set_mesh(mesh):
        for loss, *arguments in [(plain, (query, key, key), tokens), (windowed, params, tokens, tokens, tokens)]:
            lowered = jax.jit(jax.grad(loss)).trace(*arguments).lower(lowering_platforms=("tpu",))
            print(loss.__name__, lowered.compile().as_text().count('custom_call_target="tpu_custom_call"'))
"""


@pytest.mark.skipif(not compiler.installed(), reason='needs libtpu: pip install "jaxrl-llm[tpu-plan]"')
def test_the_kernel_of_tpu_compiles_for_chips_that_are_not_there():
    """One kernel forward and two backward, of prompts and of lanes; and as many for all layers of a model in which
    windowed ones with a cap and others take turns. In a process of its own: libtpu stays loaded.
    """
    command = [sys.executable, "-c", textwrap.dedent(COMPILE)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "plain 6\nwindowed 6\n" in done.stdout
