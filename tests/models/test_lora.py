"""Adapters: which matrices they mean, and that the products beside the weights are those of the merged weights."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_llm.models import decoder, lora, weights
from jaxrl_llm.models.config import ModelConfig, from_hf
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.sharding import MeshSettings, make_mesh, shard_rows
from tests.models import tiny

ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
GPT2 = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
SETTINGS = LoraSettings(rank=4, alpha=6.0, targets="all-linear", rank_stabilized=False)


def config_of(case: str) -> ModelConfig:
    return from_hf(tiny.hf_config(case), case)


def adapter_of(config: ModelConfig, settings: LoraSettings = SETTINGS, size: float = 0.3) -> dict[str, Any]:
    """Both factors random, and as large as ``size``."""
    rng = np.random.default_rng(0)
    shapes = lora.abstract(config, settings)
    return jax.tree.map(lambda x: (size * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def base_of(config: ModelConfig) -> dict[str, Any]:
    """Weights from numpy, which compiles nothing: matrices as they are initialized, norms near 1."""
    rng = np.random.default_rng(2)

    def make(weight: weights.Weight) -> np.ndarray:
        noise = rng.standard_normal(weight.shape).astype(np.float32)
        if weight.path[-1] == "kernel":
            return noise * np.float32(np.prod(weight.layer_shape[: weight.input_axes]) ** -0.5)
        return (not config.norm_offset) + 0.1 * noise if weight.of_norm else 0.1 * noise

    return weights.tree(config, make)


def rows() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens, positions and segments of right-padded rows."""
    tokens = jnp.asarray(tiny.tokens())
    positions = jnp.broadcast_to(jnp.arange(tiny.WIDTH), tokens.shape)
    return tokens, positions, (positions < tiny.LENGTHS[:, None]).astype(jnp.int32)


def weighed(hidden: jax.Array, segments: jax.Array) -> jax.Array:
    """A number that every hidden state of a real token moves."""
    noise = np.random.default_rng(1).standard_normal(hidden.shape).astype(np.float32)
    return jnp.sum(hidden.astype(jnp.float32) * noise * (segments != 0)[..., None])


