"""Distance to the reference policy, and entropy."""

from __future__ import annotations

from jaxrl_llm.techniques.record import Technique

_ESTIMATOR = "KL estimator"
_SCHULMAN = 'Schulman, 2020, "Approximating KL divergence"'

RECORDS = (
    Technique(
        "kl_placement",
        title="KL",
        formula="{kl_coefficient} · KL(π ‖ π_ref)",
        meaning="whether, and where, the distance to the starting policy costs",
        unit="nats a token",
        study="None in the baseline and in Lite PPO: no reference model is kept. GRPO's arm has it in the loss, with a "
        "coefficient that the paper does not give.",
        trap="A coefficient of 0 keeps a reference model for nothing; here it is refused.",
        counts="tokens",
    ),
    Technique("kl_placement", "none", title="KL", formula="0", meaning="no reference model is kept"),
    Technique(
        "kl_placement",
        "loss",
        title="KL",
        formula="ℓ_it + {kl_coefficient} · KL_it",
        meaning="added to the token loss",
        source="Shao et al., 2024, arXiv 2402.03300 (GRPO), eq. 3: k3, 0.04",
        peers=("ROLL and TRL: always k3. Tunix: k1 by default.",),
        defects=(
            'Tunix DAPO (0.1.7): beta None passes its test for "not zero", so a reference model is asked for and run '
            "for nothing.",
            "slime took a KL coefficient and never applied it (THUDM/slime, pull request 1247).",
        ),
        trap="What is differentiated is the estimate, not the KL: see kl_estimator.",
    ),
    Technique(
        "kl_placement",
        "reward",
        title="KL",
        formula="A_it − {kl_coefficient} · Σ_s≥t γ^(s − t) KL_is",
        meaning="taken from the reward of its token, so that A_it loses the sum of it from t on",
        source="Ziegler et al., 2019, arXiv 1909.08593; Ouyang et al., 2022, arXiv 2203.02155 (InstructGPT)",
        peers=("REINFORCE++ and RLOO have it here. verl, ROLL, OpenRLHF: both places; Tunix: PPO only.",),
        defects=(
            "Tunix PPO (0.1.7): policy at temperature 1 against a reference at the rollout's temperature, which is the "
            "distance of two other distributions.",
        ),
        trap="Here it is taken after baseline and scale, so its coefficient does not change with their std.",
    ),
    Technique(
        "kl_estimator",
        title=_ESTIMATOR,
        formula="KL_it, x = log π(o_t) − log π_ref(o_t)",
        meaning="how the KL is estimated from the token that was sampled",
        unit="nats",
        source=_SCHULMAN,
        peers=(
            "Clamps: here x within ±20 and the estimate within ±10, gradient 0 beyond. verl: x 20, k3 10. ROLL and "
            "OpenRLHF: the result 10. TRL: none.",
            "verl's names with + take the value of one estimator and the gradient of k2.",
        ),
        trap="An estimator that is good as a number may be bad as a loss: its gradient need not be the KL's.",
    ),
    Technique(
        "kl_estimator",
        "k1",
        title=_ESTIMATOR,
        formula="x",
        meaning="unbiased, of either sign; good in the reward",
        source=_SCHULMAN,
        peers=("kl (ROLL, Tunix), kl or k1 (verl), k1 (OpenRLHF).",),
        defects=(
            "Tunix GRPO puts it into the loss, with beta 0.04 by default. Its expected gradient is exactly 0: Σ_v π(v) "
            "∇log π(v) = ∇ Σ_v π(v). It adds noise and holds nothing.",
        ),
        trap="In the loss it is refused here, but with kl_importance, where its gradient is right.",
    ),
    Technique(
        "kl_estimator",
        "k2",
        title=_ESTIMATOR,
        formula="x²/2",
        meaning="biased, never negative; in the loss its gradient is that of the KL, on-policy",
        source=_SCHULMAN,
        peers=("mse (ROLL), mse_kl (Tunix), k2 (verl, OpenRLHF).",),
    ),
    Technique(
        "kl_estimator",
        "k3",
        title=_ESTIMATOR,
        formula="exp(−x) + x − 1",
        meaning="unbiased, never negative; in the loss its gradient is biased",
        source=_SCHULMAN,
        peers=("low_var_kl (verl, Tunix), k3 (ROLL, OpenRLHF); TRL and EasyDeL have no other.",),
        trap="Its expected gradient as a loss is that of the forward KL: for two random distributions over 16 tokens "
        "(seed 0 of the tests) it is off by 47 percent, with a cosine of 0.90 to the reverse KL's. It explodes where "
        "π_ref is much likelier.",
    ),
    Technique(
        "kl_estimator",
        "absolute",
        title=_ESTIMATOR,
        formula="|x|",
        meaning="biased, never negative, grows slowly",
        peers=("abs in ROLL and verl.",),
        trap="The size of its gradient does not depend on the distance.",
    ),
    Technique(
        "kl_estimator",
        "exact",
        title=_ESTIMATOR,
        formula="Σ_v π(v) (log π(v) − log π_ref(v))",
        meaning="over the whole vocabulary at the token's prefix: no noise, and the gradient of the KL there",
        peers=("ROLL: full.",),
        trap="It holds log-probabilities of the whole vocabulary of both policies for a chunk of tokens.",
    ),
    Technique(
        "kl_coefficient",
        title="KL coefficient",
        formula="β = {kl_coefficient}",
        meaning="what a nat of KL costs",
        unit="loss or reward for a nat",
        study="0 in the baseline; GRPO's is not given.",
        peers=("GRPO's paper 0.04; ROLL's examples and DeepSeek-R1 0.001; Tunix 0.04; TRL 0 by default.",),
    ),
    Technique(
        "kl_importance",
        title="KL, importance",
        formula="ρ_t · KL_it",
        meaning="the KL in the loss times the importance ratio, with its gradient",
        unit="true or false",
        source="DeepSeek-AI, 2025, arXiv 2512.02556 (DeepSeek-V3.2), unbiased KL estimate",
        peers=("use_bias_correction_kl in TRL, for k3.",),
        trap="The ratio is not clipped here.",
        counts="tokens",
    ),
    Technique(
        "kl_target",
        title="KL target",
        formula="β ← β · (1 + clip(KL / {kl_target} − 1, ±0.2) · completions / {kl_horizon}), from "
        "β = {kl_coefficient}",
        meaning="the coefficient moves towards a KL of {kl_target} a token",
        unit="nats a token",
        source="Ziegler et al., 2019, arXiv 1909.08593, section 2.2",
        peers=("ROLL, verl and OpenRLHF adapt the coefficient in the reward.",),
        trap="verl measures the KL as a mean of rows' means, here it is over tokens.",
        counts="steps",
    ),
    Technique(
        "kl_horizon",
        title="KL horizon",
        formula="completions / {kl_horizon}",
        meaning="after {kl_horizon} completions the coefficient has moved by at most about 20 percent",
        unit="completions",
        source="Ziegler et al., 2019, arXiv 1909.08593: 10,000 episodes",
    ),
    Technique(
        "entropy_coefficient",
        title="Entropy bonus",
        formula="ℓ_it − {entropy_coefficient} · H_it",
        meaning="the entropy of π at each token, in nats, is paid",
        unit="loss for a nat",
        source="Williams and Peng, 1991; Mnih et al., 2016, arXiv 1602.01783 (A3C)",
        study="None in its arms; it measures entropy, and finds that clip-higher slows its fall on aligned models.",
        peers=("Off by default in verl; Tunix logs entropy and has a bonus in PPO only.",),
        trap="Over a vocabulary of 150,000 tokens the cheapest entropy is in the tail.",
    ),
    Technique(
        "entropy_target",
        title="Entropy target",
        formula="α ← max(0, α ± {entropy_step}), + where H < {entropy_target}, from α = {entropy_coefficient}",
        meaning="the coefficient moves towards an entropy of {entropy_target} a token",
        unit="nats a token",
        source="He et al., 2025, arXiv 2505.22312 (Skywork-OR1), section 4",
        peers=(
            "TRL has it.",
            "Skywork-OR1 takes a coefficient of 0 above the target; here it only falls, a step at a time.",
        ),
        trap="The bonus is slow: a coefficient that has grown for 50 steps takes 50 to go away.",
        counts="steps",
    ),
    Technique(
        "entropy_step",
        title="Entropy target, step",
        formula="± {entropy_step}",
        meaning="what is added to the coefficient below the target, and taken from it above",
        unit="the unit of entropy_coefficient, a rollout step",
        source="He et al., 2025, arXiv 2505.22312 (Skywork-OR1), section 4",
    ),
)
