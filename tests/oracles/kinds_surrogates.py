"""Oracles of the policy losses in which something else than a clip holds the policy back."""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.kinds_basics import Cell, Inputs, Outputs, clip, mean, row_cells, row_mean, token_mean
from tests.oracles.kinds_policy import Step


def pg_sapo(x: Inputs, *, agg: Inputs, tau_pos: float, tau_neg: float, log_ratio_clamp: float | None) -> Outputs:
    s = Step(x, log_ratio_clamp)

    def token_loss(at: Cell) -> float:
        tau = tau_pos if s.a[at] > 0 else tau_neg
        return -s.a[at] * (4 / tau) / (1 + math.exp(-tau * (s.rho(at) - 1)))

    return s.outputs(s.loss(token_loss, agg), clip_frac=0.0)


def pg_gmpo(x: Inputs, *, log_eps_low: float, log_eps_high: float, rows: str) -> Outputs:
    assert rows == "all"
    s, total = Step(x), 0.0
    for i in range(len(s.mask)):
        own = row_cells(s.mask, i)
        if not own:
            continue
        terms = []
        for at in own:
            sigma = float(np.sign(s.a[at]))
            terms.append(sigma * min(sigma * s.d(at), sigma * clip(s.d(at), -log_eps_low, log_eps_high)))
        loss = -row_mean(s.a, s.mask, i) * math.exp(mean(terms))
        if "is_weights" in x:
            loss *= math.exp(mean([math.log(x["is_weights"][at]) for at in own]))
        total += loss

    def outside(at: Cell) -> bool:
        return not -log_eps_low <= s.d(at) <= log_eps_high

    return s.outputs(
        total / len(s.mask),
        clip_frac=s.share(lambda at: s.a[at] > 0 and outside(at)),
        clip_frac_lower=s.share(lambda at: s.a[at] < 0 and outside(at)),
    )


def _covariance(s: Step) -> dict[Cell, float]:
    mean_a, mean_p = token_mean(s.a, s.mask), token_mean(s.frozen, s.mask)
    return {at: (s.a[at] - mean_a) * (s.frozen[at] - mean_p) for at in s.cells}


def pg_clip_cov(
    x: Inputs,
    *,
    agg: Inputs,
    eps_low: float,
    eps_high: float,
    cov_lower: float,
    cov_upper: float,
    budget: float,
    choice: str,
) -> Outputs:
    assert (choice, budget) == ("all candidates", 1.0)
    s, chosen = Step(x), set()
    for at, cov in _covariance(s).items():
        rho = s.frozen_rho(at)
        raises = -s.a[at] * clip(rho, 1 - eps_low, 1 + eps_high) > -s.a[at] * rho
        if cov_lower < cov < cov_upper and not raises:
            chosen.add(at)

    def token_loss(at: Cell) -> float:
        if at in chosen:
            return 0.0
        return max(-s.a[at] * s.rho(at), -s.a[at] * clip(s.rho(at), 1 - eps_low, 1 + eps_high))

    return s.outputs(s.loss(token_loss, agg), clip_frac=s.share(lambda at: at in chosen))


def pg_kl_cov(x: Inputs, *, agg: Inputs, fraction: float, kl_coef: float) -> Outputs:
    s = Step(x)
    cov = _covariance(s)
    number = max(1, math.floor(fraction * len(s.cells)))
    largest = sorted(s.cells, key=lambda at: -cov[at])[:number]

    def token_loss(at: Cell) -> float:
        return -s.a[at] * s.rho(at) + (kl_coef * abs(s.d(at)) if at in largest else 0.0)

    return s.outputs(s.loss(token_loss, agg), approx_kl=mean([abs(s.d(at)) for at in s.cells]))


def pg_topr(x: Inputs, *, agg: Inputs, positive_weight: float, negative_weight: float) -> Outputs:
    s = Step(x)

    def token_loss(at: Cell) -> float:
        if x["scores"][at[0]] > 0:
            return -positive_weight * s.a[at] * s.p[at]
        return -negative_weight * clip(s.frozen_rho(at), 0, 1) * s.a[at] * s.p[at]

    return s.outputs(s.loss(token_loss, agg))


def pg_kimi15(x: Inputs, *, agg: Inputs, tau: float) -> Outputs:
    s = Step(x)
    return s.outputs(s.loss(lambda at: -s.a[at] * s.p[at] + tau / 2 * s.d(at) ** 2, agg))


def pg_vespo(x: Inputs, *, agg: Inputs, k_pos: float, lambda_pos: float, k_neg: float, lambda_neg: float) -> Outputs:
    s = Step(x)

    def token_loss(at: Cell) -> float:
        total = math.fsum(clip(d, -20, 20) for d in s.row_d(at[0], s.frozen))
        log_w = clip(total, math.log(1e-8), 20)
        k, lam = (k_pos, lambda_pos) if s.a[at] >= 0 else (k_neg, lambda_neg)
        return -math.exp(lam + k * log_w - lam * math.exp(log_w)) * s.a[at] * s.p[at]

    return s.outputs(s.loss(token_loss, agg))


def pg_probability_mask(
    x: Inputs,
    *,
    agg: Inputs,
    by_sign: bool,
    mask_high: float,
    mask_low: float,
    adv_scale: float,
    kl_coef: float,
) -> Outputs:
    s = Step(x)

    def dropped(at: Cell) -> bool:
        p = math.exp(s.frozen[at]) - math.exp(s.old[at])
        if not by_sign:
            return abs(p) > mask_high
        return p > mask_high if s.a[at] > 0 else p < -mask_low

    def token_loss(at: Cell) -> float:
        return 0.0 if dropped(at) else -adv_scale * s.a[at] * s.rho(at)

    return s.outputs(s.loss(token_loss, agg, lambda at: kl_coef * s.d(at) ** 2))
