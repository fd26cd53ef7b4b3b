"""Aggregation of a loss at each token."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.core import aggregation, masks

Inputs = dict[str, Any]
Outputs = dict[str, Any]


def _rows(rows: str | float, mask: jax.Array) -> Any:
    named = {"nonempty": aggregation.rows_with_tokens(mask), "all": mask.shape[0], "none": 1}
    return named[rows] if isinstance(rows, str) else rows


def _weights(
    mask: jax.Array,
    *,
    mode: str,
    denominator: str | float = "mask",
    rows: str | float = "nonempty",
    norm: float = 1.0,
    when_empty: str = "zero",
) -> jax.Array:
    assert when_empty == "zero"
    if mode == "token_mean":
        return aggregation.token_mean(mask, tokens=None if isinstance(denominator, str) else denominator)
    if mode == "token_sum_norm":
        return aggregation.constant(mask, tokens_per_row=norm, rows=_rows(rows, mask))
    per_row = {"seq_mean_token_sum": aggregation.sequence_sum, "seq_mean_token_mean": aggregation.sequence_mean}[mode]
    return per_row(mask, rows=_rows(rows, mask))


def aggregate(
    token_loss: jax.Array,
    inputs: Inputs,
    agg: dict[str, Any],
) -> jax.Array:
    agg = dict(agg)
    scale = agg.pop("scale", 1.0)
    weights = _weights(inputs["mask"], **{k: v for k, v in agg.items() if k != "row_weights"})
    if agg.get("row_weights"):
        weights = weights * inputs["row_weights"][:, None]
    return scale * jnp.sum(weights * masks.keep(token_loss, inputs["mask"]))


def agg(inputs: Inputs, *, agg: dict[str, Any]) -> Outputs:
    return {"loss": aggregate(inputs["loss_mat"], inputs, agg)}
