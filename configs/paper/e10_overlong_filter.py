"""E10: truncated answers with and without a gradient, at three maximum lengths.

8k, 16k and 20k tokens in the paper, and about their proportion elsewhere. It names no tier: medium here.
Source: arXiv 2508.08221, section 4.4, figure 13.
Command: jaxrl-llm study run --config configs/paper/e10_overlong_filter.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Should truncated answers be left out of the loss?",
        claim="A clear gain at 8k tokens, nearly none at 20k; shorter answers at 8k, longer ones at 20k.",
        source="takeaway 8, figure 13",
        cells={
            "paper": "base_8b_medium_short base_8b_medium_middle base_8b_medium_long aligned_8b_medium_short",
            "small": "aligned_135m_medium_short aligned_135m_medium_middle aligned_135m_medium_long",
            "lab": "base_medium_short base_medium_middle base_medium_long aligned_medium_short",
        },
        arms={"without": (), "filter": ("overlong_filter",)},
        comparisons=(("filter", "without"),),
    )
