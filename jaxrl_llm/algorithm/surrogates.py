"""The policy loss of a token, by surrogate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxrl_llm.core import covariance, diagnostics, losses, masks
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Mean, Metrics


class Terms(NamedTuple):
    """What a surrogate is made of; [B, T] each, 0 off the mask (1 for the ratio).

    Attributes:
      logprobs: of the policy that learns, nats.
      old_logprobs: of the policy that the ratio is measured against.
      log_ratio: their clamped difference.
      ratio: at the algorithm's level.
      advantage: A.
      mask: bool.
      positive: bool, rows whose judged reward is above 0; None if no rewards were given.
      apart: bool, tokens that clip_cov and kl_cov treat apart; None for the others.
    """

    logprobs: Array
    old_logprobs: Array
    log_ratio: Array
    ratio: Array
    advantage: Array
    mask: Array
    positive: Array | None
    apart: Array | None

    def share(self, where: Array) -> Mean:
        return Mean.of(where, self.mask)


Surrogate = Callable[[Algorithm, Terms], tuple[Array, Metrics]]


def clip_bounds(a: Algorithm) -> tuple[float, float]:
    """(clip_low, clip_high) of a surrogate that reads them."""
    assert a.clip_low is not None and a.clip_high is not None
    return a.clip_low, a.clip_high


def _ppo_clip(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    low, high = clip_bounds(a)
    ratio, advantage = terms.ratio, terms.advantage
    loss = losses.ppo_clip(ratio, advantage, clip_low=low, clip_high=high, cap=a.ratio_cap)
    metrics = {
        "effect/clip_low": terms.share(diagnostics.clip_binds_low(ratio, advantage, low)),
        "effect/clip_high": terms.share(diagnostics.clip_binds_high(ratio, advantage, high)),
        "outside_low": terms.share(ratio < 1 - low),  # whatever the sign of A, as the paper counts
        "outside_high": terms.share(ratio > 1 + high),
    }
    if a.ratio_cap is not None:
        # a cap inside the clip is what binds where A > 0; where A < 0 the larger of the two bounds the loss
        good = (advantage > 0) & (ratio > a.ratio_cap) & (a.ratio_cap < 1 + high)
        bad = (advantage < 0) & (ratio > jnp.maximum(a.ratio_cap, 1 + high))
        metrics["effect/ratio_cap"] = terms.share(good | bad)
    if a.dual_clip is not None:
        metrics["effect/dual_clip"] = terms.share(diagnostics.dual_clip_binds(loss, advantage, a.dual_clip))
        loss = losses.dual_clip(loss, advantage, bound=a.dual_clip)
    return loss, metrics


def _reinforce(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    del a
    return losses.reinforce(terms.logprobs, terms.advantage), {}


def _cispo(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    low, high = clip_bounds(a)
    bounds = {"ratio_min": 1 - low, "ratio_max": 1 + high}
    loss = losses.weighted_reinforce(terms.logprobs, terms.ratio, terms.advantage, **bounds)
    metrics = {"effect/clip_high": terms.share((terms.advantage != 0) & (terms.ratio > 1 + high))}
    if low < 1:  # 1 is an open bound: a ratio is never below 0
        metrics["effect/clip_low"] = terms.share((terms.advantage != 0) & (terms.ratio < 1 - low))
    if a.drop_clipped:
        left = losses.ratio_left(terms.ratio, terms.advantage, **bounds)
        loss, metrics["effect/drop_clipped"] = masks.keep(loss, ~left), terms.share(left)
    return loss, metrics


def _sapo(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    assert a.sapo_temperature_positive is not None and a.sapo_temperature_negative is not None
    loss = losses.soft_gate(
        terms.ratio,
        terms.advantage,
        temperature_positive=a.sapo_temperature_positive,
        temperature_negative=a.sapo_temperature_negative,
    )
    return loss, {}


def _gmpo(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    low, high = clip_bounds(a)
    of_row = losses.geometric_mean_loss(
        terms.log_ratio, terms.advantage, terms.mask, log_clip_low=low, log_clip_high=high
    )
    metrics = {
        "effect/clip_low": terms.share((terms.advantage < 0) & (terms.log_ratio < -low)),
        "effect/clip_high": terms.share((terms.advantage > 0) & (terms.log_ratio > high)),
    }
    return jnp.broadcast_to(of_row[:, None], terms.mask.shape), metrics  # the row's loss at each of its tokens


def _topr(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    assert a.topr_weight_positive is not None and a.topr_weight_negative is not None
    if terms.positive is None:
        raise ValueError("algorithm.surrogate = 'topr' but batch.rewards is None: expected the judged rewards [B]")
    loss = losses.topr(
        terms.logprobs,
        terms.ratio,
        terms.advantage,
        terms.positive,
        positive_weight=a.topr_weight_positive,
        negative_weight=a.topr_weight_negative,
    )
    return loss, {"ratio_truncated": terms.share(~terms.positive & (terms.ratio > 1))}


def _kimi(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    assert a.square_coefficient is not None
    loss = losses.squared_log_ratio(terms.logprobs, terms.log_ratio, terms.advantage, tau=2 * a.square_coefficient)
    metrics: Metrics = {}
    if a.square_coefficient > 0:
        metrics["effect/square_coefficient"] = terms.share(terms.log_ratio != 0)
    return loss, metrics


def _vespo(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    assert a.vespo_k_positive is not None and a.vespo_lambda_positive is not None
    assert a.vespo_k_negative is not None and a.vespo_lambda_negative is not None
    loss = losses.vespo(
        terms.logprobs,
        terms.log_ratio,
        terms.advantage,
        terms.mask,
        k_positive=a.vespo_k_positive,
        lambda_positive=a.vespo_lambda_positive,
        k_negative=a.vespo_k_negative,
        lambda_negative=a.vespo_lambda_negative,
    )
    return loss, {}


def _dppo(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    assert a.square_coefficient is not None and a.dppo_by_sign is not None
    low, high = clip_bounds(a)
    kept = losses.probability_mask(
        terms.logprobs, terms.old_logprobs, terms.advantage, low=low, high=high, by_sign=a.dppo_by_sign
    )
    rose = terms.log_ratio > 0
    loss = masks.keep(-terms.advantage * jnp.exp(terms.log_ratio), kept)
    loss = loss + a.square_coefficient * jnp.square(terms.log_ratio)
    metrics = {"effect/clip_low": terms.share(~kept & ~rose), "effect/clip_high": terms.share(~kept & rose)}
    if a.square_coefficient > 0:
        metrics["effect/square_coefficient"] = terms.share(terms.log_ratio != 0)
    return loss, metrics


def _clip_cov(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    assert terms.apart is not None
    loss, metrics = _ppo_clip(a, terms)
    return masks.keep(loss, ~terms.apart), metrics | {"effect/cov_share": terms.share(terms.apart)}


def _kl_cov(a: Algorithm, terms: Terms) -> tuple[Array, Metrics]:
    assert terms.apart is not None and a.kl_cov_coefficient is not None
    loss = covariance.kl_cov_loss(terms.log_ratio, terms.advantage, terms.apart, kl_coefficient=a.kl_cov_coefficient)
    return loss, {"effect/cov_share": terms.share(terms.apart)}


SURROGATES: dict[str, Surrogate] = {
    "ppo_clip": _ppo_clip,
    "reinforce": _reinforce,
    "cispo": _cispo,
    "sapo": _sapo,
    "gmpo": _gmpo,
    "topr": _topr,
    "kimi": _kimi,
    "vespo": _vespo,
    "dppo": _dppo,
    "clip_cov": _clip_cov,
    "kl_cov": _kl_cov,
}
