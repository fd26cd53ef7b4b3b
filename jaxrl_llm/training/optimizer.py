"""The optimizer: AdamW with a warm-up and a decay schedule, after clipping of the global gradient norm."""

from __future__ import annotations

import dataclasses
from typing import Literal

import optax


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    learning_rate: float
    warmup_steps: int
    schedule: Literal["constant", "linear", "cosine"]
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float | None


def learning_rate(settings: OptimizerSettings, total_steps: int) -> optax.Schedule:
    """Linear warm-up from learning_rate / warmup_steps, then the schedule, down to 0 after ``total_steps``."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    rest = max(1, total_steps - warmup)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }[settings.schedule]
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup - 1 or 1), after], [warmup])


def make_optimizer(settings: OptimizerSettings, total_steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101); ``total_steps`` counts optimizer steps of the run."""
    adamw = optax.adamw(
        learning_rate(settings, total_steps),
        b1=settings.beta1,
        b2=settings.beta2,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
    if settings.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adamw)
