"""Advantages, from one reward a row and from rewards at tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl_llm.core import advantages as adv
from jaxrl_llm.core import masks, token_baselines
from jaxrl_llm.core.returns import at_last_token, gae, gae_through_gaps, returns_of_run, returns_to_go

Inputs = dict[str, Any]
Outputs = dict[str, Any]


def _everyone(inputs: Inputs) -> jax.Array:
    return jnp.ones(inputs["rewards"].shape[0], bool)


def _spread(values: jax.Array, inputs: Inputs) -> Outputs:
    return {"advantages": masks.over_tokens(values, inputs["mask"]) if "mask" in inputs else values}


def adv_group(
    inputs: Inputs,
    *,
    center: str,
    scale: str,
    ddof: int = 1,
    eps: float = 0.0,
    singleton: str | None = None,
    var_floor: float = 0.0,
    batch_std_about: str = "batch_mean",
) -> Outputs:
    rewards, rows = inputs["rewards"], (inputs["group"], _everyone(inputs))
    raw = singleton == "raw"
    if center == "group_mean":
        centred = adv.minus_group_mean(rewards, *rows, keep_single=raw)
    else:
        centred = {"batch_mean": adv.minus_batch_mean, "none": adv.minus_nothing}[center](rewards, *rows)
    if scale == "none":
        return _spread(centred, inputs)
    if scale == "group_std":
        std = adv.group_std(rewards, *rows, ddof=ddof, single=1.0 if raw else 0.0)
    else:
        about = {"batch_mean": adv.batch_std, "group_mean": adv.centred_batch_std}[batch_std_about]
        std = about(rewards, *rows, ddof=ddof)
    return _spread(adv.scaled(centred, std, epsilon=eps, variance_floor=var_floor), inputs)


def adv_rloo(inputs: Inputs, *, singleton: str | None = None, normalise: dict[str, Any] | None = None) -> Outputs:
    rows = (inputs["group"], _everyone(inputs))
    values = adv.minus_mean_of_others(inputs["rewards"], *rows, keep_single=singleton == "raw")
    if normalise:
        std = adv.batch_std(values, *rows, ddof=normalise["ddof"])
        values = adv.scaled(adv.minus_batch_mean(values, *rows), std, epsilon=normalise["eps"])
    return _spread(values, inputs)


def adv_opo(inputs: Inputs, *, singleton: str) -> Outputs:
    length = masks.count(inputs["mask"], axis=1)
    rows = (length, inputs["group"], _everyone(inputs))
    return _spread(adv.minus_length_weighted_mean(inputs["rewards"], *rows, keep_single=singleton == "raw"), inputs)


def adv_gpg(inputs: Inputs, *, alpha: str, f_norm: float, singleton: str) -> Outputs:
    assert alpha == "rows / rows with a nonzero reward"
    where = _everyone(inputs)
    centred = adv.minus_group_mean(inputs["rewards"], inputs["group"], where, keep_single=singleton == "raw")
    return _spread(adv.nonzero_share_scaled(centred, inputs["rewards"], where) / f_norm, inputs)


def adv_pass_at_k(inputs: Inputs, *, scale: str, ddof: int, eps: float) -> Outputs:
    rows = (inputs["rewards"], inputs["group"], _everyone(inputs))
    lead = adv.lead_of_best(*rows)
    return _spread(lead if scale == "none" else adv.scaled(lead, adv.group_std(*rows, ddof=ddof), epsilon=eps), inputs)


def adv_reinforce_pp_baseline(inputs: Inputs, *, singleton: str, whiten: dict[str, Any]) -> Outputs:
    rows = (inputs["rewards"], inputs["group"], _everyone(inputs))
    centred = adv.minus_group_mean(*rows, keep_single=singleton == "raw")
    return {"advantages": _whiten(masks.over_tokens(centred, inputs["mask"]), inputs["mask"], **whiten)}


def adv_multi_reward(inputs: Inputs, *, order: str, eps: float, scale: str = "group_std", ddof: int = 1) -> Outputs:
    rewards, weights, group = inputs["rewards"], inputs["weights"], inputs["group"]
    where = _everyone(inputs) if "unscored" not in inputs else inputs["unscored"] == 0
    if order == "sum_then_normalize":
        rewards = rewards @ weights
        centred = adv.minus_group_mean(rewards, group, where)
        if scale == "none":
            return {"advantages": centred}
        stds = {"group_std": adv.group_std, "batch_std": adv.batch_std}
        return {"advantages": adv.scaled(centred, stds[scale](rewards, group, where, ddof=ddof), epsilon=eps)}
    combined = adv.sum_of_normalized(rewards, weights, group, where, ddof=ddof, epsilon=eps)
    std = adv.batch_std(combined, group, where, ddof=ddof)
    return {"advantages": adv.scaled(adv.minus_batch_mean(combined, group, where), std, epsilon=eps)}


def _whiten(
    values: jax.Array,
    mask: jax.Array,
    *,
    ddof: int = 0,
    eps: float = 0.0,
    eps_at: str = "variance_floor",
    over: str = "batch",
    shift_mean: bool = True,
    center: bool = True,
    scale: bool = True,
) -> jax.Array:
    where = {"variance": "variance_epsilon", "variance_floor": "variance_floor", "std": "std_epsilon"}[eps_at]
    axis = {"batch": None, "row": 1}[over]
    centered = shift_mean and center
    return adv.whiten(values, mask, ddof=ddof, center=centered, scale=scale, axis=axis, **{where: eps})


def whiten(inputs: Inputs, **params: Any) -> Outputs:
    return {"whitened": _whiten(inputs["values"], inputs["mask"], **params)}


def _gae(token_rewards: jax.Array, inputs: Inputs, *, gamma: float, lam: float, gap: str) -> Outputs:
    mask = jnp.ones_like(inputs["mask"]) if gap == "none" else inputs["mask"]
    function = {"skip": gae, "zero": gae_through_gaps, "none": gae}[gap]
    values = function(token_rewards, inputs["values"], mask, gamma=gamma, lam=lam)
    return {"advantages": values, "returns": values + masks.keep(inputs["values"], mask)}


def adv_gae(inputs: Inputs, *, gamma: float, lam: float, gap: str, whiten: dict[str, Any] | None = None) -> Outputs:
    outputs = _gae(inputs["token_rewards"], inputs, gamma=gamma, lam=lam, gap=gap)
    if whiten:
        outputs["whitened"] = _whiten(outputs["advantages"], inputs["mask"], **whiten)
    return outputs


def returns_discounted(inputs: Inputs, *, gamma: float, gap: str) -> Outputs:
    assert gap == "zero"
    return {"returns": returns_to_go(inputs["token_rewards"], inputs["mask"], gamma=gamma)}


def adv_reinforce_pp(inputs: Inputs, *, gamma: float, gap: str, whiten: dict[str, Any]) -> Outputs:
    assert gap == "restart"
    to_go = returns_of_run(inputs["token_rewards"], inputs["mask"], gamma=gamma)
    return {"returns": to_go, "advantages": _whiten(to_go, inputs["mask"], **whiten)}


def adv_remax(inputs: Inputs) -> Outputs:
    to_go = returns_to_go(inputs["token_rewards"], inputs["mask"])
    return {"returns": to_go, "advantages": to_go - inputs["baseline"][:, None]}


def adv_optimal_token_baseline(inputs: Inputs, *, eps: float, zero_tail: bool = False) -> Outputs:
    advantages, returns = token_baselines.optimal_token_baseline(
        inputs["token_rewards"],
        inputs["mask"],
        inputs["group"],
        jnp.ones(inputs["group"].shape, bool),
        inputs["old_log_prob"],
        inputs["sum_pi_squared"],
        weights=inputs.get("is_weights"),
        epsilon=eps,
        zero_tail=zero_tail,
    )
    return {"advantages": advantages, "returns": returns}


def adv_pipeline(
    inputs: Inputs,
    *,
    baseline: str,
    returns: str,
    gamma: float,
    lam: float = 1.0,
    kl_coef: float = 0.0,
    group_std: dict[str, Any] | None = None,
    reward_clip: list[float] | None = None,
    normalise: dict[str, Any] | None = None,
) -> Outputs:
    rows = (inputs["group"], _everyone(inputs))
    centers = {"none": adv.minus_nothing, "leave_one_out": adv.minus_mean_of_others}
    result = centers.get(baseline, adv.minus_group_mean)(inputs["rewards"], *rows)
    if baseline == "group_mean_std":
        assert group_std is not None
        std = adv.group_std(inputs["rewards"], *rows, ddof=group_std["ddof"])
        result = adv.scaled(result, std, epsilon=group_std["eps"])
    if reward_clip:
        result = jnp.clip(result, *reward_clip)
    token_rewards = at_last_token(result, inputs["mask"]) - kl_coef * masks.keep(inputs["kl"], inputs["mask"])
    if returns == "discounted":
        to_go = returns_to_go(token_rewards, inputs["mask"], gamma=gamma)
        outputs = {"advantages": to_go, "returns": to_go}
    else:
        outputs = _gae(token_rewards, inputs, gamma=gamma, lam=lam, gap="zero")
    if normalise:
        outputs["advantages"] = _whiten(outputs["advantages"], inputs["mask"], **normalise)
    return outputs
