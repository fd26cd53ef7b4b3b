"""What the reward, less its baseline, is divided by, and what is done to advantages afterwards."""

from __future__ import annotations

from jaxrl_llm.techniques.record import Technique

_NUMBER = "a number"

RECORDS = (
    Technique(
        "scale",
        title="Std",
        formula="A_i = (r_i − b_i) / (std + {scale_epsilon})",
        meaning="what advantages are divided by; where it is 0, they are 0",
        unit="[B], in units of the reward",
        study="Takeaways 2 and 3: mean per group and std per batch is the more robust pair, and on easy data no std is "
        "better than one that is near 0.",
        peers=(
            "ddof and epsilon: ROLL, verl and Tunix 1 and 1e-6; TRL 1 and 1e-4; OpenRLHF 1 and 1e-9; AReaL a choice "
            "and 1e-5; EasyDeL 0 and 1e-4; Simply max(std, 1e-5).",
            "ROLL: batch mean with group std broadcasts (B) against (B / G, 1), and fails or mixes rows.",
            "prime-rl's MaxRL divides by the group's mean, which is no level here.",
        ),
        trap="Adam is invariant to one constant for all steps, so a std of the batch acts through how it changes from "
        "step to step, and against terms that it does not divide (KL, entropy).",
        counts="rows",
    ),
    Technique(
        "scale",
        "none",
        title="Std",
        formula="1",
        meaning="nothing divides",
        source="Liu et al., 2025, arXiv 2503.20783 (Dr. GRPO), section 3.2",
        study="Takeaway 2: steadier and better where rewards are concentrated (easy data), about equal on hard data "
        "(figure 5, 100 steps). The text takes the std from batch normalization, equation 7 from group normalization: "
        "run both.",
    ),
    Technique(
        "scale",
        "group",
        title="Std",
        formula="std_g(r)",
        meaning="std_g is over the samples of the same prompt",
        source="Shao et al., 2024, arXiv 2402.03300 (GRPO), section 4.1.2",
        study="Good with the group's mean (takeaway 1), worse than the batch's std (takeaway 3), and on easy data "
        "worse than none: there nearly all groups are all right or all wrong but for one row.",
        peers=("GRPO's paper says std and not which; Dr. GRPO calls it a difficulty bias.",),
        trap="One right answer of 8 has an advantage of 2.475, one of the others −0.354; at 4 of 8 it is ±0.935: "
        "prompts with the rarest outcome get the largest gradients.",
    ),
    Technique(
        "scale",
        "batch",
        title="Std",
        formula="std_b(r)",
        meaning="std_b is over the raw rewards of all completions of the step",
        source="arXiv 2508.08221, section 5 (Lite PPO)",
        study="Takeaway 3: with the group's mean, the more robust shaping (figure 6, base models). The paper does not "
        "say of what the std is taken; its first author's code for ROLL takes raw rewards, ddof 1, epsilon 1e-6.",
        peers=(
            "TRL: scale_rewards batch, raw rewards, epsilon 1e-4. Trinity-RFT: raw. AReaL: of centred rewards, over "
            "tokens, see batch_centered.",
            "OpenRLHF's reinforce_baseline is near: group mean, then whitening over tokens.",
        ),
        defects=(
            "AReaL's gsm8k_liteppo.yaml whitens the batch once more after group mean and batch std. Whitening undoes "
            "any constant divisor, so its batch std does nothing.",
            "ROLL's Lite PPO page asks for one response a prompt (advantage 0), GAE, a KL loss and extra whitening, "
            "and sets token_level_loss, a key that no code reads.",
        ),
        trap="It holds the spread between prompts as well as that within them: advantages shrink as prompts differ.",
    ),
    Technique(
        "scale",
        "batch_centered",
        title="Std",
        formula="std_b(r − mean_g(r))",
        meaning="std_b is over all completions, less their group's mean",
        peers=(
            "AReaL's std_level batch is this, over tokens; ROLL had it in a helper before August 2025.",
            "REINFORCE++-baseline is near: whitening over tokens after the group's mean.",
        ),
        study="One of two readings of the words mixed normalization; the raw reading is `batch`.",
        trap="Raw variance = variance within groups + variance between them, so this std is the smaller and its "
        "advantages are the larger: 2.372 against 1.452 for the same row in the example of the tests.",
    ),
    Technique(
        "scale",
        "running",
        title="Std",
        formula="std of all rewards of the run so far, √(var · n / (n − 1))",
        meaning="one divisor that changes ever more slowly",
        source="ROLL's norm_std_type running",
        peers=("ROLL alone has it.",),
        trap="A run that is resumed without its moments jumps; here they are part of the checkpoint.",
    ),
    Technique(
        "scale",
        "nonzero_share",
        title="Std",
        formula="(completions whose reward is not 0) / B",
        meaning="as if completions with reward 0 were not there; no std, no epsilon",
        source="Chu et al., 2025, arXiv 2504.02546 (GPG), section 3; verl's count",
        peers=(
            "The paper leaves out completions that carry no gradient, those of groups with equal rewards; verl counts "
            "rewards that are not 0. Groups (1, 0) and (1, 1): 4 / 2 = 2 against 4 / 3 = 1.333.",
        ),
        trap="With rewards of 1 and −1 no reward is 0 and the knob does nothing.",
    ),
    Technique(
        "scale_ddof",
        title="Std ddof",
        formula="std = √(Σ (x − mean)² / (n − {scale_ddof}))",
        meaning="the variance divides by the count less {scale_ddof}",
        unit="a count",
        peers=("1 in ROLL, verl, TRL, OpenRLHF and Tunix, 0 in EasyDeL, a choice in AReaL.",),
        trap="With 2 samples a prompt ddof 0 or 1 makes a factor of √2 = 1.414 between two runs that both say GRPO.",
    ),
    Technique(
        "scale_epsilon",
        title="Std epsilon",
        formula="std + {scale_epsilon}",
        meaning="{scale_epsilon} is added to the std",
        unit=_NUMBER + ", in units of the reward",
        peers=("From 1e-9 (OpenRLHF) to 1e-4 (TRL, EasyDeL).",),
        trap="Rewards that differ by rounding alone have a tiny std; without an epsilon they become advantages of size "
        "1. Here equal rewards are exactly equal, and a std of 0 gives 0.",
    ),
    Technique(
        "batch_statistics",
        title="Batch statistics",
        formula="mean_b and std_b over rows of the same set",
        meaning="which rows a baseline or scale of the batch compares",
        unit="-",
        counts="rows",
    ),
    Technique(
        "batch_statistics",
        "step",
        title="Batch statistics",
        formula="all rows of the step",
        meaning="mean_b and std_b are over all rows of the step",
    ),
    Technique(
        "batch_statistics",
        "source",
        title="Batch statistics",
        formula="the rows of the step that come from the same source",
        meaning="mean_b and std_b are over the rows of the same source, a data set or task",
        peers=("ROLL always does this: it splits by domain first. prime-rl does it by environment.",),
        trap="With one source it changes nothing.",
    ),
    Technique(
        "reward_clip",
        title="Reward clip",
        formula="clip(A_i, −{reward_clip}, {reward_clip})",
        meaning="after baseline and scale, before anything of the tokens",
        unit="a number, in the units of A",
        study="In its taxonomy, not in its experiments.",
        peers=("ROLL (10 in its examples) and OpenRLHF clip after normalization, as here; verl and Tunix have none.",),
        trap="After a group's std nothing of 8 rows is above 2.475: a clip of 10 never binds.",
        counts="rows",
    ),
    Technique(
        "discount",
        title="Discount",
        formula="G_t = Σ_s≥t {discount}^(s − t) · r_s",
        meaning="a token that stands n tokens before the end gets {discount}^n of the advantage",
        unit="a factor for each token of the policy",
        study="1, as everywhere in the field.",
        trap="0.99 over 1,000 tokens is 4e-5: the first tokens of a long answer learn nothing.",
        counts="tokens",
    ),
    Technique(
        "whiten",
        title="Whitening",
        formula="(A − mean) / (std + {scale_epsilon}), both over all tokens of the step",
        meaning="advantages to mean 0 and std 1 over the tokens of the step (ddof {scale_ddof})",
        unit="[B, T]",
        source="Hu et al., 2025, arXiv 2501.03262 (REINFORCE++): global advantage normalization",
        study="The paper does not say whether its runs whiten; ROLL's examples do. A faithful Lite PPO does not: "
        "whitening would normalize once more, by token.",
        peers=(
            "ROLL and verl: (x − mean) / √(var + 1e-8), ddof 1. AReaL: std + 1e-5, ddof 0. Tunix whitens GAE only.",
        ),
        trap="A row weighs as often as it has tokens, and any divisor that is one number for the step cancels: scale "
        "batch and whiten together are whiten alone.",
        counts="tokens",
    ),
    Technique(
        "advantage_clip",
        title="Advantage clip",
        formula="A to [−{advantage_clip}, {advantage_clip}]",
        meaning="after everything else that makes the advantage",
        unit="a number, in the units of A",
        study="The paper does not say whether its runs clip; ROLL's examples clip at 2.",
        peers=("ROLL and Simply have it; verl, TRL, OpenRLHF and Tunix have none.",),
        trap="At 2 it takes the 2.475 of one right answer of 8, and under mixed normalization it binds once the "
        "batch's std is under half of |r − mean|: it hides the very effect under test.",
        counts="tokens",
    ),
)
