"""Distance to the reference, entropy, and the gap between sampler and trainer."""

from __future__ import annotations

from typing import Any

from jaxrl_llm.study.catalogue.build import of_knob
from jaxrl_llm.study.catalogue.record import Trick

_FAR = 1e6  # a bound that nothing reaches
_TRAINER = {"old_logprobs": "trainer"}
_TIS = {"correction": "truncate", "correction_level": "token", "correction_high": 2.0}


def _kl(placement: str, estimator: str, coefficient: float) -> dict[str, Any]:
    return {"kl_placement": placement, "kl_estimator": estimator, "kl_coefficient": coefficient}


def _rejection(name: str, estimator: str, level: str, high: float, low: float | None = None) -> Trick:
    what = {"rejection": estimator, "rejection_level": level}
    bounds = {"rejection_low": low, "rejection_high": high}
    far = {"rejection_low": None if low is None else -_FAR, "rejection_high": _FAR}
    title = f"Rejection: {estimator}, {level.replace('_', ' ')}, {high}"
    return of_knob(name, {**what, **bounds}, title=title, neutral={**what, **far}, needs=_TRAINER)


TRICKS = (
    # distance to the reference
    of_knob("kl_loss", _kl("loss", "k3", 0.04), title="KL in the loss, k3: 0.04"),
    of_knob("kl_loss_k2", _kl("loss", "k2", 0.001), title="KL in the loss, k2: 0.001"),
    of_knob("kl_loss_absolute", _kl("loss", "absolute", 0.001), title="KL in the loss, |d|: 0.001"),
    of_knob("kl_loss_exact", _kl("loss", "exact", 0.001), title="KL in the loss, over the whole vocabulary: 0.001"),
    of_knob("kl_reward", _kl("reward", "k1", 0.001), title="KL in the reward, k1: 0.001"),
    of_knob("kl_importance", {"kl_importance": True}, needs=_kl("loss", "k3", 0.04)),
    of_knob("kl_adaptive", {"kl_target": 0.02, "kl_horizon": 10000}, needs=_kl("reward", "k1", 0.001)),
    of_knob("no_kl", {"kl_placement": "none", "kl_estimator": None, "kl_coefficient": 0.0, "kl_importance": False,
                      "kl_target": None, "kl_horizon": None}),
    # entropy
    of_knob("entropy_bonus", {"entropy_coefficient": 0.001}),
    of_knob("entropy_target", {"entropy_target": 0.2, "entropy_step": 0.005}),
    # the gap between sampler and trainer
    of_knob("trainer_logprobs", _TRAINER),
    of_knob("sampler_logprobs", {"old_logprobs": "sampler"}),
    of_knob("truncated_importance", _TIS, needs=_TRAINER),
    of_knob("masked_importance",
            {"correction": "mask", "correction_level": "token", "correction_low": 0.5, "correction_high": 5.0},
            needs=_TRAINER),
    of_knob("sequence_importance", {**_TIS, "correction_level": "sequence"}, knob="correction_level", needs=_TRAINER,
            moves="effect/correction"),
    of_knob("segment_importance", {**_TIS, "correction_level": "segment"}, knob="correction_level", needs=_TRAINER,
            moves="effect/correction"),
    of_knob("geometric_importance", {**_TIS, "correction_level": "geometric"}, knob="correction_level", needs=_TRAINER,
            moves="effect/correction"),
    of_knob("importance_mean_of_tokens", {"correction_normalize": "tokens"}, needs={**_TRAINER, **_TIS}),
    of_knob("importance_mean_of_rows", {"correction_normalize": "rows"}, needs={**_TRAINER, **_TIS}),
    of_knob("no_importance", {"correction": "none", "correction_normalize": "none", "correction_level": None,
                              "correction_low": None, "correction_high": None}),
    _rejection("rejection_k1", "k1", "sequence_mean", 0.01, -0.01),
    _rejection("rejection_k2", "k2", "sequence_max", 0.5),
    _rejection("rejection_k3", "k3", "token", 0.05),
    _rejection("rejection_k3_sum", "k3", "sequence_sum", 0.5),
    of_knob("no_rejection", {"rejection": "none", "rejection_level": None, "rejection_low": None,
                             "rejection_high": None}),
)  # fmt: skip
