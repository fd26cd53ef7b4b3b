"""E4: group mean with the std of the group, or with that of the batch.

The second is half of Lite PPO.
Source: arXiv 2508.08221, section 4.1, figure 6.
Command: jaxrl-llm study run --config configs/paper/e04_batch_std.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Should rewards less the group's mean be divided by the group's or the batch's std?",
        claim="The batch's std is the more robust: weaker gradients where a group is nearly all right or all wrong.",
        source="takeaway 3, figure 6",
        cells={
            "paper": "base_4b_easy base_4b_hard base_8b_easy base_8b_hard",
            "small": "aligned_135m_medium",
            "lab": "base_easy base_hard",
        },
        arms={"group_std": (), "batch_std": ("mixed_normalization",)},
        comparisons=(("batch_std", "group_std"),),
    )
