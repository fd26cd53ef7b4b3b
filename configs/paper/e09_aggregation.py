"""E9: the mean over all tokens, or over sequences of their means.

The first is half of Lite PPO. Figures 12 and 17 disagree with their captions on the data; these are their panels.
Source: arXiv 2508.08221, section 4.3, figures 12 and 17.
Command: jaxrl-llm study run --config configs/paper/e09_aggregation.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Should every token weigh the same, or every sequence?",
        claim="Token-level is better on base models, most on hard data; sequence-level mostly on aligned ones.",
        source="takeaway 7, figures 12 and 17",
        cells={
            "paper": "base_8b_medium base_8b_hard aligned_8b_medium aligned_8b_hard",
            "small": "aligned_135m_medium",
            "lab": "base_medium base_hard aligned_medium aligned_hard",
        },
        arms={"sequence": (), "token": ("token_loss",)},
        comparisons=(("token", "sequence"),),
    )
