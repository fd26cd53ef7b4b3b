"""Oracles of the policy losses and the value loss.

``x["frozen"]`` stands for ``log_prob`` wherever the pages take no gradient: a difference of two losses that share it is
the gradient, stopped gradients included. Where it is not given, it is ``log_prob``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.oracles.kinds_basics import (
    Cell,
    Inputs,
    Outputs,
    aggregate,
    cells,
    clamp,
    clip,
    kl_value,
    mean,
    row_cells,
    row_mean,
    token_mean,
)
from tests.oracles.kinds_weights import high_entropy_mask, off_policy_sequence_mask


class Step:
    """The inputs of a policy loss, at a cell (row, token)."""

    def __init__(self, x: Inputs, log_ratio_clamp: float | None = None):
        self.x, self.mask = x, x["mask"]
        self.p, self.old = x["log_prob"], x["old_log_prob"]
        self.frozen = x.get("frozen", self.p)
        given = x["advantages"]
        self.a = np.broadcast_to(given[:, None], self.mask.shape) if given.ndim == 1 else given
        self.bound = log_ratio_clamp
        self.cells = cells(self.mask)

    def d(self, at: Cell, log_prob: np.ndarray | None = None) -> float:
        return clamp(float((self.p if log_prob is None else log_prob)[at] - self.old[at]), self.bound)

    def row_d(self, i: int, log_prob: np.ndarray | None = None) -> list[float]:
        return [self.d(at, log_prob) for at in row_cells(self.mask, i)]

    def rho(self, at: Cell) -> float:
        return math.exp(self.d(at))

    def frozen_rho(self, at: Cell) -> float:
        return math.exp(self.d(at, self.frozen))

    def share(self, where: Callable[[Cell], bool]) -> float:
        return mean([float(where(at)) for at in self.cells])

    def loss(self, token_loss: Callable[[Cell], float], agg: Inputs, term: Callable[[Cell], float] | None = None):
        """aggregate(is_weights · token_loss + term)."""
        table = np.full(self.mask.shape, np.nan)
        for at in self.cells:
            weight = self.x["is_weights"][at] if "is_weights" in self.x else 1.0
            table[at] = token_loss(at) * weight + (term(at) if term is not None else 0.0)
        return aggregate(table, self.x, agg)

    def outputs(self, loss: float, **others: float) -> Outputs:
        shown = {"approx_kl": mean([-self.d(at) for at in self.cells]), "clip_frac_lower": 0.0}
        return shown | others | {"loss": loss}


def _clipped(rho: float, a: float, eps_low: float, eps_high: float) -> tuple[float, float]:
    """(unclipped, clipped) terms of the loss."""
    return -a * rho, -a * clip(rho, 1 - eps_low, 1 + eps_high)


def pg_ppo_clip(
    x: Inputs,
    *,
    agg: Inputs,
    eps_low: float,
    eps_high: float,
    dual_clip: float | None,
    log_ratio_clamp: float | None,
    approx_kl: str = "clamped",
    delta: float | None = None,
    kl: dict[str, Any] | None = None,
    top_entropy: float | None = None,
    off_policy_mask: dict[str, float] | None = None,
) -> Outputs:
    s = Step(x, log_ratio_clamp)
    keep = np.ones(s.mask.shape)
    if top_entropy is not None:
        keep = high_entropy_mask(x, share=top_entropy)["keep"]
    if off_policy_mask is not None:
        as_sampler = {
            "train_log_prob": s.frozen,
            "advantages": np.array([row_mean(s.a, s.mask, i) for i in range(len(s.a))]),
        }
        keep = keep * off_policy_sequence_mask(x | as_sampler, **off_policy_mask)["keep"][:, None]

    def terms(at: Cell) -> tuple[float, float]:
        unclipped, clipped = _clipped(s.rho(at), s.a[at], eps_low, eps_high)
        return (unclipped if delta is None else -s.a[at] * min(s.rho(at), delta)), clipped

    def dual_lowers(at: Cell) -> bool:
        return dual_clip is not None and s.a[at] < 0 and -dual_clip * s.a[at] < max(terms(at))

    def token_loss(at: Cell) -> float:
        if not keep[at]:
            return 0.0
        return -dual_clip * s.a[at] if dual_clip is not None and dual_lowers(at) else max(terms(at))

    def kl_term(at: Cell) -> float:
        if kl is None:
            return 0.0
        names = ("estimator", "log_ratio_clamp", "out_clamp")
        k = kl_value(float(s.p[at] - x["ref_log_prob"][at]), **{name: kl[name] for name in names})
        return kl["beta"] * k * (s.rho(at) if kl["times_ratio"] else 1.0)

    raw = [float(s.old[at] - s.p[at]) for at in s.cells]
    return s.outputs(
        s.loss(token_loss, agg, kl_term),
        clip_frac=s.share(lambda at: _clipped(s.rho(at), s.a[at], eps_low, eps_high)[1] > terms(at)[0]),
        clip_frac_lower=s.share(dual_lowers),
        approx_kl=mean(raw if approx_kl == "raw" else [-s.d(at) for at in s.cells]),
    )


def pg_ppo_correction(x: Inputs, *, correction: dict[str, Any], **params: Any) -> Outputs:
    c, mask, w = correction, x["mask"], np.zeros(x["mask"].shape)
    gap = x["old_log_prob"] - x["rollout_log_prob"]
    for i, t in cells(mask):
        u, g = math.exp(gap[i, t]), math.exp(row_mean(gap, mask, i))
        if c["type"] == "tis":
            w[i, t] = clip(u, c["low"], c["high"])
        elif c["type"] == "icepop":
            w[i, t] = u if c["low"] <= u <= c["high"] else 0.0
        elif c["type"] == "seq_mask_tis":
            w[i, t] = u if c["low"] <= g <= c["high"] else 0.0
        else:
            assert c["type"] == "bounds"
            of = {"token": u, "sequence": g}[c["level"]]
            if c["action"] == "clamp":
                w[i, t] = clip(of, c["lower"] or 0.0, c["upper"])
            else:
                w[i, t] = of if (c["lower"] or 0.0) <= of <= c["upper"] else 0.0
    return pg_ppo_clip(x | {"is_weights": w}, **params)


def pg_gspo(
    x: Inputs, *, agg: Inputs, eps_low: float, eps_high: float, log_ratio_max: float | None, ratio_gradient: str
) -> Outputs:
    s = Step(x)

    def ratio(at: Cell) -> float:
        if ratio_gradient == "sequence":
            exponent = mean(s.row_d(at[0]))
        else:
            exponent = float(s.p[at] - s.frozen[at]) + mean(s.row_d(at[0], s.frozen))
        return math.exp(clip(exponent, None, log_ratio_max))

    def terms(at: Cell) -> tuple[float, float]:
        return _clipped(ratio(at), s.a[at], eps_low, eps_high)

    return s.outputs(s.loss(lambda at: max(terms(at)), agg), clip_frac=s.share(lambda at: terms(at)[1] > terms(at)[0]))


def pg_luspo(x: Inputs, *, eps_low: float, eps_high: float) -> Outputs:
    s, total = Step(x), 0.0
    for i in range(len(s.mask)):
        own = row_cells(s.mask, i)
        if own:
            a = row_mean(s.a, s.mask, i)
            total += len(own) * max(_clipped(math.exp(mean(s.row_d(i))), a, eps_low, eps_high))
    return {"loss": total / len(s.mask)}


def pg_sequence_ratio(x: Inputs, *, eps_low: float, eps_high: float) -> Outputs:
    mask, total = x["mask"], 0.0
    for i in range(len(mask)):
        ratio = math.exp(math.fsum(x["log_prob"][at] for at in row_cells(mask, i)) - x["old_log_prob_sum"][i])
        total += max(_clipped(ratio, float(x["advantages"][i]), eps_low, eps_high))
    return {"loss": total / len(mask)}


def pg_cispo(
    x: Inputs,
    *,
    agg: Inputs,
    ratio_min: float | None,
    ratio_max: float | None,
    log_ratio_clamp: float | None = None,
    drop_clipped: bool = False,
) -> Outputs:
    s = Step(x, log_ratio_clamp)

    def dropped(at: Cell) -> bool:
        above = ratio_max is not None and s.a[at] > 0 and s.frozen_rho(at) > ratio_max
        below = ratio_min is not None and s.a[at] < 0 and s.frozen_rho(at) < ratio_min
        return drop_clipped and (above or below)

    def token_loss(at: Cell) -> float:
        return 0.0 if dropped(at) else -clip(s.frozen_rho(at), ratio_min, ratio_max) * s.a[at] * s.p[at]

    changed = s.share(lambda at: clip(s.rho(at), ratio_min, ratio_max) != s.rho(at))
    return s.outputs(s.loss(token_loss, agg), clip_frac=changed)


def pg_truncated_is(x: Inputs, *, agg: Inputs, ratio_min: float | None, ratio_max: float | None) -> Outputs:
    return pg_cispo(x, agg=agg, ratio_min=ratio_min, ratio_max=ratio_max)


def pg_reinforce(x: Inputs, *, agg: Inputs) -> Outputs:
    s = Step(x)
    return s.outputs(s.loss(lambda at: -s.a[at] * s.p[at], agg))


def value_loss(x: Inputs, *, agg: Inputs, clip: float | None, factor: float) -> Outputs:
    v, old, mask = x["values"], x["old_values"], x["mask"]
    loss, clipped = np.zeros(v.shape), np.zeros(v.shape)
    for at in cells(mask):
        held = v[at] if clip is None else min(max(v[at], old[at] - clip), old[at] + clip)
        squares = [(value - x["returns"][at]) ** 2 for value in (v[at], held)]
        clipped[at] = squares[1] > squares[0]
        loss[at] = max(squares)
    return {"loss": factor * aggregate(loss, x, agg), "clip_frac": token_mean(clipped, mask)}
