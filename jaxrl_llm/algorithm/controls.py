"""What an algorithm carries from one step to the next: adaptive coefficients and running moments."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxrl_llm.core import kl as kl_core
from jaxrl_llm.core.running import Moments
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Controls, Mean, Metrics

KL_ERROR_CLIP = 0.2  # the adaptive coefficient moves by at most this share per kl_horizon completions
INITIAL_COUNT = 1e-4  # rows that the start of the running moments, mean 0 and variance 1, weighs as


def initial_controls(algorithm: Algorithm) -> Controls:
    """Coefficients as the knobs say, and moments that have seen nothing."""
    numbers = (algorithm.kl_coefficient, algorithm.entropy_coefficient, 0.0, 1.0, INITIAL_COUNT)
    return Controls(*(jnp.asarray(number, jnp.float32) for number in numbers))


def moments(controls: Controls) -> Moments:
    return Moments(controls.reward_mean, controls.reward_variance, controls.reward_count)


def with_moments(controls: Controls, seen: Moments) -> Controls:
    return dataclasses.replace(controls, reward_mean=seen.mean, reward_variance=seen.variance, reward_count=seen.count)


def next_controls(
    algorithm: Algorithm, controls: Controls, *, kl: Array | None, entropy: Array, rows: int
) -> tuple[Controls, Metrics]:
    """The coefficients of the next step, from what this one measured; unchanged without a target.

    KL: see :func:`jaxrl_llm.core.kl.adapted_coefficient`. Entropy: coefficient ± entropy_step, up where the entropy is
    below its target, down where it is above, and never below 0.

    A nan was not measured (a step whose tokens were all filtered out) and changes nothing.

    Args:
      kl: mean KL of a token to the reference, nats; None without a reference.
      entropy: mean entropy of a token, nats.
      rows: completions of the step.

    Reference: Ziegler et al., 2019, arXiv 1909.08593, section 2.2; He et al., 2025, arXiv 2505.22312 (Skywork-OR1),
    adaptive entropy control, without its gate that makes the coefficient 0 above the target.
    """
    new, metrics = controls, {}
    if algorithm.kl_target is not None:
        if kl is None:
            raise ValueError(f"algorithm.kl_target = {algorithm.kl_target!r} but kl is None: expected a measured KL")
        assert algorithm.kl_horizon is not None
        coefficient = kl_core.adapted_coefficient(
            controls.kl_coefficient,
            kl,
            rows=rows,
            target=algorithm.kl_target,
            horizon=algorithm.kl_horizon,
            error_clip=KL_ERROR_CLIP,
        )
        coefficient = jnp.where(jnp.isnan(kl), controls.kl_coefficient, coefficient)
        new = dataclasses.replace(new, kl_coefficient=coefficient)
        metrics["kl_coefficient"] = Mean.of(controls.kl_coefficient)
        metrics["effect/kl_target"] = Mean.of(coefficient != controls.kl_coefficient)
    if algorithm.entropy_target is not None:
        assert algorithm.entropy_step is not None
        change = jnp.where(entropy < algorithm.entropy_target, algorithm.entropy_step, -algorithm.entropy_step)
        change = jnp.where(jnp.isnan(entropy), 0, change)
        coefficient = jnp.maximum(controls.entropy_coefficient + change, 0)
        new = dataclasses.replace(new, entropy_coefficient=coefficient)
        metrics["entropy_coefficient"] = Mean.of(controls.entropy_coefficient)
        metrics["effect/entropy_target"] = Mean.of(coefficient != controls.entropy_coefficient)
    return new, metrics


def entropy_coefficient(algorithm: Algorithm, controls: Controls | None) -> Array | float:
    """The coefficient of this step: the adaptive one if it adapts."""
    if algorithm.entropy_target is None:
        return algorithm.entropy_coefficient
    if controls is None:
        raise ValueError(
            f"algorithm.entropy_target = {algorithm.entropy_target!r} but controls is None: expected Controls"
        )
    return controls.entropy_coefficient
