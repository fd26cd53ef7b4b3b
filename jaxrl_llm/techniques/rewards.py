"""What is added to the judge's reward, and how several rewards become one."""

from __future__ import annotations

from jaxrl_llm.techniques.record import Technique

_REWARD = "[B], in units of the reward"

RECORDS = (
    Technique(
        "format_coefficient",
        title="Format reward",
        formula="r_i + {format_coefficient} · [an answer stands in completion i]",
        meaning="every completion in which an answer of reward.answer_format is found is paid, right or wrong",
        unit=_REWARD,
        source="DeepSeek-AI, 2025, arXiv 2501.12948 (DeepSeek-R1), format reward beside accuracy reward",
        study="Not studied: its baseline has no format term.",
        peers=("ROLL computes a format reward for its math domain and does not add it to the score.",),
        trap="It gives groups of wrong answers a spread, and so a gradient. Once every completion has the format it "
        "cancels in any baseline of the group or the batch.",
        counts="rows",
    ),
    Technique(
        "overlong_buffer",
        title="Overlong penalty",
        formula="r_i − {overlong_penalty} · min(1, max(0, |o_i| − ({max_tokens} − {overlong_buffer})) / "
        "{overlong_buffer})",
        meaning="nothing up to {overlong_start} tokens, the whole penalty at {max_tokens}",
        unit="tokens of the completion, the stop token included",
        source="Yu et al., 2025, arXiv 2503.14476 (DAPO), eq. 13: the last 4,096 of 20,480 tokens",
        study="A part of its DAPO arm, not taken apart by itself.",
        peers=(
            "verl's penalty goes on falling beyond the limit; TRL, OpenRLHF and this library hold it at its full size.",
            "prime-rl and EasyDeL have length penalties of other shapes.",
        ),
        defects=(
            "Tunix (0.1.7) takes the length of the text in characters: an answer of 34 characters against a limit of "
            "10 tokens with a buffer of 4 gets a penalty of −7.",
        ),
        trap="The penalty is part of the reward: it enters the group's mean and std, and a group whose answers are all "
        "right is no longer without spread. Dynamic sampling reads the judge's rewards, without it.",
        counts="rows",
    ),
    Technique(
        "overlong_penalty",
        title="Overlong penalty, size",
        formula="r_i − {overlong_penalty} at |o_i| = {max_tokens}",
        meaning="the size of the overlong penalty at the limit",
        unit="a number, in units of the reward",
        source="Yu et al., 2025, arXiv 2503.14476 (DAPO): 1",
        trap="With rewards of 1 and 0 a penalty of 1 makes a right answer at the limit worth a wrong short one.",
    ),
    Technique(
        "length_penalty",
        title="Length penalty",
        formula="r_i + {length_coefficient} · ℓ(|o_i|)",
        meaning="a penalty for length, over all of it and not just the end",
        unit=_REWARD,
        study="Its taxonomy lists length penalties; it studies none.",
        trap="Any penalty for length lowers exploration where harder problems need longer answers: the study sees "
        "responses grow on harder data.",
        counts="rows",
    ),
    Technique(
        "length_penalty",
        "none",
        title="Length penalty",
        formula="r_i",
        meaning="length costs nothing",
    ),
    Technique(
        "length_penalty",
        "linear",
        title="Length penalty",
        formula="r_i − {length_coefficient} · min(1, |o_i| / {max_tokens})",
        meaning="every token costs the same (linear)",
        trap="Wrong answers gain by brevity too: in a group of wrong answers the shortest is the best.",
    ),
    Technique(
        "length_penalty",
        "group_relative",
        title="Length penalty",
        formula="r_i + {length_coefficient} · (λ_i where right, min(0, λ_i) where wrong), "
        "λ_i = 1/2 − (|o_i| − shortest) / (longest − shortest)",
        meaning="a right answer gains by being shorter than the others of its group, a wrong one never gains",
        source="Kimi team, 2025, arXiv 2501.12599 (Kimi k1.5), section 2.3.3",
        trap="It compares with the group, whatever the length: a group of short answers pays as much as one of long "
        "ones.",
    ),
    Technique(
        "length_penalty",
        "cosine",
        title="Length penalty",
        formula="r_i + {length_coefficient} · (±cos(π · min(1, |o_i| / {max_tokens})) − 1) / 2, + where right",
        meaning="a right answer pays for length, a wrong one for brevity",
        source="Yeo et al., 2025, arXiv 2502.03373, section 4.2, shifted to be a penalty",
        peers=("TRL has it as a reward function with four end points that the user sets.",),
        trap="A wrong answer is paid for going on: without a repetition penalty that teaches loops up to the limit.",
    ),
    Technique(
        "length_coefficient",
        title="Length penalty, size",
        formula="{length_coefficient} · ℓ(|o_i|)",
        meaning="times the length penalty, which is at most 1 in size",
        unit="a number, in units of the reward",
    ),
    Technique(
        "repetition_coefficient",
        title="Repetition penalty",
        formula="r_i − {repetition_coefficient} · (1 − distinct {repetition_ngram}-grams of o_i / "
        "{repetition_ngram}-grams of o_i)",
        meaning="the share of {repetition_ngram}-grams of tokens that came before costs",
        unit=_REWARD,
        source="Yeo et al., 2025, arXiv 2502.03373, section 4.4, counted over the whole completion",
        study="Not as a reward. It measures repetition: without the overlong filter the share of truncated answers "
        "that loop grows in training (figure 14).",
        peers=(
            "ROLL computes a 3-gram penalty of at most 0.1 and does not add it to the score.",
            "TRL counts n-grams of words that whitespace separates, here they are of tokens.",
        ),
        trap="Step-by-step solutions repeat honest phrases: short n-grams punish them.",
        counts="rows",
    ),
    Technique(
        "repetition_ngram",
        title="Repetition penalty, n",
        formula="n = {repetition_ngram}",
        meaning="tokens of an n-gram of the repetition penalty",
        unit="tokens",
    ),
    Technique(
        "reward_combination",
        title="Several rewards",
        formula="Σ_f w_f · r_if, or Σ_f w_f · A_if",
        meaning="whether rewards are added before or after they are normalized",
        unit="[B]",
        study="Not studied: it has one reward.",
        trap="A reward of small spread is drowned in a sum and blown up by itself.",
        counts="rows",
    ),
    Technique(
        "reward_combination",
        "sum",
        title="Several rewards",
        formula="r_i = Σ_f w_f · r_if",
        meaning="rewards times their coefficients are added, then normalized as one",
        peers=("TRL calls it sum_then_normalize and has it as its default.",),
    ),
    Technique(
        "reward_combination",
        "separate",
        title="Several rewards",
        formula="A_i = (q_i − mean_b(q)) / (std_b(q) + {scale_epsilon}), q_i = Σ_f w_f · A_if",
        meaning="baseline and scale act on each reward by itself; the weighted sum is normalized over the step "
        "(ddof {scale_ddof})",
        source="Liu et al., 2026, arXiv 2601.05242 (GDPO)",
        peers=("TRL: normalize_then_sum, with epsilon 1e-4; verl has it too.",),
        trap="With a scale every reward has spread 1 within its group, however little it varies: a length penalty that "
        "hardly differs weighs as much as being right.",
    ),
)