def assert_close(found: Any, expected: Any, share: float) -> None:
    """Every array within a share of its largest number."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=share * np.abs(other).max())


@pytest.mark.parametrize(
    ("case", "targets", "expected"),
    [
        ("llama", "all-linear", ATTENTION + MLP),
        ("qwen3", r".*\.(q|v)_proj", ["self_attn.q_proj", "self_attn.v_proj"]),
        ("qwen3", r"mlp\.down_proj", ["mlp.down_proj"]),
        ("gpt2", "all-linear", GPT2),
        ("gpt2", r"attn\..*", ["attn.c_attn", "attn.c_proj"]),
        ("qwen3_moe", "all-linear", ATTENTION),
        ("gemma3", r"self_attn\.[qkvo]_proj", ATTENTION),
    ],
)
def test_targets_mean_the_matrices_of_a_layer_by_their_names_in_transformers(case, targets, expected):
    table = lora.adapter_table(config_of(case), dataclasses.replace(SETTINGS, targets=targets))
    assert [adapter.target for adapter in table] == expected


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"targets": "q_proj"},
            r"lora\.targets = 'q_proj' means no matrix: .* of self_attn\.q_proj, .*mlp\.down_proj$",
        ),
        ({"targets": "lm_head"}, r"lora\.targets = 'lm_head' means no matrix"),
        ({"targets": "self_attn.(q"}, r"lora\.targets = 'self_attn\.\(q': missing \)"),
        ({"targets": ""}, r"lora\.targets = '' means no matrix"),
        ({"rank": 0}, r"lora\.rank = 0: expected a number above 0"),
        ({"rank": 2.5}, r"lora\.rank = 2\.5: expected a whole number"),
        ({"alpha": None}, r"lora\.alpha = None"),
        ({"alpha": -1.0}, r"lora\.alpha = -1\.0: expected a number above 0"),
        ({"rank_stabilized": None}, r"lora\.rank_stabilized = None"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(changes, told):
    with pytest.raises(ValueError, match=told):
        decoder.functions(config_of("llama"), lora=dataclasses.replace(SETTINGS, **changes))


@pytest.mark.parametrize("targets", [".*", r"mlp\.gate", r"mlp\.experts\.0\.up_proj"])
def test_experts_and_their_router_have_no_adapter(targets):
    with pytest.raises(ValueError, match="experts and their router have no adapter"):
        lora.adapter_table(config_of("qwen3_moe"), dataclasses.replace(SETTINGS, targets=targets))


def test_the_product_is_scaled_by_the_rank_or_by_its_root():
    settings = LoraSettings(rank=16, alpha=8.0, targets="all-linear", rank_stabilized=False)
    assert settings.scale == 0.5
    assert dataclasses.replace(settings, rank_stabilized=True).scale == 2.0


def test_a_new_adapter_has_the_bounds_of_peft_and_changes_nothing():
    config = config_of("gpt2")
    adapter, base = lora.init(config, SETTINGS, jax.random.key(3)), base_of(config)
    assert jax.tree.map(jnp.shape, adapter) == jax.tree.map(jnp.shape, lora.abstract(config, SETTINGS))
    assert lora.count(config, SETTINGS) == sum(x.size for x in jax.tree.leaves(adapter))
    for of in lora.adapter_table(config, SETTINGS):
        a, b = (np.asarray(lora.leaf(adapter, of, factor)) for factor in ("a", "b"))
        assert not b.any()
        assert 0.98 / np.sqrt(of.inputs) < np.abs(a).max() <= 1 / np.sqrt(of.inputs)
        assert abs(a.mean()) < 0.1 * np.abs(a).max()  # of at least 128 numbers: five standard deviations are 0.26 of it
    apply = jax.jit(decoder.functions(config, lora=SETTINGS).apply)
    np.testing.assert_array_equal(apply(base | {"lora": adapter}, *rows()), apply(base, *rows()))


# Biases, no gate, query, key and value as one; rotations, with some of the matrices. More families in test_peft.py.
FAMILIES = [("gpt2", "all-linear"), ("qwen2", r".*\.([vo]|down)_proj")]


@pytest.mark.parametrize(("case", "targets"), FAMILIES)
def test_the_thin_products_give_what_the_merged_weights_give_forward_and_backward(case, targets):
    config, settings = config_of(case), dataclasses.replace(SETTINGS, targets=targets)
    beside, plain = decoder.functions(config, lora=settings), decoder.functions(config)
    base, adapter, (*of_rows, segments) = base_of(config), adapter_of(config, settings), rows()

    def thin(adapter: Any) -> jax.Array:
        return weighed(beside.apply(base | {"lora": adapter}, *of_rows, segments), segments)

    def merged(adapter: Any) -> jax.Array:
        params = lora.merge(config, settings, base | {"lora": adapter})
        return weighed(plain.apply(params, *of_rows, segments), segments)

    both = jax.jit(lambda adapter: (jax.value_and_grad(thin)(adapter), jax.value_and_grad(merged)(adapter)))
    (found, gradient), (expected, expected_gradient) = both(adapter)
    # Sums of a few thousand float32 products in another order, through a few layers.
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert_close(gradient, expected_gradient, 1e-4)


def test_merging_adds_the_product_in_float32_and_keeps_the_dtype_of_the_weight():
    config, adapter = config_of("llama"), adapter_of(config_of("llama"))
    base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base_of(config))
    merged = jax.jit(lambda policy: lora.merge(config, SETTINGS, policy))(base | {"lora": adapter})
    assert "lora" not in merged
    table = {of.path: of for of in lora.adapter_table(config, SETTINGS)}
    for weight in weights.weight_table(config):
        found, expected = np.asarray(weights.leaf(merged, weight)), weights.leaf(base, weight)
        if of := table.get(weight.path[:-1]):
            a, b = (lora.leaf(adapter, of, factor) for factor in ("a", "b"))
            product = np.stack([np.tensordot(one, other, 1) for one, other in zip(a, b, strict=True)])
            expected = (expected.astype(np.float32) + 1.5 * product).astype(jnp.bfloat16)
        assert found.dtype == jnp.bfloat16
        # Float32 sums in another order may fall to either side of a rounding: one step, 2^-7 at most.
        np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=2**-7)


def test_a_gradient_of_the_adapter_alone_computes_none_of_the_weights():
    """Of the three products a matrix costs, forward, backward and its own gradient, the last is a third."""
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 16}
    config = from_hf(tiny.hf_config("llama", **shape), "test")
    settings = dataclasses.replace(SETTINGS, rank=1)
    model, abstract = decoder.functions(config, lora=settings), weights.abstract_params(config)
    adapter = lora.abstract(config, settings)
    tokens = jax.ShapeDtypeStruct((16, 16), jnp.int32)

    def flops(argument: int) -> float:
        def loss(adapter: Any, base: Any, *of_rows: jax.Array) -> jax.Array:
            return jnp.sum(model.apply(base | {"lora": adapter}, *of_rows) ** 2)

        compiled = jax.jit(jax.grad(loss, argument)).lower(adapter, abstract, tokens, tokens, tokens).compile()
        cost: Any = compiled.cost_analysis()
        return cost["flops"]

    assert 0.6 < flops(0) / flops(1) < 0.75


def test_in_bfloat16_the_thin_products_lose_no_more_than_merged_weights_do():
    config = config_of("qwen3")
    base, adapter = base_of(config), adapter_of(config, size=0.1)  # products of a sixth of the weights
    policy, real = base | {"lora": adapter}, tiny.LENGTHS[:, None] > np.arange(tiny.WIDTH)
    exact, half = (decoder.functions(config, dtype=dtype, lora=SETTINGS) for dtype in (jnp.float32, jnp.bfloat16))

    @jax.jit
    def run(base: Any, policy: Any) -> list[jax.Array]:
        merged = lora.merge(config, SETTINGS, policy)
        given = [(exact, policy), (half, policy), (half, merged), (exact, base)]
        return [model.apply(params, *rows()).astype(jnp.float32) for model, params in given]

    expected, *found = (np.asarray(x)[real] for x in run(base, policy))
    beside, merged, without = (np.abs(x - expected).mean() for x in found)
    assert beside < 1.2 * merged  # two more roundings, of smaller numbers
    assert beside < 0.1 * without


MESHED = from_hf(tiny.hf_config("qwen3", num_attention_heads=8, num_key_value_heads=2), "test")


def gradient_of_adapter(base: Any, adapter: Any, of_rows: Any, remat: str) -> Any:
    model = decoder.functions(MESHED, lora=SETTINGS, remat=remat)

    def loss(adapter: Any, base: Any, of_rows: Any) -> tuple[jax.Array, jax.Array]:
        hidden = model.apply(base | {"lora": adapter}, *of_rows)
        return weighed(hidden, of_rows[2]), hidden * (of_rows[2] != 0)[..., None]

    gradient, hidden = jax.jit(jax.grad(loss, has_aux=True))(adapter, base, of_rows)
    return jax.device_get((gradient, hidden))


def eight_rows() -> tuple[np.ndarray, ...]:
    return tuple(np.resize(np.asarray(x), (8, tiny.WIDTH)) for x in rows())


@functools.cache
def on_one_device() -> Any:
    return gradient_of_adapter(base_of(MESHED), adapter_of(MESHED), eight_rows(), "none")


@pytest.mark.parametrize(("shape", "remat"), [((2, 2, 2, 1), "mlp"), ((1, 4, 1, 2), "dots")], ids=str)
def test_no_mesh_and_nothing_that_is_recomputed_changes_the_gradients_of_the_adapter(shape, remat):
    mesh = make_mesh(MeshSettings(*shape))
    places = lora.shardings(MESHED, SETTINGS, mesh)
    with jax.set_mesh(mesh):
        base = jax.device_put(base_of(MESHED), weights.shardings(MESHED, mesh))
        adapter = jax.device_put(adapter_of(MESHED), places)
        found = gradient_of_adapter(base, adapter, shard_rows(eight_rows(), mesh), remat)
    # Sums over devices come in another order: float32 gives a few 1e-6 of the largest number of an array.
    assert_close(found, on_one_device(), 1e-5)


def test_factors_lie_as_the_matrix_does_and_begin_with_the_same_numbers_on_any_mesh():
    mesh = make_mesh(MeshSettings(2, 2, 2, 1))
    attention = lora.shardings(MESHED, SETTINGS, mesh)["layers"]["attention"]
    assert attention["query"]["a"].spec == PartitionSpec(None, "fsdp")
    assert attention["query"]["b"].spec == PartitionSpec(None, None, "tensor")
    assert attention["output"]["a"].spec == PartitionSpec(None, "tensor")
    assert attention["output"]["b"].spec == PartitionSpec(None, None, "fsdp")
    placed = lora.init(MESHED, SETTINGS, jax.random.key(1), mesh)
    assert placed["layers"]["attention"]["query"]["a"].sharding == attention["query"]["a"]
    jax.tree.map(np.testing.assert_array_equal, placed, lora.init(MESHED, SETTINGS, jax.random.key(1)))


def test_an_adapter_that_the_settings_do_not_describe_is_refused():
    config = config_of("llama")
    policy = weights.abstract_params(config) | {"lora": lora.abstract(config, SETTINGS)}
    with pytest.raises(ValueError, match="the model was made without its settings"):
        jax.eval_shape(decoder.functions(config).apply, policy, *rows())
    other = dataclasses.replace(SETTINGS, rank=3)
    with pytest.raises(ValueError, match="the adapter has factors"):
        lora.merge(config, other, policy)
