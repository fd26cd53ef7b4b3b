"""E0: how far the baseline comes, by model and difficulty of the data.

The paper's figure 3: longer answers on harder data, aligned models start high and gain about two points. No trick and
no verdict: curves of accuracy and length.
Source: arXiv 2508.08221, section 3, figure 3.
Command: jaxrl-llm study run --config configs/paper/e00_baseline.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="How far does plain PPO without a critic come, on each model and each tier?",
        claim="Harder data gives longer answers; aligned models start high and gain about 2 points.",
        source="figure 3",
        cells={
            "paper": " ".join(
                f"{model}_{tier}"
                for model in ("base_4b", "base_8b", "aligned_4b", "aligned_8b")
                for tier in common.TIERS
            ),
            "small": "aligned_135m_easy aligned_135m_medium aligned_135m_hard",
            "lab": "base_easy base_medium base_hard aligned_easy aligned_medium aligned_hard",
        },
        arms={"baseline": ()},
        comparisons=(),
    )
