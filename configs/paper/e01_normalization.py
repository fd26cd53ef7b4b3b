"""E1: advantages as rewards, normalized over the batch, or over the group.

Takeaway 1.
Source: arXiv 2508.08221, section 4.1, figure 4.
Command: jaxrl-llm study run --config configs/paper/e01_normalization.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Should rewards be normalized, and over the batch or the group?",
        claim="By group is steadier and ends higher than by batch or not at all; by batch often collapses.",
        source="takeaway 1, figure 4",
        cells={
            "paper": "base_4b_easy base_4b_hard base_8b_easy base_8b_hard aligned_4b_medium aligned_8b_medium",
            "small": "aligned_135m_medium",
            "lab": "base_easy base_hard aligned_medium",
        },
        arms={"none": ("no_normalization",), "batch": ("batch_normalization",), "group": ()},
        comparisons=(("group", "none"), ("group", "batch"), ("batch", "none")),
    )
