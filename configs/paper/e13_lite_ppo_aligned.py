"""E13: Lite PPO against GRPO and DAPO on aligned models.

As E12. The paper's tables also have GPQA and MMLU-Pro, which configs/paper/choices.py makes for `evaluate`, and
LiveCodeBench, which configs/paper/livecodebench.py does. They name no data for Llama 3.
Source: arXiv 2508.08221, ICLR version, tables 1 to 4.
Command: jaxrl-llm study run --config configs/paper/e13_lite_ppo_aligned.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Do two tricks beat the recipes that are made of many, on aligned models too?",
        claim="Lite PPO is ahead by 1.5 to 2.8 points in the mean of six benchmarks.",
        source="tables 1 to 4 of the ICLR version",
        cells={
            "paper": "aligned_8b_easy aligned_8b_hard aligned_llama3_8b_easy",
            "small": "aligned_135m_easy aligned_135m_hard",
            "lab": "aligned_easy aligned_hard",
        },
        arms=common.RECIPES,
        comparisons=common.OF_RECIPES,
    )
