"""E11: how many truncated answers end in a loop, with and without the overlong filter.

The arms of E10. Read the repeat ratio of the report, not its verdicts: the share of truncated answers that end in a
loop, as log.loop defines it (the paper gives no window and no threshold).
Source: arXiv 2508.08221, section 4.4, figure 14.
Command: jaxrl-llm study run --config configs/paper/e11_repeat_ratio.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Does the overlong filter keep answers from ending in loops?",
        claim="Without it the share of loops among truncated answers grows; with it the share falls and stays low.",
        source="takeaway 8, figure 14",
        cells={
            "paper": "base_8b_medium_short base_8b_medium_long aligned_8b_medium_short",
            "small": "aligned_135m_medium_short aligned_135m_medium_long",
            "lab": "base_medium_short base_medium_long aligned_medium_short",
        },
        arms={"without": (), "filter": ("overlong_filter",)},
        comparisons=(("filter", "without"),),
    )
