"""The importance ratio, its bounds, and the tokens that a policy loss leaves out or adds."""

from __future__ import annotations

from jaxrl_llm.techniques.record import Technique

_TITLE = "Ratio"
_BOUND = "a distance: of ρ from 1; of the log-ratio from 0 (gmpo); of π − π_old from 0 (dppo)"

RECORDS = (
    Technique(
        "ratio",
        title=_TITLE,
        formula="ρ",
        meaning="how much likelier the policy that learns makes what was sampled",
        unit="[B, T]",
        peers=(
            "Log-ratios are held within ±20 before they are exponentiated in verl, OpenRLHF, Tunix and here; in TRL, "
            "ROLL and AReaL they are not.",
        ),
        trap="Sampler and trainer must mean the same distribution. Under top-p with a kept mass of 0.895 a trainer "
        "that scores over all tokens measures a mean ratio of 0.896 on-policy (TRL, pull request 7269).",
        counts="tokens",
    ),
    Technique(
        "ratio",
        "token",
        title=_TITLE,
        formula="ρ_t = exp(d_t), d_t = log π(o_t) − log π_old(o_t)",
        meaning="one ratio a token",
        source="Schulman et al., 2017, arXiv 1707.06347",
        trap="The product over tokens is the unbiased weight of a completion; a ratio a token alone is not.",
    ),
    Technique(
        "ratio",
        "sequence",
        title=_TITLE,
        formula="ρ = exp(mean_t(log π(o_t) − log π_old(o_t)))",
        meaning="one ratio a completion (GSPO), with a gradient to all of its tokens",
        source="Zheng et al., 2025, arXiv 2507.18071 (GSPO), eq. 7: bounds of 3e-4 and 4e-4",
        peers=(
            "verl and Tunix have sequence_token under this name, with the exponent at most 10; TRL and OpenRLHF have "
            "this one.",
        ),
        trap="A mean over tokens hardly moves: with bounds of 0.2 nothing is ever clipped.",
    ),
    Technique(
        "ratio",
        "sequence_token",
        title=_TITLE,
        formula="ρ_t = sg(exp(mean_s d_s)) · π(o_t) / sg(π(o_t))",
        meaning="the value of a completion's ratio with each token's own gradient (GSPO-token)",
        source="Zheng et al., 2025, arXiv 2507.18071 (GSPO-token), eq. 14",
        trap="Where A is the same at all tokens it is `sequence`, to the last digit of the gradient.",
    ),
    Technique(
        "ratio",
        "sequence_product",
        title=_TITLE,
        formula="ρ = exp(Σ_t(log π(o_t) − log π_old(o_t)))",
        meaning="one ratio a completion, the ratio of its probabilities, the sum held below 20",
        source='Precup, Sutton and Singh, 2000, "Eligibility traces for off-policy policy evaluation"',
        peers=("TRL's RLOO trainer clips this ratio.",),
        trap="Unbiased, of a variance that grows exponentially with the length: at 1,000 tokens nearly every row is "
        "beyond a bound of 0.2.",
    ),
    Technique(
        "clip_low",
        title="Clip, low side",
        formula="ρ ≥ {clip_floor} where A < 0",
        meaning="a bad token below the bound has no gradient",
        unit=_BOUND,
        source="Schulman et al., 2017, arXiv 1707.06347: 0.2",
        study="0.2 throughout.",
        peers=("pg_clip_low (ROLL), clip_ratio_low (verl), epsilon (TRL, Tunix), eps_clip_low (OpenRLHF).",),
        trap="1 opens the side. With dppo_by_sign false clip_high is the bound of both sides, and this is not read.",
        counts="tokens",
    ),
    Technique(
        "clip_high",
        title="Clip, high side",
        formula="ρ ≤ {clip_ceiling} where A > 0",
        meaning="a good token above the bound has no gradient",
        unit=_BOUND,
        source="Yu et al., 2025, arXiv 2503.14476 (DAPO), eq. 10: 0.28 (clip-higher)",
        study="Takeaways 4 to 6: raise it for aligned models, 0.28 on 8B and 0.32 on 4B, entropy falls more slowly, "
        "gains of about 0.5 to 2 points; on base models no gain (figures 7, 8, 11). Four bounds, one seed, one family: "
        "a trend, not a law. At 0.2 the clip hits sentence-initial connectives, at 0.28 mostly common words (figure "
        "10).",
        peers=(
            "pg_clip_high with use_pg_clip_range (ROLL), clip_ratio_high (verl), epsilon_high (TRL, Tunix). Simply and "
            "SkyRL-tx take absolute thresholds.",
            "ROLL in August 2025 averaged its clip fraction over padding too: the study's 0.003 may be diluted.",
        ),
        trap="With one optimizer step a rollout it cannot bind. In cispo it bounds a weight and stops no gradient.",
        counts="tokens",
    ),
    Technique(
        "dual_clip",
        title="Dual clip",
        formula="min(ℓ_it, {dual_clip} · |A|) where A < 0",
        meaning="a bad token with a huge ratio has a loss of at most {dual_clip} · |A|, and no gradient beyond",
        unit="a ratio, above 1",
        source="Ye et al., 2020, arXiv 1912.09729, eq. 5",
        study="The paper does not say whether its runs have it; ROLL's examples do.",
        peers=("3 by default in verl; c_clip (AReaL), epsilon_c (Tunix).",),
        defects=(
            "ROLL has no key for it: the bound is 1 + 2 · pg_clip, 1.4 at a clip of 0.2, even where the clip's two "
            "bounds are set apart. A bad token at ρ = 1.5 has no gradient there, and one of size |A| under a bound of "
            "3.",
        ),
        trap="A bound near 1 + clip_high stops bad tokens from being unlearned when a step has made them likelier.",
        counts="tokens",
    ),
    Technique(
        "ratio_cap",
        title="Ratio cap",
        formula="−min(min(ρ, {ratio_cap})·A, clip(ρ, {clip_floor}, {clip_ceiling})·A)",
        meaning="the unclipped ratio is at most {ratio_cap}, without gradient beyond",
        unit="a ratio",
        source="Prime Intellect, 2025, arXiv 2505.07291 (INTELLECT-2), two-sided clipping: delta",
        peers=("delta in TRL and EasyDeL; Simply has a ratio cap.",),
        trap="Where A < 0 it is dual_clip under another name; where A > 0 it acts below 1 + clip_high only.",
        counts="tokens",
    ),
    Technique(
        "drop_clipped",
        title="Clipped tokens",
        formula="ℓ_it = 0 where A > 0 and ρ > {clip_ceiling}, or A < 0 and ρ < {clip_floor}",
        meaning="tokens that PPO's clip would stop have no gradient in CISPO either",
        unit="true or false",
        peers=("ROLL: an optional mask of its CISPO.",),
        trap="It takes from CISPO what CISPO was made for.",
        counts="tokens",
    ),
    Technique(
        "dppo_by_sign",
        title="DPPO, by sign",
        formula="true: dropped where A > 0 and π − π_old > {clip_high}, or A ≤ 0 and π − π_old < −{clip_low}; "
        "false: where |π − π_old| > {clip_high}",
        meaning="whether a bound holds only where it is left in the direction of A",
        unit="true or false",
        source="Qi et al., 2026, arXiv 2602.04879 (DPPO)",
        trap="False drops tokens that are on their way back.",
    ),
    Technique(
        "cov_low",
        title="Clip-Cov, low bound",
        formula="(A − mean A)(log π − mean log π) > {cov_low}",
        meaning="candidates have a covariance above it",
        unit="nats times the unit of A",
        source="Cui et al., 2025, arXiv 2505.22617: 1",
        trap="It scales with A: without a std that divides A the published bounds mean something else.",
    ),
    Technique(
        "cov_high",
        title="Clip-Cov, high bound",
        formula="(A − mean A)(log π − mean log π) < {cov_high}",
        meaning="candidates have a covariance below it",
        unit="nats times the unit of A",
        source="Cui et al., 2025, arXiv 2505.22617: 5",
    ),
    Technique(
        "cov_share",
        title="Covariance, share",
        formula="max(1, ⌊{cov_share} · tokens⌋)",
        meaning="how many tokens of an optimizer step are treated apart",
        unit="a share of tokens",
        source="Cui et al., 2025, arXiv 2505.22617: 2e-4",
        counts="tokens",
    ),
    Technique(
        "kl_cov_coefficient",
        title="KL-Cov, coefficient",
        formula="+ {kl_cov_coefficient} · |d_t|",
        meaning="what holds the tokens of largest covariance",
        unit="loss for a nat",
        source="Cui et al., 2025, arXiv 2505.22617: 1",
    ),
    Technique(
        "top_entropy_share",
        title="Entropy mask",
        formula="H_t ≥ quantile of H at 1 − {top_entropy_share}, over all tokens of the optimizer step",
        meaning="only the share {top_entropy_share} of tokens, those of largest entropy, has a policy loss",
        unit="a share of the tokens of an optimizer step",
        source="Wang et al., 2025, arXiv 2506.01939 (80/20 rule): 0.2",
        peers=("top_entropy_quantile in TRL; EasyDeL has it.",),
        trap="The tokens left out still count in the denominator, as in TRL: the gradient shrinks with the share.",
        counts="tokens",
    ),
    Technique(
        "positive_nll_coefficient",
        title="Likelihood of good rows",
        formula="+ {positive_nll_coefficient} · −log π(o_t) where the judged reward is above 0",
        meaning="right completions are imitated beside the policy loss",
        unit="loss for a nat",
        source="Yue et al., 2025, arXiv 2504.05118 (VAPO): 0.1",
        trap="It keeps pulling on prompts that are solved every time, and lowers the entropy there.",
        counts="tokens",
    ),
)
