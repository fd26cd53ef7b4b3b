"""What counts in the loss, and how much."""

from __future__ import annotations

from jaxrl_llm.techniques.record import Technique

_TITLE = "Denominator"
_DAPO = "Yu et al., 2025, arXiv 2503.14476 (DAPO)"

RECORDS = (
    Technique(
        "aggregation",
        title=_TITLE,
        formula="L = Σ_i Σ_t weight_it · ℓ_it",
        meaning="what a token weighs; computed once for the optimizer step, so that no split into parts moves it",
        unit="[B, T], 1 / tokens",
        study="Takeaway 7: token-level is better on base models (by several points), sequence-level on aligned ones "
        "(by about one; figures 12 and 17, whose captions and panels disagree on the data).",
        peers=("One table of every project's names beside ours stands in core/aggregation.py.",),
        trap="With one length the levels token_mean, sequence_mean and prompt_mean are one.",
    ),
    Technique(
        "aggregation",
        "token_mean",
        title=_TITLE,
        formula="Σ_i Σ_t ℓ_it / Σ_i |o_i|",
        meaning="every token of the optimizer step weighs the same",
        source=f"{_DAPO}, token-level loss; arXiv 2508.08221, section 4.3",
        study="Half of Lite PPO. The paper's formula sums over a group, its words over the batch.",
        peers=("token-mean (verl, ROLL, Tunix), dapo (TRL), token level (OpenRLHF).",),
        defects=(
            "The mean of micro-batch means: TRL (grpo, bnpo, luspo), EasyDeL without its global count, ROLL before "
            "2026-02, open-instruct at micro-batch 1. Completions of 1 and 9 tokens in two micro-batches, token losses "
            "1 and 0: 0.1 as one batch, 0.5 as the mean of two.",
            "TRL's documented Lite PPO recipe (8 steps a generation, 32 accumulated) ran with gradients four times too "
            "large until June 2026 (pull request 6024).",
            "Marin's dapo divides by the batch size once more: with 8 rows every gradient is 0.125 of what it should "
            "be.",
            "ROLL's token-mean does not multiply by the mask and relies on losses that are 0 there; its entropy term "
            "is not.",
        ),
        trap="A long completion has more weight than a short one: length is rewarded or punished with the answer.",
    ),
    Technique(
        "aggregation",
        "sequence_mean",
        title=_TITLE,
        formula="1/R Σ_i 1/|o_i| Σ_t ℓ_it",
        meaning="each of the R completions weighs the same, however long",
        source="Shao et al., 2024, arXiv 2402.03300 (GRPO), eq. 3",
        study="Better on aligned models (takeaway 7).",
        peers=(
            "seq-mean-token-mean (verl, ROLL; ROLL's default), sequence-mean-token-mean (Tunix's default), grpo (TRL), "
            "sample level (OpenRLHF).",
            "ROLL divided by the length twice before 2025-08-06, five days before the paper's first version.",
        ),
        trap="A token of a long wrong answer is punished less than one of a short wrong answer (Dr. GRPO).",
    ),
    Technique(
        "aggregation",
        "prompt_mean",
        title=_TITLE,
        formula="1/P Σ_p (Σ_i∈p Σ_t ℓ_it / Σ_i∈p |o_i|)",
        meaning="each of the P prompts weighs the same",
        source=f"{_DAPO}, eq. 8 as it is written; Khatri et al., 2025, arXiv 2510.13786 (ScaleRL)",
        peers=("None has it.",),
    ),
    Technique(
        "aggregation",
        "sequence_sum",
        title=_TITLE,
        formula="1/R Σ_i Σ_t ℓ_it",
        meaning="the sum of each completion, averaged over the R completions",
        source="Liu et al., 2026, arXiv 2602.05261 (LUSPO), with the ratio of a sequence",
        peers=("seq-mean-token-sum (verl, ROLL, Tunix), luspo (TRL).",),
        trap="The gradient grows with the length of the answers, and so does its norm before clipping.",
    ),
    Technique(
        "aggregation",
        "constant",
        title=_TITLE,
        formula="1/({aggregation_constant}·B) Σ_i Σ_t ℓ_it",
        meaning="a constant number of tokens for each of the B completions",
        source="Liu et al., 2025, arXiv 2503.20783 (Dr. GRPO), section 3.2",
        peers=(
            "seq-mean-token-sum-norm (verl, ROLL), sequence-mean-token-scale (Tunix), dr_grpo (TRL).",
            "verl and ROLL divide by the constant alone, without B; ROLL's constant is the padded width, so its loss "
            "grows with the batch.",
        ),
        trap="Rows that are filtered out still count: the gradient shrinks as more of them are.",
    ),
    Technique(
        "aggregation_constant",
        title="Constant",
        formula="1/({aggregation_constant}·B)",
        meaning="tokens of a completion that `constant` divides by; None: sampling.max_tokens",
        unit="tokens",
        source="Liu et al., 2025, arXiv 2503.20783 (Dr. GRPO)",
        trap="It is a factor on the loss: Adam does not see it, weight decay and gradient clipping do.",
    ),
    Technique(
        "overlong_filter",
        title="Overlong filter",
        formula="mask_it = 0 where completion i is truncated",
        meaning="truncated completions get no gradient",
        unit="true or false",
        source=f"{_DAPO}, section 3.4",
        study="Takeaway 8: clear gain at 8,192 tokens, nearly none at 20k, where more of the truncated answers are "
        "loops (figures 13 and 14); little help for long-tail reasoning. Lite PPO is without it.",
        peers=(
            "max_len_mask (ROLL), which drops whatever is as long as the padding, an end token at the limit included; "
            "mask_truncated_completions (TRL).",
            "Statistics of the rewards see filtered rows too, in ROLL and here.",
        ),
        defects=(
            "TRL until 2026-07 left truncated tokens in the denominator (pull request 6439): 10 kept tokens of loss 1 "
            "beside 30 truncated ones gave 0.25.",
        ),
        trap="Nothing then teaches the policy to stop.",
        counts="rows",
    ),
    Technique(
        "group_filter",
        title="Group filter",
        formula="mask_it = 0 in groups that are dropped",
        meaning="groups of the same prompt that get no gradient, or are replaced",
        unit="-",
        counts="rows",
    ),
    Technique("group_filter", "none", title="Group filter", formula="-", meaning="no group is dropped"),
    Technique(
        "group_filter",
        "zero_variance",
        title="Group filter",
        formula="dropped where max_g(r) = min_g(r)",
        meaning="groups whose rewards are all equal",
        source=f"{_DAPO}, eq. 11 (dynamic sampling)",
        study="A part of its DAPO arm, not taken apart by itself.",
        peers=("std_filter (ROLL), filter_groups (verl); prime-rl has it.",),
        defects=(
            "TRL's masks of groups without spread read the batch's std when that is the scale (pull requests 7068, "
            "6365): of two groups with rewards (1, 1) and (0, 0) the batch's std is 0.577, and 0 of 2 are dropped.",
            "OpenRLHF filters by a range of the mean: four rewards of 0.5 pass a range of 0 to 1.",
            "Tunix DAPO (0.1.7): dynamic_sampling is on by default and not implemented.",
        ),
        trap="With a baseline of the group these rows have advantage 0 anyway; the filter takes them from the "
        "denominator, so the gradient of the others grows.",
    ),
    Technique(
        "group_filter",
        "difficulty",
        title="Group filter",
        formula="kept where {difficulty_low} < share of right answers < {difficulty_high}",
        meaning="groups that are too easy or too hard",
        source="ROLL's difficulty_mask: 0.1 and 0.95 in its examples",
        study="Listed as the difficulty mask, not studied.",
        peers=(
            "ROLL reads the scores after they may have been rescaled: at rewards of ±1 a window of 0.1 to 0.95 drops a "
            "group that is half right. Here it is the share of answers judged right.",
        ),
    ),
    Technique(
        "difficulty_low",
        title="Difficulty, low bound",
        formula="share of right answers > {difficulty_low}",
        meaning="groups with this share of right answers or less are dropped",
        unit="a share",
    ),
    Technique(
        "difficulty_high",
        title="Difficulty, high bound",
        formula="share of right answers < {difficulty_high}",
        meaning="groups with this share of right answers or more are dropped",
        unit="a share",
    ),
    Technique(
        "resample_rounds",
        title="Dynamic sampling",
        formula="rollouts of a step ≤ {resample_rounds}",
        meaning="prompts are drawn in up to {resample_rounds} rollouts a step until the batch is full of groups that "
        "are kept",
        unit="rollouts",
        source=f"{_DAPO}, eq. 11",
        study="A part of its DAPO arm; the limit of its runs is not given.",
        peers=("verl: max_num_gen_batches, 10 in DAPO's script. ROLL draws extra prompts. TRL has none.",),
        trap="A step of a run that has solved its data takes all the rollouts it may: compare by samples, not steps.",
        counts="groups",
    ),
)
