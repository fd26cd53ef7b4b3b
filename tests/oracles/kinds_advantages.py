"""Oracles of the advantage kinds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles.kinds_basics import (
    Inputs,
    Outputs,
    Undefined,
    clip,
    divided,
    group_of,
    mean,
    row_cells,
    spread,
    std,
    variance,
    whitened,
)


def adv_group(
    x: Inputs,
    *,
    center: str,
    scale: str,
    ddof: int,
    eps: float,
    singleton: str | None,
    var_floor: float = 0.0,
    batch_std_about: str = "batch_mean",
) -> Outputs:
    r = [float(v) for v in x["rewards"]]
    group_means = [mean([r[j] for j in group_of(x["group"], i)]) for i in range(len(r))]
    values = []
    for i in range(len(r)):
        own = [r[j] for j in group_of(x["group"], i)]
        raw = singleton == "raw" and len(own) == 1
        if singleton is None and len(own) == 1 and "group" in center + scale:
            raise Undefined
        m = {"group_mean": 0.0 if raw else group_means[i], "batch_mean": mean(r), "none": 0.0}[center]
        if scale == "none":
            values.append(r[i] - m)
            continue
        if scale == "group_std":
            v = 1.0 if raw else variance(own, ddof)
        elif batch_std_about == "group_mean":
            v = variance([a - b for a, b in zip(r, group_means, strict=True)], ddof, about=0.0)
        else:
            v = variance(r, ddof)
        values.append(divided(r[i] - m, math.sqrt(max(v, var_floor)) + eps))
    return spread(values, x)


def adv_rloo(x: Inputs, *, singleton: str, normalise: dict[str, Any] | None = None) -> Outputs:
    r, values = x["rewards"], []
    for i in range(len(r)):
        others = [float(r[j]) for j in group_of(x["group"], i) if j != i]
        alone = {"raw": float(r[i]), "zero": 0.0}[singleton]
        values.append(float(r[i]) - mean(others) if others else alone)
    if normalise is not None:
        middle, s = mean(values), std(values, normalise["ddof"])
        values = [divided(v - middle, s + normalise["eps"]) for v in values]
    return spread(values, x)


def adv_opo(x: Inputs, *, singleton: str) -> Outputs:
    assert singleton == "raw"
    r, values = x["rewards"], []
    length = [len(row_cells(x["mask"], i)) for i in range(len(r))]
    for i in range(len(r)):
        own = group_of(x["group"], i)
        b = 0.0
        if len(own) > 1:
            b = divided(math.fsum(length[j] * float(r[j]) for j in own), sum(length[j] for j in own))
        values.append(float(r[i]) - b)
    return spread(values, x)


def adv_gpg(x: Inputs, *, alpha: str, f_norm: float, singleton: str) -> Outputs:
    assert (alpha, singleton) == ("rows / rows with a nonzero reward", "raw")
    r, values = x["rewards"], []
    factor = len(r) / max(1, sum(1 for v in r if v != 0))
    for i in range(len(r)):
        own = group_of(x["group"], i)
        m = mean([float(r[j]) for j in own]) if len(own) > 1 else 0.0
        values.append(factor * (float(r[i]) - m) / f_norm)
    return spread(values, x)


def adv_pass_at_k(x: Inputs, *, scale: str, ddof: int, eps: float) -> Outputs:
    r, values = x["rewards"], []
    for i in range(len(r)):
        own = sorted(float(r[j]) for j in group_of(x["group"], i))
        if len(own) < 2:
            raise Undefined
        lead = own[-1] - own[-2] if r[i] == own[-1] else 0.0
        values.append(lead if scale == "none" else divided(lead, std(own, ddof) + eps))
    return spread(values, x)


def adv_reinforce_pp_baseline(x: Inputs, *, singleton: str, whiten: dict[str, Any]) -> Outputs:
    assert singleton == "raw"
    values = np.zeros(x["mask"].shape)
    for i, reward in enumerate(x["rewards"]):
        own = group_of(x["group"], i)
        values[i] = reward - (mean([float(x["rewards"][j]) for j in own]) if len(own) > 1 else 0.0)
    return {"advantages": whitened(values, x["mask"], **whiten)}


def adv_multi_reward(x: Inputs, *, order: str, scale: str = "group_std", ddof: int, eps: float) -> Outputs:
    rewards, weights = x["rewards"], x["weights"]
    unscored = x.get("unscored", np.zeros(len(rewards), int))
    scored = [i for i in range(len(rewards)) if not unscored[i]]
    own = {i: [j for j in group_of(x["group"], i) if j in scored] for i in scored}
    result = np.zeros(len(rewards))
    if order == "sum_then_normalize":
        r = [math.fsum(weights * rewards[i]) for i in range(len(rewards))]
        for i in scored:
            centred = r[i] - mean([r[j] for j in own[i]])
            if scale == "none":
                result[i] = centred
            else:
                seen = [r[j] for j in (own[i] if scale == "group_std" else scored)]
                result[i] = divided(centred, std(seen, ddof) + eps)
        return {"advantages": result}
    q = {}
    for i in scored:
        columns = [[float(rewards[j, f]) for j in own[i]] for f in range(rewards.shape[1])]
        z = [divided(rewards[i, f] - mean(c), std(c, ddof) + eps) for f, c in enumerate(columns)]
        q[i] = math.fsum(weights * np.array(z))
    everything = list(q.values())
    for i in scored:
        result[i] = divided(q[i] - mean(everything), std(everything, ddof) + eps)
    return {"advantages": result}


def whiten(x: Inputs, **params: Any) -> Outputs:
    return {"whitened": whitened(x["values"], x["mask"], **params)}


def _gae(r: np.ndarray, v: np.ndarray, mask: np.ndarray, *, gamma: float, lam: float, gap: str) -> Outputs:
    rows, width = mask.shape
    if gap == "zero":
        r, v = r * mask, v * mask
    advantages = np.zeros(mask.shape)
    for i in range(rows):
        value_after = advantage_after = 0.0
        for t in reversed(range(width)):
            if gap == "skip" and not mask[i, t]:
                continue
            delta = r[i, t] + gamma * value_after - v[i, t]
            advantage_after = delta + gamma * lam * advantage_after
            value_after = v[i, t]
            advantages[i, t] = advantage_after
    return {"advantages": advantages, "returns": advantages + v}


def adv_gae(x: Inputs, *, gamma: float, lam: float, gap: str, whiten: dict[str, Any] | None) -> Outputs:
    mask = x["mask"]
    outputs = _gae(x["token_rewards"], x["values"], mask, gamma=gamma, lam=lam, gap=gap)
    if whiten is not None:
        outputs["whitened"] = whitened(outputs["advantages"], mask, **whiten)
    return outputs


def _discounted(r: np.ndarray, gamma: float) -> np.ndarray:
    result = np.zeros(r.shape)
    for i in range(r.shape[0]):
        after = 0.0
        for t in reversed(range(r.shape[1])):
            after = result[i, t] = r[i, t] + gamma * after
    return result


def returns_discounted(x: Inputs, *, gamma: float, gap: str) -> Outputs:
    assert gap == "zero"
    return {"returns": _discounted(x["token_rewards"] * x["mask"], gamma)}


def adv_reinforce_pp(x: Inputs, *, gamma: float, gap: str, whiten: dict[str, Any]) -> Outputs:
    assert gap == "restart"
    mask, returns = x["mask"], np.zeros(x["mask"].shape)
    width = mask.shape[1]
    for i in range(mask.shape[0]):
        for t in reversed(range(width)):
            goes_on = t + 1 < width and mask[i, t + 1]
            returns[i, t] = x["token_rewards"][i, t] + (gamma * returns[i, t + 1] if goes_on else 0.0)
    return {"returns": returns, "advantages": whitened(returns, mask, **whiten)}


def adv_remax(x: Inputs) -> Outputs:
    returns = _discounted(x["token_rewards"] * x["mask"], 1.0)
    return {"returns": returns, "advantages": returns - x["baseline"][:, None]}


def adv_optimal_token_baseline(x: Inputs, *, eps: float, zero_tail: bool = False) -> Outputs:
    mask = x["mask"]
    rows, width = mask.shape
    returns, w = _discounted(x["token_rewards"] * mask, 1.0), np.zeros(mask.shape)
    for i in range(rows):
        so_far = 0.0
        for t in range(width):
            step = 1 - 2 * math.exp(x["old_log_prob"][i, t]) + x["sum_pi_squared"][i, t]
            if "is_weights" in x:
                step *= x["is_weights"][i, t] ** 2
            so_far += mask[i, t] * step
            w[i, t] = so_far
    advantages = np.zeros(mask.shape)
    for i in range(rows):
        own = group_of(x["group"], i)
        length = {j: len(row_cells(mask, j)) for j in own}
        second = max((length[j] for j in own if j != i), default=0)
        for t in range(width):
            b = 0.0
            if len(own) > 1 and not (zero_tail and length[i] > second and t >= second):
                above = math.fsum(mask[j, t] * returns[j, t] * w[j, t] for j in own)
                b = divided(above, math.fsum(mask[j, t] * w[j, t] for j in own) + eps)
            advantages[i, t] = (returns[i, t] - b) * mask[i, t]
    return {"advantages": advantages, "returns": returns}


def adv_pipeline(
    x: Inputs,
    *,
    baseline: str,
    gamma: float,
    lam: float,
    kl_coef: float,
    group_std: dict[str, Any] | None,
    reward_clip: list[float] | None,
    returns: str,
    normalise: dict[str, Any] | None,
) -> Outputs:
    mask = x["mask"]
    token_rewards = -kl_coef * x["kl"] * mask
    for i in range(mask.shape[0]):
        result, own = float(x["rewards"][i]), [float(x["rewards"][j]) for j in group_of(x["group"], i)]
        if baseline in ("leave_one_out", "group_mean_std") and len(own) < 2:
            raise Undefined
        if baseline == "leave_one_out":
            result -= (math.fsum(own) - result) / (len(own) - 1)
        elif baseline != "none":
            result -= mean(own)
        if baseline == "group_mean_std":
            assert group_std is not None
            result = divided(result, std(own, group_std["ddof"]) + group_std["eps"])
        if reward_clip is not None:
            result = clip(result, *reward_clip)
        if row_cells(mask, i):
            token_rewards[row_cells(mask, i)[-1]] += result
    if returns == "discounted":
        to_go = _discounted(token_rewards * mask, gamma)
        outputs = {"advantages": to_go, "returns": to_go}
    else:
        outputs = _gae(token_rewards, x["values"], mask, gamma=gamma, lam=lam, gap="zero")
    if normalise is not None:
        outputs["advantages"] = whitened(outputs["advantages"], mask, **normalise)
    return outputs
