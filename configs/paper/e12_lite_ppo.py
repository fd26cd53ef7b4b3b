"""E12: Lite PPO against GRPO and DAPO on base models.

The recipes of configs/, whole: the paper gives neither GRPO's coefficient of the KL nor DAPO's bound, buffer and
limit of resampling. DAPO samples up to ten rollouts for a step: compare costs by samples, not steps.
Source: arXiv 2508.08221, section 5, figure 15.
Command: jaxrl-llm study run --config configs/paper/e12_lite_ppo.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    return common.study(
        __file__,
        scale,
        question="Do two tricks beat the recipes that are made of many?",
        claim="Lite PPO rises steadily and ends higher; GRPO and DAPO peak and then collapse.",
        source="section 5, figure 15",
        cells={
            "paper": "base_4b_easy base_4b_hard base_8b_easy base_8b_hard",
            "small": "aligned_135m_medium",
            "lab": "base_easy base_hard",
        },
        arms=common.RECIPES,
        comparisons=common.OF_RECIPES,
    )
