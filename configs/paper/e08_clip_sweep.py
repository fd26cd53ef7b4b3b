"""E8: the upper bound of the ratio at 1.20, 1.24, 1.28 and 1.32.

The paper speaks of a scaling law: four bounds, one seed, one family of models.
Source: arXiv 2508.08221, section 4.2, figure 11.
Command: jaxrl-llm study run --config configs/paper/e08_clip_sweep.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    bounds = {"clip_24": ("clip_high_0_24",), "clip_28": ("clip_high_0_28",), "clip_32": ("clip_high_0_32",)}
    return common.study(
        __file__,
        scale,
        question="Which upper bound of the ratio is best for an aligned model?",
        claim="The 4B model gets better with the bound up to 1.32; the 8B model is best at 1.28, without a trend.",
        source="takeaway 6, figure 11",
        cells={
            "paper": "aligned_4b_medium aligned_8b_medium",
            "small": "aligned_135m_medium",
            "lab": "aligned_medium",
        },
        arms={"clip_20": ()} | bounds,
        comparisons=tuple((arm, "clip_20") for arm in bounds),
    )
