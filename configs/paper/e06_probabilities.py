"""E6: the probabilities that tokens are sampled with, under an upper bound of 1.20 or 1.28.

The arms of E5 on the medium tier. Read the histogram of the report, not its verdicts: shares of tokens between
probabilities of 0, 0.3, 0.6, 0.85, 0.95, 0.99 and 1.
Source: arXiv 2508.08221, section 4.2, figures 9 and 20.
Command: jaxrl-llm study run --config configs/paper/e06_probabilities.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Does a higher bound keep more tokens of low probability?",
        claim="At 1.28 fewer tokens have a probability above 0.99 (4B: 88.2 % against 91.7 %).",
        source="figures 9 and 20",
        cells={
            "paper": "base_4b_medium base_8b_medium aligned_4b_medium aligned_8b_medium",
            "small": "aligned_135m_medium",
            "lab": "base_medium aligned_medium",
        },
        arms={"clip_20": (), "clip_28": ("clip_high_0_28",)},
        comparisons=(("clip_28", "clip_20"),),
    )
