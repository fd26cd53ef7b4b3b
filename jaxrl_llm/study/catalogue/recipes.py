"""Recipes as one trick each: what configs/NAME.py changes of configs/base.py.

Each also sets baseline, scale, surrogate, level of the ratio, its bounds and aggregation where it leaves them as they
are there, so that it is the same recipe on a base that has others.
"""

from __future__ import annotations

from typing import Any

from jaxrl_llm.study.catalogue.build import dotted
from jaxrl_llm.study.catalogue.record import Share, Trick

_FRAME = {
    "baseline": "none",
    "scale": "none",
    "surrogate": "ppo_clip",
    "ratio": "token",
    "clip_low": 0.2,
    "clip_high": 0.2,
    "aggregation": "token_mean",
}
_NO_CLIP: dict[str, Any] = {"clip_low": None, "clip_high": None}
_REINFORCE = {"surrogate": "reinforce", **_NO_CLIP}
_GROUP = {"baseline": "group", "scale": "group"}
_CRITIC = {"baseline": "critic", "critic_learning_rate": 1e-4}


def _kl(placement: str, estimator: str, coefficient: float) -> dict[str, Any]:
    return {"kl_placement": placement, "kl_estimator": estimator, "kl_coefficient": coefficient}


def _recipe(name: str, title: str, source: str, claim: str = "", **knobs: Any) -> Trick:
    return Trick(name, dotted({**_FRAME, **knobs}), title=title, source=source, claim=claim)


TRICKS = (
    _recipe(
        "lite_ppo",
        "Lite PPO: group mean, batch std, token-level loss",
        "arXiv 2508.08221, section 5",
        "Rises steadily on base models where GRPO and DAPO peak and then collapse (figure 15).",
        baseline="group",
        scale="batch",
    ),
    _recipe(
        "grpo",
        "GRPO: group mean and std, sequence-level loss, KL in the loss",
        "Shao et al., 2024, arXiv 2402.03300",
        "Below Lite PPO on base models; peaks and then collapses on the smaller one (arXiv 2508.08221, figure 15).",
        **_GROUP,
        **_kl("loss", "k3", 0.04),
        aggregation="sequence_mean",
    ),
    _recipe(
        "dapo",
        "DAPO: clip-higher, token-level loss, overlong penalty, dynamic sampling",
        "Yu et al., 2025, arXiv 2503.14476",
        "Below Lite PPO on base models (arXiv 2508.08221, figure 15).",
        **_GROUP,
        clip_high=0.28,
        overlong_buffer=Share(0.2, "sampling.max_tokens"),
        overlong_penalty=1.0,
        group_filter="zero_variance",
        resample_rounds=10,
    ),
    _recipe(
        "dr_grpo",
        "Dr. GRPO: group mean without std, a constant denominator",
        "Liu et al., 2025, arXiv 2503.20783",
        baseline="group",
        aggregation="constant",
    ),
    _recipe("reinforce", "REINFORCE: no baseline, no ratio", "Williams, 1992", **_REINFORCE),
    _recipe(
        "rloo",
        "RLOO: leave-one-out baseline, KL in the reward",
        "Ahmadian et al., 2024, arXiv 2402.14740",
        **_REINFORCE,
        **_kl("reward", "k1", 0.03),
        baseline="leave_one_out",
        aggregation="sequence_sum",
    ),
    _recipe(
        "remax",
        "ReMax: the greedy completion's reward as baseline",
        "Li et al., 2023, arXiv 2310.10505",
        **_REINFORCE,
        baseline="greedy",
        aggregation="sequence_sum",
    ),
    _recipe(
        "reinforce_pp",
        "REINFORCE++: whitened, KL in the reward",
        "Hu et al., 2025, arXiv 2501.03262",
        **_kl("reward", "k1", 0.001),
        whiten=True,
    ),
    _recipe(
        "reinforce_pp_baseline",
        "REINFORCE++ with group mean: whitened, KL in the loss",
        "Hu et al., 2025, arXiv 2501.03262",
        **_kl("loss", "k2", 0.001),
        baseline="group",
        whiten=True,
    ),
    _recipe(
        "gspo",
        "GSPO: the ratio of a completion",
        "Zheng et al., 2025, arXiv 2507.18071",
        **_GROUP,
        ratio="sequence",
        clip_low=3e-4,
        clip_high=4e-4,
        aggregation="sequence_mean",
    ),
    _recipe(
        "cispo",
        "CISPO: the ratio is a clipped weight",
        "MiniMax, 2025, arXiv 2506.13585",
        **_GROUP,
        surrogate="cispo",
        clip_low=1.0,
        clip_high=4.0,
    ),
    _recipe(
        "sapo",
        "SAPO: a soft gate in place of the clip",
        "Gao et al., 2025, arXiv 2511.20347",
        **_GROUP,
        **_NO_CLIP,
        surrogate="sapo",
        sapo_temperature_positive=1.0,
        sapo_temperature_negative=1.05,
        aggregation="sequence_mean",
    ),
    _recipe(
        "gmpo",
        "GMPO: geometric mean of the ratios",
        "Zhao et al., 2025, arXiv 2507.20673",
        **_GROUP,
        surrogate="gmpo",
        clip_low=0.4,
        clip_high=0.4,
        aggregation="sequence_mean",
    ),
    _recipe(
        "topr",
        "TOPR: tapered off-policy REINFORCE",
        "Le Roux et al., 2025, arXiv 2503.14286",
        **_NO_CLIP,
        surrogate="topr",
        ratio="sequence_product",
        topr_weight_positive=1.0,
        topr_weight_negative=1.0,
        aggregation="sequence_sum",
    ),
    _recipe(
        "opo",
        "OPO: the baseline weighs rewards by length",
        "Hao et al., 2025, arXiv 2505.23585",
        **_REINFORCE,
        baseline="length_weighted",
        aggregation="sequence_sum",
    ),
    _recipe(
        "gpg",
        "GPG: group mean, divided by the share of nonzero rewards",
        "Chu et al., 2025, arXiv 2504.02546",
        **_REINFORCE,
        baseline="group",
        scale="nonzero_share",
    ),
    _recipe(
        "ppo",
        "PPO: a critic with GAE, whitened",
        "Schulman et al., 2017, arXiv 1707.06347",
        **_CRITIC,
        gae_lambda=0.95,
        gae_lambda_returns=0.95,
        critic_warmup=0,
        value_clip=0.2,
        whiten=True,
    ),
    _recipe(
        "vapo",
        "VAPO: a critic with λ by length, clip-higher, imitation of right answers",
        "Yue et al., 2025, arXiv 2504.05118",
        **_CRITIC,
        gae_length_alpha=0.05,
        gae_lambda_returns=1.0,
        critic_warmup=10,
        clip_high=0.28,
        positive_nll_coefficient=0.1,
    ),
)
