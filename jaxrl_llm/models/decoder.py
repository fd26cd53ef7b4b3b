"""One decoder for every family: embedding, a scan over layers with stacked parameters, final norm, output head.

Switches of :class:`~jaxrl_llm.models.config.ModelConfig` make the families; there is no copy per family.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrl_llm.models import lora as adapters
from jaxrl_llm.models import prepared as prepared_layout
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.attention import soft_cap
from jaxrl_llm.models.experts import GROUPED
from jaxrl_llm.models.gather import gather_layer, keep_unless_gathered
from jaxrl_llm.models.kinds import layer_kinds, stacked_kinds
from jaxrl_llm.models.layers import PROJECTED, Layer, norm
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.models.projection import KERNEL_INIT, transposed_product
from jaxrl_llm.models.rotary import rotary_angles
from jaxrl_llm.sharding import column_devices, constrain_tokens
from jaxrl_llm.types import Array, KVCache, Model, Params, Routing

# What the backward pass recomputes of a layer. "dots" keeps the results of matrix products without a batch axis, "mlp"
# those of attention's projections alone.
REMAT_POLICIES = {
    "none": None,
    "layer": jax.checkpoint_policies.nothing_saveable,
    "mlp": jax.checkpoint_policies.save_only_these_names(PROJECTED),
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(GROUPED),
    ),
}


# A scan stores what the backward pass needs in stacked arrays, a copy a layer; a shallow decoder is unrolled instead.
UNROLLED_LAYERS = 8


class Embedding(nn.Module):
    """The table [V, D], or that of positions, as a module so that its path is `embed/embedding`."""

    config: ModelConfig
    entries: int

    @nn.compact
    def __call__(self) -> Array:
        shape = (self.entries, self.config.width)
        return self.param("embedding", nn.initializers.normal(0.02), shape, jnp.float32)


def _embed(config: ModelConfig, of_tokens: Array, of_positions: Array | None) -> Array:
    """What the first layer receives, from rows of the two tables."""
    if config.scaled_embedding:
        of_tokens = of_tokens * jnp.asarray(config.width**0.5, of_tokens.dtype)  # rounded, as the model was trained
    return of_tokens if of_positions is None else of_tokens + of_positions


def embedded(config: ModelConfig, prepared: Params, tokens: Array, positions: Array) -> Array:
    """What the first layer receives, from the sampling layout of the parameters."""
    of_positions = prepared["positions"][positions] if config.learned_positions else None
    return _embed(config, prepared["embedding"][tokens], of_positions)


class Decoder(nn.Module):
    config: ModelConfig
    dtype: jnp.dtype
    remat: str
    attention: str
    lora: LoraSettings | None = None

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        positions: Array,
        segments: Array,
        prompt: int = 0,
        lanes: int = 1,
        segments_per_lane: int = 1,
        counted: Array | None = None,
    ) -> Array | tuple[Array, Routing | None]:
        """Hidden states [B, S, D] after the final norm, with the routing if ``counted``; see :class:`types.Model`."""
        c = self.config
        x, of_positions = Embedding(c, c.vocab_size, name="embed")().astype(self.dtype)[tokens], None
        if c.learned_positions:
            table = Embedding(c, c.max_positions, name="positions")()
            of_positions = table.astype(self.dtype)[positions]
        x, of_rows = constrain_tokens(_embed(c, x, of_positions)), None if c.window is None else positions
        if column_devices(jax.sharding.get_abstract_mesh()) == 1:
            x, positions = x.reshape(-1, c.width), positions.ravel()
        layer, policy, mesh = Layer, REMAT_POLICIES[self.remat], jax.sharding.get_abstract_mesh()
        if not mesh.empty and mesh.shape["fsdp"] > 1 and not self.is_initializing():
            gather = functools.partial(gather_layer, c, self.lora, self.dtype, mesh)
            layer = nn.map_variables(Layer, ["params", adapters.KEY], gather)
            policy = policy or keep_unless_gathered
        if policy is not None:
            layer = nn.remat(layer, policy=policy, prevent_cse=False)
        layers = nn.scan(
            layer,
            variable_axes={"params": 0, adapters.KEY: 0},
            split_rngs={"params": True},
            length=c.layers,
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0, nn.broadcast),  # type: ignore[arg-type]
            unroll=c.layers if c.layers <= UNROLLED_LAYERS else 1,
        )
        run = layers(c, self.dtype, self.attention, prompt, lanes, segments_per_lane, name="layers")
        x, routing = run(x, rotary_angles(c, positions), segments, of_rows, stacked_kinds(c), counted)
        if not c.tied:
            self.param("head", _head_init, (c.width, c.vocab_size))
        hidden = norm(c, "final_norm")(x).reshape(*tokens.shape, c.width)
        return hidden if counted is None else (hidden, routing)


def _head_init(key: Array, shape: tuple[int, int]) -> Params:
    return {"kernel": KERNEL_INIT(key, shape, jnp.float32)}


def _length_segments(width: int, length: Array) -> tuple[Array, Array]:
    """positions and segments [P, width] of right-padded rows."""
    columns = jnp.broadcast_to(jnp.arange(width), (length.shape[0], width))
    return columns, (columns < length[:, None]).astype(jnp.int32)


@functools.cache
def functions(
    config: ModelConfig,
    *,
    dtype: Any = jnp.float32,
    remat: str = "none",
    attention: str = "auto",
    lora: LoraSettings | None = None,
    transposed: bool = False,
) -> Model:
    """The decoder as pure functions of its parameters; equal arguments give the same object (jit caches on it).

    Args:
      config: the architecture.
      dtype: of the matrix products and the residual stream; norms, softmax and logits are float32.
      remat: a key of REMAT_POLICIES.
      attention: of ``apply``, see :func:`jaxrl_llm.models.attend.implementation`, which judges it when traced.
      lora: of the adapter that parameters may hold under "lora"; ``init`` makes none, ``apply`` computes it beside the
        weights, and for ``prepare`` see :func:`~jaxrl_llm.models.prepared.kept_apart`. None, or with rank None: they
        hold none.
      transposed: of the sampling layout, see :func:`~jaxrl_llm.models.prepared.transposes`.

    Raises:
      ValueError: an unknown remat policy, or an adapter that the architecture cannot have.
    """
    lora = None if lora is None or lora.rank is None else lora
    if lora is not None:
        adapters.adapter_table(config, lora)  # judges it
    if remat not in REMAT_POLICIES:
        raise ValueError(f"model.remat = {remat!r}: expected one of {', '.join(REMAT_POLICIES)}")
    dtype = jnp.dtype(dtype)
    decoder = Decoder(config, dtype, remat, attention, lora)
    layer = Layer(config, dtype)
    kinds = layer_kinds(config)
    final_norm = norm(config)

    def split(params: Params) -> tuple[Params, Params | None]:
        base, adapter = adapters.split(params)
        if adapter is not None and lora is None:
            raise ValueError(f'params["{adapters.KEY}"] is an adapter, but the model was made without its settings')
        return base, adapter

    def variables(params: Params) -> dict[str, Params]:
        base, adapter = split(params)
        if lora is None or adapter is None:
            return {"params": base}
        return {"params": base, adapters.KEY: adapters.scaled(lora, adapter)}

    def init(key: Array) -> Params:
        probe = jnp.zeros((1, column_devices(jax.sharding.get_abstract_mesh())), jnp.int32)
        return Decoder(config, dtype, remat, "xla").init(key, probe, probe, probe)["params"]  # type: ignore[return-value]

    def apply(
        params: Params,
        tokens: Array,
        positions: Array,
        segments: Array,
        prompt: int = 0,
        lanes: int = 1,
        segments_per_lane: int = 1,
    ) -> Array:
        rows = tokens, positions, segments, prompt, lanes, segments_per_lane
        return decoder.apply(variables(params), *rows)  # type: ignore[return-value]

    def apply_routed(params: Params, counted: Array, *rows: Any) -> tuple[Array, Routing]:
        return decoder.apply(variables(params), *rows, counted=counted)  # type: ignore[return-value]

    def head(params: Params) -> Params:
        return {"embed": params["embed"]} if config.tied else {"head": params["head"]}

    def head_axes() -> dict[str, dict[str, int]]:
        return {"embed": {"embedding": 0}} if config.tied else {"head": {"kernel": 1}}

    def unembed(params: Params, hidden: Array) -> Array:
        kernel, form = (params["embed"]["embedding"], "vd") if config.tied else (params["head"]["kernel"], "dv")
        kernel = kernel.astype(hidden.dtype)
        logits = jnp.einsum(f"...d,{form}->...v", hidden, kernel, preferred_element_type=jnp.float32)
        return soft_cap(logits, config.logit_cap)

    def prepare(params: Params) -> Params:
        base, adapter = split(params)
        return prepared_layout.prepare(config, lora, dtype, base, adapter, transposed=transposed)

    def prefill(prepared: Params, tokens: Array, length: Array) -> tuple[Array, KVCache]:
        positions, segments = _length_segments(tokens.shape[1], length)
        x, angles = (
            embedded(config, prepared, tokens.ravel(), positions.ravel()),
            rotary_angles(config, positions.ravel()),
        )
        caches = []
        for i, kind in enumerate(kinds):
            own = prepared_layout.variables(prepared, i)
            x, cache = layer.apply(own, x, angles, segments, positions, kind, method="prefill")
            caches.append(cache)
        last = x[jnp.arange(len(length)) * tokens.shape[1] + length - 1]
        keys, values = zip(*caches, strict=True)
        return final_norm.apply({"params": prepared["final_norm"]}, last), KVCache(keys, values)  # type: ignore[return-value]

    def decode(
        prepared: Params,
        token: Array,
        position: Array,
        prompt: KVCache,
        prompt_length: Array,
        cache: KVCache,
        column: Array,
    ) -> tuple[Array, KVCache]:
        x, angles = embedded(config, prepared, token, position), rotary_angles(config, position)
        columns = jnp.arange(prompt.keys[0].shape[-1])
        prompt_mask = columns < prompt_length[:, None]
        near = prompt_mask  # what layers with a window see of it
        if config.window is not None:
            near = jnp.repeat(prompt_mask, len(token) // len(prompt_length), axis=0)
            near &= position[:, None] - columns < config.window
        keys, values = [], []
        for i in range(config.layers):
            of_prompt, own = (prompt.keys[i], prompt.values[i]), (cache.keys[i], cache.values[i])
            mask = prompt_mask if kinds[i].window is None else near
            x, (key, value) = layer.apply(
                prepared_layout.variables(prepared, i),
                x,
                angles,
                of_prompt,
                own,
                mask,
                column,
                kind=kinds[i],
                method="decode",
            )
            keys.append(key)
            values.append(value)
        hidden = final_norm.apply({"params": prepared["final_norm"]}, x)
        return hidden, KVCache(tuple(keys), tuple(values))  # type: ignore[return-value]

    def unembed_prepared(prepared: Params, hidden: Array) -> Array:
        if transposed:
            logits = transposed_product(hidden, prepared["embedding" if config.tied else "head"])
        else:
            logits = jnp.einsum("...d,dv->...v", hidden, prepared["head"], preferred_element_type=jnp.float32)
        return soft_cap(logits, config.logit_cap)

    def empty_cache(rows: int, width: int) -> KVCache:
        key = jnp.zeros((rows, config.kv_heads, config.head_size, width), dtype)
        value = jnp.zeros((rows, config.kv_heads, width, config.head_size), dtype)
        return KVCache((key,) * config.layers, (value,) * config.layers)

    routed = apply_routed if config.experts else None
    return Model(init, apply, head, head_axes, unembed, prepare, prefill, decode, unembed_prepared, empty_cache, routed)
