"""The distance to the reference policy, by the algorithm's estimator."""

from __future__ import annotations

from jaxrl_llm.algorithm.ratio import LOG_RATIO_CLAMP
from jaxrl_llm.core import kl
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Controls

KL_CLAMP = 10.0  # nats

KL_ESTIMATORS = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3, "absolute": kl.absolute}  # "exact" has no sampled token


def kl_estimate(algorithm: Algorithm, logprobs: Array, ref_logprobs: Array) -> Array:
    """The algorithm's estimate of KL(policy ‖ reference) at each token, in nats, clamped as the package says.

    The exact KL cannot be had from the sampled token's log-probabilities: in its place stands k3, as where no KL is
    placed and one is measured all the same.
    """
    estimator = KL_ESTIMATORS.get(algorithm.kl_estimator or "k3", kl.k3)
    return estimator(logprobs, ref_logprobs, log_ratio_clamp=LOG_RATIO_CLAMP, clamp=KL_CLAMP)


def kl_coefficient(algorithm: Algorithm, controls: Controls | None) -> Array | float:
    """The coefficient of this step: the adaptive one if it adapts."""
    if algorithm.kl_target is None:
        return algorithm.kl_coefficient
    if controls is None:
        raise ValueError(f"algorithm.kl_target = {algorithm.kl_target!r} but controls is None: expected Controls")
    return controls.kl_coefficient
