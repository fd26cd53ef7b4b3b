"""The policy loss of a token."""

from __future__ import annotations

from jaxrl_llm.techniques.record import Technique

_TITLE = "Token loss"

RECORDS = (
    Technique(
        "surrogate",
        title=_TITLE,
        formula="ℓ_it",
        meaning="what a token of a completion adds to the loss, before it is weighed",
        unit="[B, T]",
        study="PPO's clip in every arm.",
        trap="With one optimizer step a rollout the policy is the one that sampled: the ratio is 1, and ppo_clip, "
        "cispo and reinforce have the same gradient.",
    ),
    Technique(
        "surrogate",
        "ppo_clip",
        title=_TITLE,
        formula="−min(ρ·A, clip(ρ, {clip_floor}, {clip_ceiling})·A)",
        meaning="no gradient where A > 0 and ρ is above the bound, or A < 0 and ρ is below it",
        source="Schulman et al., 2017, arXiv 1707.06347, eq. 7",
        study="Lite PPO is this, with two bounds of 0.2.",
        defects=(
            "EasyDeL (2026-04) clips before it multiplies, −A·min(ρ, clip(ρ)): for A = −1 the derivative by ρ is 1 at "
            "ρ = 0.5, where PPO's is 0, and 0 at ρ = 1.5, where PPO's is 1. Bad tokens that are already rare are "
            "pushed on, and those that became likelier are left alone.",
        ),
        trap="The clip bounds nothing on the other side: a bad token with ρ = 10 has ten times the gradient. See "
        "dual_clip.",
    ),
    Technique(
        "surrogate",
        "reinforce",
        title=_TITLE,
        formula="−A · log π(o_t)",
        meaning="no ratio, no clip",
        source='Williams, 1992, "Simple statistical gradient-following algorithms"',
        peers=("verl: bypass mode; ROLL: pg_variant vanilla.",),
        trap="From the second optimizer step of a rollout on, the data is of an older policy and nothing corrects it.",
    ),
    Technique(
        "surrogate",
        "cispo",
        title=_TITLE,
        formula="−sg(clip(ρ, {clip_floor}, {clip_ceiling})) · A · log π(o_t)",
        meaning="the ratio weighs and is bounded; every token keeps a gradient, also where PPO would clip it",
        source="MiniMax, 2025, arXiv 2506.13585, eqs. 4-5: no lower bound, the upper one tuned",
        peers=(
            "TRL takes the upper bound itself as epsilon_high (5.0, from ScaleRL): that is clip_high = 4 here; it has "
            "no lower bound. verl and ROLL take 1 − low and 1 + high.",
        ),
        defects=(
            "EasyDeL (2026-04) lets the gradient flow through the weight. At ρ = 1 and A = 1 the derivative by log π "
            "is then −(1 + log π) in place of −1: at log π = −2 it is +1, so every good token less likely than 1/e is "
            "made less likely still.",
        ),
        trap="It is not proximal: a token may go on moving, with weight 1 + clip_high at most, at every further step.",
    ),
    Technique(
        "surrogate",
        "sapo",
        title=_TITLE,
        formula="−A · 4/τ · sigmoid(τ (ρ − 1)), τ = {sapo_temperature_positive} where A > 0, else "
        "{sapo_temperature_negative}",
        meaning="the gradient fades with the distance from ρ = 1, and is nowhere cut",
        source="Gao et al., 2025, arXiv 2511.20347 (SAPO), eqs. 5-6",
        peers=("verl and TRL: the same, temperatures 1.0 and 1.05.",),
        trap="At temperatures of about 1 the gate is wide: at ρ = 2 the gradient is still 0.79 of that at ρ = 1.",
    ),
    Technique(
        "surrogate",
        "gmpo",
        title=_TITLE,
        formula="−A · exp(mean_t σ min(σ d_t, σ clip(d_t, −{clip_low}, {clip_high}))), σ = sign(A)",
        meaning="the geometric mean of a completion's clipped ratios, the same at each of its tokens",
        source="Zhao et al., 2025, arXiv 2507.20673 (GMPO), eq. 4: bounds of ±0.4 on the log-ratio",
        peers=("verl (geo_mean) means over all rows, those without tokens included.",),
        trap="The bounds are of the log-ratio: 0.4 is a ratio between 0.67 and 1.49. The paper's mean is over rows: "
        "under token_mean a row weighs by its length.",
    ),
    Technique(
        "surrogate",
        "topr",
        title=_TITLE,
        formula="−{topr_weight_positive} · A · log π(o_t) where r > 0, else "
        "−{topr_weight_negative} · sg(clip(ρ, 0, 1)) · A · log π(o_t)",
        meaning="good rows learn as in REINFORCE; bad rows less, the less likely they have become",
        source="Le Roux et al., 2025, arXiv 2503.14286 (TOPR), eq. 8",
        peers=("The paper's ratio is that of the whole completion (ratio sequence_product); ROLL takes each token's.",),
        trap="Good and bad go by the sign of the judged reward, not of A: with rewards of 0 and 1 and no baseline the "
        "bad rows have A = 0.",
    ),
    Technique(
        "surrogate",
        "kimi",
        title=_TITLE,
        formula="−A · log π(o_t) + {square_coefficient} · d_t²",
        meaning="REINFORCE, held near the policy that sampled by the squared log-ratio",
        source="Kimi team, 2025, arXiv 2501.12599 (Kimi k1.5), section 2.3.2",
        peers=(
            "ROLL (kimi15): τ/2 · d² with τ = 0.1, so square_coefficient = 0.05. The paper's square is of the whole "
            "completion's log-ratio.",
        ),
        trap="At the first optimizer step of a rollout d = 0: the term acts from the second on.",
    ),
    Technique(
        "surrogate",
        "vespo",
        title=_TITLE,
        formula="−sg(wᵏ exp(λ (1 − w))) · A · log π(o_t), w = exp(Σ_t d_t), (k, λ) = ({vespo_k_positive}, "
        "{vespo_lambda_positive}) where A ≥ 0, else ({vespo_k_negative}, {vespo_lambda_negative})",
        meaning="the ratio of the whole completion weighs through a kernel that is 1 at w = 1 and largest at w = k/λ",
        source="Shen et al., 2026, arXiv 2602.10693 (VESPO)",
        peers=("TRL: the same, the sum of d held between log 1e-8 and 20.",),
        trap="w is a product over tokens: at 1,000 tokens a mean log-ratio of 0.01 is w = 22026, and the row has no "
        "weight.",
    ),
    Technique(
        "surrogate",
        "dppo",
        title=_TITLE,
        formula="−ρ·A, 0 where π(o_t) − π_old(o_t) leaves its bounds; + {square_coefficient} · d_t²",
        meaning="a trust region on the probability, not on the ratio: rare tokens may move by a large factor",
        source="Qi et al., 2026, arXiv 2602.04879 (DPPO), the binary approximation of total variation",
        peers=("prime-rl: its default loss. verl has it.",),
        trap="clip_low and clip_high are probabilities here: 0.2 is a wide region.",
    ),
    Technique(
        "surrogate",
        "clip_cov",
        title=_TITLE,
        formula="−min(ρ·A, clip(ρ, {clip_floor}, {clip_ceiling})·A), and 0 at a share {cov_share} of tokens drawn from "
        "{cov_low} < (A − mean A)(log π − mean log π) < {cov_high}",
        meaning="a few of the tokens that lower the entropy most lose their loss",
        source="Cui et al., 2025, arXiv 2505.22617, section 4: share 2e-4, bounds 1 and 5",
        peers=("verl alone has it.",),
        trap="Below 5,000 tokens in an optimizer step a share of 2e-4 is still one token, never less.",
    ),
    Technique(
        "surrogate",
        "kl_cov",
        title=_TITLE,
        formula="−ρ·A, + {kl_cov_coefficient} · |d_t| at the share {cov_share} of tokens of largest "
        "(A − mean A)(log π − mean log π)",
        meaning="the tokens that lower the entropy most are held near the old policy; nothing is clipped",
        source="Cui et al., 2025, arXiv 2505.22617, section 4: share 2e-4 to 2e-3, coefficient 1",
        peers=("verl alone has it.",),
        trap="|d| has no gradient at d = 0, the first optimizer step of a rollout.",
    ),
    Technique(
        "sapo_temperature_positive",
        title="SAPO, τ where A > 0",
        formula="τ = {sapo_temperature_positive}",
        meaning="the larger, the sooner the gradient fades",
        unit="1 / ratio",
        source="Gao et al., 2025, arXiv 2511.20347 (SAPO): 1.0",
    ),
    Technique(
        "sapo_temperature_negative",
        title="SAPO, τ elsewhere",
        formula="τ = {sapo_temperature_negative}",
        meaning="a little larger than the other: bad tokens move logits of tokens that were never sampled",
        unit="1 / ratio",
        source="Gao et al., 2025, arXiv 2511.20347 (SAPO): 1.05",
    ),
    Technique(
        "topr_weight_positive",
        title="TOPR, good rows",
        formula="−{topr_weight_positive} · A · log π(o_t)",
        meaning="weight of rows whose judged reward is above 0",
        unit="a factor",
        source="ROLL's topr_positive_weight; the paper has 1",
    ),
    Technique(
        "topr_weight_negative",
        title="TOPR, other rows",
        formula="−{topr_weight_negative} · sg(clip(ρ, 0, 1)) · A · log π(o_t)",
        meaning="weight of rows whose judged reward is 0 or less",
        unit="a factor",
        source="ROLL's topr_negative_weight; the paper has 1",
    ),
    Technique(
        "square_coefficient",
        title="Squared log-ratio",
        formula="+ {square_coefficient} · d_t²",
        meaning="holds the policy near the one that sampled",
        unit="loss for nats²",
        counts="tokens",
        source="Kimi team, 2025, arXiv 2501.12599: τ / 2",
        trap="The paper's τ is twice this number.",
    ),
    *(
        Technique(
            f"vespo_{name}_{side}",
            title=f"VESPO, {symbol} where A {sign} 0",
            formula=f"wᵏ exp(λ (1 − w)), {symbol} = {{vespo_{name}_{side}}}",
            meaning=meaning,
            unit=unit,
            source=f"Shen et al., 2026, arXiv 2602.10693 (VESPO); {default} by default in TRL",
        )
        for side, sign, defaults in (("positive", "≥", (2, 3)), ("negative", "<", (3, 2)))
        for name, symbol, meaning, unit, default in (
            ("k", "k", "how fast the weight falls where the completion has become less likely", "-", defaults[0]),
            ("lambda", "λ", "how fast the weight falls where the completion has become likelier", "-", defaults[1]),
        )
    ),
)
