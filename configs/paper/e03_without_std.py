"""E3: advantages with and without division by the standard deviation.

The text takes the std from batch normalization, equation 7 from the group's mean; here are both readings. The paper
names no model for its figure: the smaller base model here.
Source: arXiv 2508.08221, section 4.1, figure 5.
Command: jaxrl-llm study run --config configs/paper/e03_without_std.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Should advantages be divided by a standard deviation?",
        claim="On easy data training without it is steadier and better; on hard data the two are about equal.",
        source="takeaway 2, figure 5",
        cells={
            "paper": "base_4b_easy base_4b_hard",
            "small": "aligned_135m_medium",
            "lab": "base_easy base_hard",
        },
        arms={
            "group_std": (),
            "group_mean": ("group_mean_only",),
            "batch_std": ("batch_normalization",),
            "batch_mean": ("batch_mean_only",),
        },
        comparisons=(("group_mean", "group_std"), ("batch_mean", "batch_std")),
    )
