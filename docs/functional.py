"""A leaky clip against GRPO and DAPO on saved rollouts: python docs/functional.py runs/grpo/rollouts"""

import sys

import jax.numpy as jnp

from jaxrl_llm import microscope
from jaxrl_llm.algorithm import policy_loss
from jaxrl_llm.core import masks, ratios

LEAK = 0.1
grpo, dapo = microscope.load_recipe("grpo"), microscope.load_recipe("dapo")


def leaky_clip(logprobs, entropy, batch):
    """GRPO's loss, with a tenth of the gradient left where the clip takes it: - 0.1 A (ρ - clip(ρ)) there."""
    loss, _ = policy_loss(grpo.algorithm, logprobs, entropy, batch)
    ratio = ratios.token_ratio(ratios.log_ratio(logprobs, batch.old_logprobs, batch.mask), batch.mask)
    beyond = batch.advantages * (ratio - jnp.clip(ratio, 0.8, 1.2))  # above 0 where the clip binds
    return loss - LEAK * jnp.sum(batch.weights * masks.keep(jnp.maximum(beyond, 0), batch.mask))


recipes = {"grpo": grpo, "leaky": grpo.with_loss(leaky_clip), "dapo": dapo}
result = microscope.compare_folder(recipes, sys.argv[1], parameters=True)
print(microscope.table(result))
print(microscope.draw(result, "functional.png"))
