"""E5: the upper bound of the ratio at 1.20 or 1.28, on base and on aligned models.

Accuracy, and the curve of the entropy.
Source: arXiv 2508.08221, section 4.2, figures 7 and 8.
Command: jaxrl-llm study run --config configs/paper/e05_clip_higher.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Should the upper bound of the ratio be raised to 1.28?",
        claim="On aligned models it gains and slows the fall of entropy; on base models it gains nothing.",
        source="takeaway 4, figures 7 and 8",
        cells={
            "paper": "base_4b_medium base_8b_medium aligned_4b_medium aligned_8b_medium "
            "aligned_4b_easy aligned_8b_easy",
            "small": "aligned_135m_medium",
            "lab": "base_medium aligned_medium aligned_easy",
        },
        arms={"clip_20": (), "clip_28": ("clip_high_0_28",)},
        comparisons=(("clip_28", "clip_20"),),
    )
