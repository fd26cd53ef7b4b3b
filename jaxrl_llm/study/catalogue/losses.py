"""The policy loss of a token, the level of the ratio, its bounds, which tokens count, and how they are averaged."""

from __future__ import annotations

from jaxrl_llm.study.catalogue.build import of_knob
from jaxrl_llm.study.catalogue.record import Share

_FAR = 1e6  # a bound that nothing reaches
_NO_CLIP = {"clip_low": None, "clip_high": None}
_SAPO = {"surrogate": "sapo", **_NO_CLIP, "sapo_temperature_positive": 1.0, "sapo_temperature_negative": 1.05}
_TOPR = {"surrogate": "topr", **_NO_CLIP, "topr_weight_positive": 1.0, "topr_weight_negative": 1.0}
_VESPO = {
    "surrogate": "vespo",
    **_NO_CLIP,
    "vespo_k_positive": 2.0,
    "vespo_lambda_positive": 3.0,
    "vespo_k_negative": 3.0,
    "vespo_lambda_negative": 2.0,
}
_DPPO = {"surrogate": "dppo", "clip_low": 0.1, "clip_high": 0.1, "dppo_by_sign": True, "square_coefficient": 0.0}
_CLIP_COV = {"surrogate": "clip_cov", "cov_low": 1.0, "cov_high": 5.0, "cov_share": 2e-4}
_KL_COV = {"surrogate": "kl_cov", **_NO_CLIP, "cov_share": 2e-3, "kl_cov_coefficient": 1.0}
_CISPO = {"surrogate": "cispo", "clip_low": 1.0, "clip_high": 4.0}

TRICKS = (
    # of the study: clip-higher, and aggregation
    *(
        of_knob(f"clip_high_0_{hundredths}", {"clip_high": hundredths / 100}, neutral={"clip_high": 0.2},
                title=f"Clip-higher: the ratio's upper bound at 1.{hundredths}")
        for hundredths in (24, 28, 32)
    ),
    of_knob("token_loss", {"aggregation": "token_mean"}, title="Token-level loss: every token weighs the same"),
    of_knob("sequence_loss", {"aggregation": "sequence_mean"},
            title="Sequence-level loss: every completion weighs the same"),
    of_knob("prompt_loss", {"aggregation": "prompt_mean"}, title="Prompt-level loss: every prompt weighs the same"),
    of_knob("sequence_sum_loss", {"aggregation": "sequence_sum"}, title="Completions weigh by their length"),
    of_knob("constant_loss", {"aggregation": "constant"}, title="Tokens divided by a constant, the limit"),
    of_knob("constant_loss_half", {"aggregation_constant": Share(0.5, "sampling.max_tokens")},
            needs={"aggregation": "constant"}, title="Tokens divided by a constant, half the limit"),
    # other bounds
    of_knob("clip_low_0_1", {"clip_low": 0.1}),
    of_knob("clip_low_open", {"clip_low": 1.0}, title="Clip without a lower bound", moves=""),
    of_knob("dual_clip", {"dual_clip": 3.0}, neutral={"dual_clip": _FAR}),
    of_knob("ratio_cap", {"ratio_cap": 4.0}, neutral={"ratio_cap": _FAR}),
    # the level of the ratio
    of_knob("token_ratio", {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2}, moves=""),
    of_knob("sequence_ratio", {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}),
    of_knob("sequence_token_ratio", {"ratio": "sequence_token", "clip_low": 3e-4, "clip_high": 4e-4}),
    of_knob("sequence_product_ratio", {"ratio": "sequence_product"}),
    # other losses of a token
    of_knob("ppo_clip_loss", {"surrogate": "ppo_clip", "clip_low": 0.2, "clip_high": 0.2}),
    of_knob("reinforce_loss", {"surrogate": "reinforce", **_NO_CLIP}),
    of_knob("cispo_loss", _CISPO),
    of_knob("cispo_drop_clipped", {"drop_clipped": True}, needs={**_CISPO, "clip_low": 0.2, "clip_high": 0.2}),
    of_knob("sapo_loss", _SAPO),
    of_knob("sapo_sharp", {"sapo_temperature_positive": 4.0, "sapo_temperature_negative": 4.2}, needs=_SAPO),
    of_knob("gmpo_loss", {"surrogate": "gmpo", "clip_low": 0.4, "clip_high": 0.4}),
    of_knob("topr_loss", {**_TOPR, "ratio": "sequence_product"}),
    of_knob("topr_softer", {"topr_weight_negative": 0.5, "topr_weight_positive": 1.0},
            needs={**_TOPR, "ratio": "sequence_product"}),
    of_knob("kimi_loss", {"surrogate": "kimi", **_NO_CLIP, "square_coefficient": 0.05},
            moves="effect/square_coefficient"),
    of_knob("vespo_loss", _VESPO),
    of_knob("dppo_loss", _DPPO),
    of_knob("dppo_both_sides", {"dppo_by_sign": False}, needs=_DPPO),
    of_knob("dppo_square", {"square_coefficient": 0.05}, needs=_DPPO),
    of_knob("clip_cov_loss", _CLIP_COV, moves="effect/cov_share"),
    of_knob("kl_cov_loss", _KL_COV, moves="effect/cov_share"),
    # which tokens have a loss, and what is added
    of_knob("entropy_mask", {"top_entropy_share": 0.2}),
    of_knob("bad_row_mask", {"bad_row_threshold": 0.1}, neutral={"bad_row_threshold": _FAR}),
    of_knob("positive_nll", {"positive_nll_coefficient": 0.1}),
)  # fmt: skip
