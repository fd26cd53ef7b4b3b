"""The knobs that only a critic reads."""

from __future__ import annotations

from jaxrl_llm.techniques.record import Technique

_PPO = "Schulman et al., 2015, arXiv 1506.02438 (GAE)"
_VAPO = "Yue et al., 2025, arXiv 2504.05118 (VAPO)"

RECORDS = (
    Technique(
        "gae_lambda",
        title="λ of the advantages",
        formula="λ = {gae_lambda}",
        meaning="0 trusts the critic, 1 trusts the reward",
        unit="a factor for each token of the policy",
        source=_PPO,
        peers=("ROLL's default is 0.95; Open-Reasoner-Zero takes 1.",),
        trap="At 0.95 a reward 100 tokens away weighs 0.006: long answers learn from the critic alone.",
    ),
    Technique(
        "gae_lambda_returns",
        title="λ of the returns",
        formula="V learns A^λ + V with λ = {gae_lambda_returns}",
        meaning="what the critic learns; 1 is the plain sum of what comes, without its own guesses",
        unit="a factor for each token of the policy",
        source="Yuan et al., 2025, arXiv 2503.01491 (VC-PPO), decoupled GAE: 1; taken over by VAPO",
        peers=("One λ for both in ROLL, verl, OpenRLHF and Tunix.",),
        trap="Below 1 the critic learns from its own values, and a start from noise stays biased for long answers.",
    ),
    Technique(
        "gae_length_alpha",
        title="λ by length",
        formula="λ_i = 1 − 1 / ({gae_length_alpha} · |o_i|)",
        meaning="in place of gae_lambda: the longer the completion, the nearer to 1",
        unit="a number",
        source=f"{_VAPO}: 0.05",
        trap="At 0.05 completions of up to 20 tokens have a λ of 0 at most: short tasks want a larger one.",
    ),
    Technique(
        "critic_learning_rate",
        title="Critic",
        formula="θ_V ← θ_V − {critic_learning_rate} · Adam(∇ mean (V − G)²)",
        meaning="a copy of the model with a head of one number a token learns the returns",
        unit="a learning rate, as optimizer.learning_rate is",
        source="Schulman et al., 2017, arXiv 1707.06347 (PPO)",
        peers=("verl and OpenRLHF take half of the square, which Adam does not see.",),
    ),
    Technique(
        "critic_warmup",
        title="Critic warm-up",
        formula="ℓ_it = 0 in the first {critic_warmup} rollout steps",
        meaning="only the critic learns at first",
        unit="rollout steps",
        source="Yuan et al., 2025, arXiv 2503.01491 (VC-PPO), value pretraining; taken over by VAPO",
        trap="Metrics of the policy stand still meanwhile; that is no plateau.",
    ),
    Technique(
        "value_clip",
        title="Value clip",
        formula="max((V − G)², (clip(V, V_old ± {value_clip}) − G)²)",
        meaning="a value that has moved towards its return by more than {value_clip} since the rollout has no gradient",
        unit="a number, in units of the reward",
        source='The baselines code of PPO; Huang et al., 2022, "The 37 Implementation Details of PPO", detail 9',
        peers=("In every peer that has a critic, but Simply's PPO path; verl's default is 0.5.",),
        trap="It is in units of the reward: 0.2 means something else at rewards of ±10.",
        counts="tokens",
    ),
)
