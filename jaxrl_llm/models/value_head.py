"""A critic: a decoder with a linear value head in place of the output head.

It is a network of its own, of the policy's architecture or another. On a trunk that it shared with the policy, its
gradient would move the policy, and a warm-up in which the critic alone learns would not be possible.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.models import decoder
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.types import Array, Critic, Params


@functools.cache
def functions(config: ModelConfig, *, dtype: Any = jnp.float32, remat: str = "none", attention: str = "auto") -> Critic:
    """The critic on decoders of ``config``; equal arguments give the same object (jit caches on it).

    Parameters are {"trunk": a decoder's without its output head, "value_head": {"kernel": [D], "bias": []}}. A token
    that the trunk's embedding does not have, which a policy with a longer, padded table can sample, reads its last row.

    Args:
      config: of the trunk.
      dtype, remat, attention: as of :func:`jaxrl_llm.models.decoder.functions`.
    """
    headless = dataclasses.replace(config, tied=True)
    trunk = decoder.functions(headless, dtype=dtype, remat=remat, attention=attention)

    def init(params: Params) -> Params:
        """The decoder's weights, where they lie, and a head of zeros: at first every value is 0."""
        of_trunk = {name: tree for name, tree in params.items() if name != "head"}
        scale = params["final_norm"]["scale"]  # [D], whole on every device: so is the head
        head = {"kernel": jnp.zeros_like(scale, jnp.float32), "bias": jnp.zeros_like(scale[0], jnp.float32)}
        return {"trunk": jax.tree.map(lambda x: x.astype(jnp.float32), of_trunk), "value_head": head}

    def apply(params: Params, *rows: Any) -> Array:
        return trunk.apply(params["trunk"], *rows)

    def value(params: Params, hidden: Array) -> Array:
        head = params["value_head"]
        return jnp.einsum("...d,d->...", hidden.astype(jnp.float32), head["kernel"]) + head["bias"]

    return Critic(init, apply, value)
