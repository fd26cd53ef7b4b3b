"""From rewards to advantages: baselines, scales, discount, whitening, clips, and the critic."""

from __future__ import annotations

from jaxrl_llm.study.catalogue.build import of_knob

_FAR = 1e6  # a bound that nothing reaches
_GROUP = {"baseline": "group", "scale": "group"}
_CRITIC = {
    "baseline": "critic",
    "scale": "none",
    "gae_lambda": 0.95,
    "gae_lambda_returns": 0.95,
    "critic_learning_rate": 1e-4,
    "critic_warmup": 0,
}

TRICKS = (
    # of the study: baseline × scale
    of_knob("no_normalization", {"baseline": "none", "scale": "none"}, title="Advantages are the rewards"),
    of_knob("group_normalization", _GROUP, knob="scale", title="Group mean and group std"),
    of_knob("batch_normalization", {"baseline": "batch", "scale": "batch"}, title="Batch mean and batch std"),
    of_knob("group_mean_only", {"baseline": "group", "scale": "none"}, title="Group mean without a std", knob="scale",
            moves="effect/baseline"),
    of_knob("batch_mean_only", {"baseline": "batch", "scale": "none"}, title="Batch mean without a std", knob="scale",
            moves="effect/baseline"),
    of_knob("mixed_normalization", {"baseline": "group", "scale": "batch"}, knob="scale",
            title="Group mean and batch std, of the raw rewards"),
    of_knob("mixed_normalization_centered", {"baseline": "group", "scale": "batch_centered"}, knob="scale",
            title="Group mean and batch std, of the rewards less their group's mean"),
    # other baselines
    of_knob("leave_one_out", {"baseline": "leave_one_out", "scale": "none"}),
    of_knob("running_normalization", {"baseline": "running", "scale": "running"}, title="Running mean and running std"),
    of_knob("length_weighted_baseline", {"baseline": "length_weighted", "scale": "none"}),
    of_knob("pass_at_k_baseline", {"baseline": "pass_at_k", "scale": "none"}),
    of_knob("greedy_baseline", {"baseline": "greedy", "scale": "none"}),
    of_knob("optimal_token_baseline", {"baseline": "optimal_token", "scale": "none"}),
    of_knob("nonzero_share_scale", {"scale": "nonzero_share"}),
    of_knob("std_without_correction", {"scale_ddof": 0}, needs=_GROUP, title="The std divides by the count"),
    of_knob("large_epsilon", {"scale_epsilon": 0.1}, needs=_GROUP),
    of_knob("statistics_of_source", {"batch_statistics": "source"}, needs={"baseline": "group", "scale": "batch"}),
    of_knob("statistics_of_step", {"batch_statistics": "step"}, moves=""),
    of_knob("reward_clip", {"reward_clip": 1.0}, neutral={"reward_clip": _FAR}),
    of_knob("advantage_clip", {"advantage_clip": 1.0}, neutral={"advantage_clip": _FAR}),
    of_knob("discount", {"discount": 0.99}),
    of_knob("whitening", {"whiten": True}),
    # the critic
    of_knob("critic", _CRITIC, title="A critic, with GAE"),
    of_knob("critic_without_bootstrap", {"gae_lambda": 1.0, "gae_lambda_returns": 1.0}, needs=_CRITIC,
            title="A critic whose advantages and returns have λ = 1"),
    of_knob("critic_length_lambda", {"gae_length_alpha": 0.05, "gae_lambda": None}, needs=_CRITIC),
    of_knob("critic_slow", {"critic_learning_rate": 1e-5}, needs=_CRITIC, title="A critic with a tenth of its rate"),
    of_knob("critic_warmup", {"critic_warmup": 5}, needs=_CRITIC),
    of_knob("value_clip", {"value_clip": 0.2}, needs=_CRITIC, neutral={"value_clip": _FAR}),
)  # fmt: skip
