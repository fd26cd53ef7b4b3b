"""The loss of a policy and of a critic, over any subset of an optimizer step's rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl_llm.algorithm.controls import entropy_coefficient
from jaxrl_llm.algorithm.kl import kl_coefficient, kl_estimate
from jaxrl_llm.algorithm.ratio import LOG_RATIO_CLAMP, RATIOS
from jaxrl_llm.algorithm.surrogates import SURROGATES, Terms
from jaxrl_llm.core import kl as kl_core
from jaxrl_llm.core import losses, masks, mismatch, ratios
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Choice, Controls, Mean, Metrics, TrainBatch


def policy_loss(
    algorithm: Algorithm,
    logprobs: Array,
    entropy: Array,
    batch: TrainBatch,
    *,
    controls: Controls | None = None,
    exact_kl: Array | None = None,
) -> tuple[Array, Metrics]:
    """Σ weights · (correction · surrogate + kl_coefficient · KL - entropy_coefficient · H + positive_nll · -log p).

    Args:
      logprobs: [B, T], of the policy that learns; gradients flow through it.
      entropy: [B, T], nats.
      batch: its optional fields are needed where a knob reads them: ``ref_logprobs`` by a KL, ``choice`` by clip_cov,
        kl_cov and top_entropy_share, ``rewards`` by topr and positive_nll_coefficient, ``correction`` by correction.
      controls: the adaptive coefficients; needed where one adapts.
      exact_kl: [B, T], nats, with gradient; read by kl_estimator exact in the loss.

    Returns:
      (loss, metrics). Losses of the parts of a step add up to the loss of the step, and so do the metrics.

    Raises:
      ValueError: a knob reads a field or an argument that is None.
    """
    a = algorithm
    _check_given(a, batch, exact_kl)
    terms = _terms(a, logprobs, batch)
    mask, entropy = terms.mask, masks.keep(masks.as_float(entropy), terms.mask)
    metrics = _measure(a, terms, entropy, batch)
    token_loss, of_surrogate = SURROGATES[a.surrogate](a, terms)
    if a.correction != "none":
        token_loss = token_loss * masks.keep(batch.correction, mask)  # type: ignore[arg-type]
    token_loss, of_filters = _leave_out(a, token_loss, terms, batch)
    metrics |= of_surrogate | of_filters
    if batch.ref_logprobs is not None:
        kl = _reference_kl(a, terms, batch, exact_kl)
        metrics["kl_ref"] = Mean.of(kl, mask)
        if a.kl_placement == "loss":
            token_loss = token_loss + kl_coefficient(a, controls) * kl
            metrics["effect/kl_placement"] = terms.share(kl != 0)
            if a.kl_importance:
                metrics["effect/kl_importance"] = terms.share(terms.ratio != 1)
    if a.entropy_coefficient != 0 or a.entropy_target is not None:
        token_loss = token_loss - entropy_coefficient(a, controls) * entropy
    if a.positive_nll_coefficient != 0:
        assert terms.positive is not None
        token_loss = token_loss - a.positive_nll_coefficient * masks.keep(terms.logprobs, terms.positive)
        metrics["effect/positive_nll_coefficient"] = terms.share(terms.positive)
    return jnp.sum(masks.keep(batch.weights, mask) * token_loss), jax.lax.stop_gradient(metrics)


def _check_given(a: Algorithm, batch: TrainBatch, exact_kl: Array | None) -> None:
    choice = batch.choice or Choice()
    in_loss = a.kl_placement == "loss"
    for needed, what, given in (
        (in_loss, f"kl_placement = {a.kl_placement!r} but batch.ref_logprobs", batch.ref_logprobs),
        (in_loss and a.kl_estimator == "exact", f"kl_estimator = {a.kl_estimator!r} but exact_kl", exact_kl),
        (a.correction != "none", f"correction = {a.correction!r} but batch.correction", batch.correction),
        (a.cov_share is not None, f"cov_share = {a.cov_share} but batch.choice.covariance", choice.covariance),
        (
            a.top_entropy_share is not None,
            f"top_entropy_share = {a.top_entropy_share} but batch.choice.high_entropy",
            choice.high_entropy,
        ),
        (
            a.positive_nll_coefficient > 0,
            f"positive_nll_coefficient = {a.positive_nll_coefficient} but batch.rewards",
            batch.rewards,
        ),
    ):
        if needed and given is None:
            raise ValueError(f"algorithm.{what} is None: expected an array")


def _terms(a: Algorithm, logprobs: Array, batch: TrainBatch) -> Terms:
    mask = batch.mask.astype(bool)
    logprobs = masks.keep(masks.as_float(logprobs), mask)
    log_ratio = ratios.log_ratio(logprobs, batch.old_logprobs, mask, clamp=LOG_RATIO_CLAMP)
    positive = None if batch.rewards is None else mask & (batch.rewards > 0)[:, None]
    return Terms(
        logprobs=logprobs,
        old_logprobs=masks.keep(batch.old_logprobs, mask),
        log_ratio=log_ratio,
        ratio=RATIOS[a.ratio](logprobs, log_ratio, mask),
        advantage=masks.keep(batch.advantages, mask),
        mask=mask,
        positive=positive,
        apart=None if batch.choice is None else batch.choice.covariance,
    )


def _measure(a: Algorithm, terms: Terms, entropy: Array, batch: TrainBatch) -> Metrics:
    """Numbers of every algorithm."""
    mask, sampled = terms.mask, masks.keep(batch.sampler_logprobs, terms.mask)
    metrics = {
        "ratio": Mean.of(terms.ratio, mask),
        "kl_old": Mean.of(-terms.log_ratio, mask),
        "entropy": Mean.of(entropy, mask),
        "advantage": Mean.of(terms.advantage, mask),
        "advantage_size": Mean.of(jnp.abs(terms.advantage), mask),
        "kl_sampler": Mean.of(kl_core.k3(sampled, terms.logprobs, log_ratio_clamp=LOG_RATIO_CLAMP), mask),
    }
    if a.ratio != "token":
        metrics["effect/ratio"] = Mean.of(terms.ratio != ratios.token_ratio(terms.log_ratio, mask), mask)
    return metrics


def _leave_out(a: Algorithm, token_loss: Array, terms: Terms, batch: TrainBatch) -> tuple[Array, Metrics]:
    """The policy loss without the tokens of low entropy, and without bad rows far from the policy that sampled."""
    metrics: Metrics = {}
    if a.top_entropy_share is not None:
        assert batch.choice is not None and batch.choice.high_entropy is not None
        metrics["effect/top_entropy_share"] = terms.share(~batch.choice.high_entropy)
        token_loss = masks.keep(token_loss, batch.choice.high_entropy)
    if a.bad_row_threshold is not None:
        x = ratios.log_ratio(jax.lax.stop_gradient(terms.logprobs), batch.sampler_logprobs, terms.mask)
        of_row = masks.masked_mean(terms.advantage, terms.mask, axis=1)
        kept = mismatch.keep_bad_rows_near_policy(of_row, x, terms.mask, threshold=a.bad_row_threshold)
        metrics["effect/bad_row_threshold"] = Mean.of(~kept, jnp.any(terms.mask, axis=1))
        token_loss = masks.keep(token_loss, kept[:, None])
    return token_loss, metrics


def _reference_kl(a: Algorithm, terms: Terms, batch: TrainBatch, exact_kl: Array | None) -> Array:
    if a.kl_estimator == "exact" and exact_kl is not None:
        return masks.keep(exact_kl, terms.mask)
    assert batch.ref_logprobs is not None
    kl = kl_estimate(a, terms.logprobs, masks.keep(batch.ref_logprobs, terms.mask))
    return kl * terms.ratio if a.kl_importance else kl


def value_loss(algorithm: Algorithm, values: Array, batch: TrainBatch) -> tuple[Array, Metrics]:
    """Σ weights · (V - G)², clipped as value_clip says, with G the returns of the batch.

    Args:
      values: [B, T], of the critic that learns; gradients flow through it.
      batch: ``values`` (as they were when the advantages were computed) and ``returns`` are needed.

    Returns:
      (loss, metrics), which add up over the parts of a step. 1 - value_error / return_variance is the share of the
      returns' spread that the critic explains.
    """
    if batch.values is None or batch.returns is None:
        raise ValueError("batch.values or batch.returns is None: expected [B, T] each, the critic's values and targets")
    mask = batch.mask.astype(bool)
    new, old, targets = (masks.keep(masks.as_float(x), mask) for x in (values, batch.values, batch.returns))
    loss = losses.value_loss(new, old, targets, clip=algorithm.value_clip)
    squares = losses.value_loss(new, old, targets, clip=None)
    metrics = {"value_error": Mean.of(squares, mask)}
    if algorithm.value_clip is not None:
        metrics["effect/value_clip"] = Mean.of(loss > squares, mask)
    return jnp.sum(masks.keep(batch.weights, mask) * loss), jax.lax.stop_gradient(metrics)
