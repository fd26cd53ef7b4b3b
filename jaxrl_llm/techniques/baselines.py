"""What is taken from the reward."""

from __future__ import annotations

from jaxrl_llm.techniques.record import Technique

_TITLE = "Mean"

RECORDS = (
    Technique(
        "baseline",
        title="Baseline",
        formula="A_i = r_i − b_i",
        meaning="what a reward is compared with",
        unit="[B], or [B, T] for optimal_token and critic, in units of the reward",
        source="Williams, 1992",
        study="Normalization by group is steadier and ends higher than by batch, or none (takeaway 1, figure 4; "
        "curves, one seed an arm). The other baselines are not compared.",
        peers=(
            "A free choice of mean and std is in ROLL and AReaL; verl, TRL, Tunix and EasyDeL tie the mean to the "
            "group.",
            "ROLL: adv_estimator grpo replaces whatever normalization the config asks for, without a word.",
            "A group of one row: verl keeps its reward as it is; here a group of one is refused, or has advantage 0.",
        ),
        trap="An unscored row must leave the mean: TRL and prime-rl take it out, most others do not.",
        counts="rows",
    ),
    Technique(
        "baseline",
        "none",
        title=_TITLE,
        formula="r_i",
        meaning="nothing is taken from the reward",
        unit="[B]",
        source='Williams, 1992, "Simple statistical gradient-following algorithms"',
        study="One of the arms of figure 4, below group. Only here, and with scale none, can the scale of the reward "
        "act: rewards of 0 and 1 have no negative signal, rewards of −1 and 1 have.",
        trap="A reward of 0 gives no gradient: wrong answers teach nothing unless reward.wrong is below 0.",
    ),
    Technique(
        "baseline",
        "group",
        title=_TITLE,
        formula="r_i − mean_g(r)",
        meaning="mean_g is over the samples of the same prompt",
        unit="[B]",
        source="Shao et al., 2024, arXiv 2402.03300 (GRPO), section 4.1.2",
        study="Takeaway 1: efficient under every reward setting. Half of Lite PPO (takeaway 3). Curves, one seed.",
        trap="A group whose rewards are all equal has advantage 0. With one sample a prompt that is every group: "
        "ROLL's Lite PPO page sets exactly this.",
    ),
    Technique(
        "baseline",
        "batch",
        title=_TITLE,
        formula="r_i − mean_b(r)",
        meaning="mean_b is over all completions of the step",
        unit="[B]",
        source="arXiv 2508.08221, eq. 6",
        study="Often collapses where few outliers rule the batch (figure 4). The study says rewards of −1 and 1 repair "
        "it (figure 18); but batch, group and mixed normalization are invariant to affine maps of the reward, so the "
        "two arms have the same updates, and what the figure shows cannot come from the formula.",
        peers=("ROLL's batch is the rows of one domain (here batch_statistics source); Simply calls it Global.",),
        trap="All answers to an easy prompt are pushed up and all answers to a hard one down: noise, which the group's "
        "mean takes away.",
    ),
    Technique(
        "baseline",
        "leave_one_out",
        title=_TITLE,
        formula="r_i − mean_g∖i(r)",
        meaning="mean_g∖i is over the other samples of the same prompt",
        unit="[B]",
        source="Ahmadian et al., 2024, arXiv 2402.14740 (RLOO), eq. 8",
        study="In its taxonomy, not in its experiments.",
        peers=("A group of one: verl keeps the reward, Tunix gives 0.",),
        defects=("Tunix (0.1.7) registers rloo, but its base config refuses the name.",),
        trap="It is G / (G − 1) times the group mean's advantage, 1.143 at 8 samples: a constant factor, which Adam "
        "does not see.",
    ),
    Technique(
        "baseline",
        "running",
        title=_TITLE,
        formula="r_i − mean of all rewards of the run so far, this step's included",
        meaning="moments are merged batch by batch and saved with the checkpoint",
        unit="[B]",
        source="Chan, Golub and LeVeque, 1979, for the merging; ROLL's norm_mean_type running",
        peers=("ROLL alone has it; its std is √(var · n / (n − 1)), as here.",),
        trap="The mean of a policy that gets better lags behind: rewards look good for a long time.",
    ),
    Technique(
        "baseline",
        "length_weighted",
        title=_TITLE,
        formula="r_i − Σ_j |o_j| r_j / Σ_j |o_j|",
        meaning="the mean over the samples of the same prompt, each weighted by its tokens",
        unit="[B]",
        source="Hao et al., 2025, arXiv 2505.23585 (OPO), eq. 8",
        peers=("verl takes the same formula (adv_estimator opo); no other has it.",),
        trap="It is the baseline of least variance if the squared gradient grows as the length, which holds for sums "
        "over tokens: with sequence_mean it is not that.",
    ),
    Technique(
        "baseline",
        "pass_at_k",
        title=_TITLE,
        formula="[i is the only best of its group] · (r_i − second best)",
        meaning="only the best sample of a prompt has an advantage, its lead over the second best",
        unit="[B]",
        source="Tang et al., 2025, arXiv 2503.19595, as verl computes it",
        trap="With rewards of 0 and 1 a group learns only if exactly one sample is right.",
    ),
    Technique(
        "baseline",
        "greedy",
        title=_TITLE,
        formula="r_i − r(greedy completion of the same prompt)",
        meaning="one more completion a prompt is sampled greedily and judged",
        unit="[B]",
        source="Li et al., 2023, arXiv 2310.10505 (ReMax)",
        peers=("verl alone has it.",),
        trap="It costs a completion a prompt. Where greedy is right and most samples are wrong, most rows are pushed "
        "down, and no sum of a group is 0.",
    ),
    Technique(
        "baseline",
        "optimal_token",
        title="Baseline",
        formula="A_it = G_it − Σ_j W_jt G_jt / (Σ_j W_jt + {scale_epsilon}), W_jt = Σ_s≤t (1 − 2 π_old(o_js) + Σ_v "
        "π_old(v)²)",
        meaning="a baseline for each column of a group, weighted by the size of the gradient up to there",
        unit="[B, T]",
        source='Li et al., 2026, "The Optimal Token Baseline", as verl computes it',
        peers=("verl has it and a variant whose tail, where only one row is left, has baseline 0; that is in core.",),
        trap="Column t of two completions is the same place only by count, not by what is said there.",
    ),
    Technique(
        "baseline",
        "critic",
        title="Baseline",
        formula="A_it = δ_t + γ λ A_i,t+1, δ_t = r_t + γ V_t+1 − V_t",
        meaning="a critic says what each prefix is worth (GAE); the reward stands at the last token",
        unit="[B, T]",
        source="Schulman et al., 2015, arXiv 1506.02438, eq. 16",
        study="Lite PPO is without a critic, as is all of the study.",
        peers=("Masked tokens between two turns: verl passes over them, ROLL and OpenRLHF take a value of 0.",),
        defects=(
            "Tunix (0.1.7) writes the terminal reward into a buffer with the integer type of the token ids: rewards of "
            "0.9 and −0.5 both become 0.",
        ),
        trap="Its values start at 0: until it has learned, A is the reward times λ for each token to the end. See "
        "critic_warmup.",
    ),
)
