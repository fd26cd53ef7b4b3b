"""E7: which tokens the upper bound of the ratio stops.

The arms of E5 on aligned models; the paper names no model. Read the census of the report, not its verdicts: tokens
with a positive advantage whose ratio is above the bound. The models of lab and small know no discourse connectives
here: only the number of stopped tokens can be compared there.
Source: arXiv 2508.08221, section 4.2, figures 10 and 19.
Command: jaxrl-llm study run --config configs/paper/e07_clipped_tokens.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Which tokens does the clip stop, at 1.20 and at 1.28?",
        claim="At 1.20 the clip stops connectives (therefore, if, but); at 1.28 few tokens, mostly common words.",
        source="takeaway 5, figures 10 and 19",
        cells={
            "paper": "aligned_4b_medium aligned_8b_medium",
            "small": "aligned_135m_medium",
            "lab": "base_medium aligned_medium",
        },
        arms={"clip_20": (), "clip_28": ("clip_high_0_28",)},
        comparisons=(("clip_28", "clip_20"),),
    )
