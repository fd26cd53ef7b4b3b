"""Rewards, which rows and groups count, and how completions are sampled."""

from __future__ import annotations

from jaxrl_llm.study.catalogue.build import of_knob
from jaxrl_llm.study.catalogue.record import Share, Trick

_BUFFER = Share(0.2, "sampling.max_tokens")
_PAPER = "arXiv 2508.08221"

TRICKS = (
    # of the study: overlong, reward scale, dynamic sampling
    of_knob("overlong_filter", {"overlong_filter": True}),
    of_knob("overlong_penalty", {"overlong_buffer": _BUFFER, "overlong_penalty": 1.0},
            title="Soft penalty over the last fifth of the limit"),
    of_knob("dynamic_sampling", {"group_filter": "zero_variance", "resample_rounds": 10},
            title="Dynamic sampling: groups without spread are replaced"),
    Trick(
        "reward_minus_one",
        {"reward.wrong": -1.0, "reward.unparseable": -1.0, "reward.timeout": -1.0},
        title="Rewards of 1 and -1",
        source=f"{_PAPER}, figure 18",
        claim="Takeaway 1: -1 for wrong answers brings batch normalization back. Group, batch and mixed normalization "
        "do not see an affine map of the rewards: with them the two arms are one up to epsilon.",
    ),
    # groups
    of_knob("zero_variance_filter", {"group_filter": "zero_variance"}, title="Groups without spread have no gradient"),
    of_knob("difficulty_filter", {"group_filter": "difficulty", "difficulty_low": 0.1, "difficulty_high": 0.95},
            neutral={"group_filter": "difficulty", "difficulty_low": -1.0, "difficulty_high": 2.0}),
    of_knob("no_group_filter", {"group_filter": "none", "difficulty_low": None, "difficulty_high": None,
                                "resample_rounds": 1}),
    # rewards
    of_knob("format_reward", {"format_coefficient": 0.1}),
    of_knob("linear_length_penalty", {"length_penalty": "linear", "length_coefficient": 0.1}),
    of_knob("group_relative_length_penalty", {"length_penalty": "group_relative", "length_coefficient": 0.1}),
    of_knob("cosine_length_penalty", {"length_penalty": "cosine", "length_coefficient": 0.1}),
    of_knob("no_length_penalty", {"length_penalty": "none", "length_coefficient": None}),
    of_knob("repetition_penalty", {"repetition_coefficient": 0.1, "repetition_ngram": 3}),
    of_knob("separate_rewards", {"reward_combination": "separate"},
            needs={"format_coefficient": 0.1, "baseline": "group", "scale": "group"}),
    of_knob("summed_rewards", {"reward_combination": "sum"}, moves=""),
    Trick("truncated_is_wrong", {"reward.truncated": 0.0}, title="A truncated completion is wrong",
          source=f"{_PAPER}, section 4.4",
          claim="A truncated completion that has given the right answer is judged right in the study (appendix B.2)."),
    # sampling
    Trick("paper_sampling", {"sampling.temperature": 0.99, "sampling.top_p": 0.99, "sampling.top_k": 100},
          title="Temperature 0.99, top-p 0.99, top-k 100", source=f"{_PAPER}, section 1.5",
          claim="Throughout the study; not taken apart."),
    Trick("temperature_0_7", {"sampling.temperature": 0.7}, title="Temperature 0.7"),
    Trick("temperature_1_2", {"sampling.temperature": 1.2}, title="Temperature 1.2"),
    Trick("min_p", {"sampling.min_p": 0.05}, title="Tokens below 0.05 of the likeliest are never sampled",
          source="Nguyen et al., 2024, arXiv 2407.01082"),
)  # fmt: skip
