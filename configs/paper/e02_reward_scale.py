"""E2: rewards of 0 and 1, or of -1 and 1, under batch normalization.

The paper sees the second repair batch normalization. By algebra it cannot: group, batch and mixed normalization are
invariant to affine maps of the reward (tests/test_laws_advantages.py), so both arms have the same updates, up to the
epsilon beside the std. What the figure shows has another cause: seeds, or code that reads raw scores. The scales lab
and small have an epsilon of 0, which makes the arms the same to the bit, and as a control the pair without
normalization, where the map does matter; the paper's scale is without both.
Source: arXiv 2508.08221, appendix C, figure 18.
Command: jaxrl-llm study run --config configs/paper/e02_reward_scale.py:lab
Hardware: lab and small two CPU cores, small about 5 minutes a run; paper accelerators, never run by us.
"""

from configs.paper import common


def get_config(scale="lab"):
    arms = {"zero_one": ("batch_normalization",), "minus_one_one": ("batch_normalization", "reward_minus_one")}
    comparisons = (("minus_one_one", "zero_one"),)
    if scale != "paper":
        arms |= {"none_zero_one": ("no_normalization",), "none_minus_one_one": ("no_normalization", "reward_minus_one")}
        comparisons += (("none_minus_one_one", "none_zero_one"),)
    c = common.study(
        __file__,
        scale,
        question="Does batch normalization need rewards of -1 and 1?",
        claim="Rewards of -1 and 1 repair it. By algebra they cannot: it is invariant to affine maps of the reward.",
        source="takeaway 1, figure 18",
        cells={
            "paper": "base_8b_easy base_8b_medium",
            "small": "aligned_135m_medium",
            "lab": "base_easy base_medium",
        },
        arms=arms,
        comparisons=comparisons,
    )
    if scale != "paper":
        c.run.algorithm.scale_epsilon = 0.0
    return c
