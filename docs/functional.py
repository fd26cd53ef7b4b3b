"""A leaky clip against GRPO and DAPO on saved rollouts: python docs/functional.py runs/grpo/rollouts"""

import sys

import jax.numpy as jnp

from jaxrl_llm import microscope
from jaxrl_llm.core import masks, ratios

LEAK = 0.1


def leaky_clip(logprobs, entropy, batch):
    """-min(ρ A, r A), r = clip(ρ) + 0.1 (ρ - clip(ρ)): a tenth of the gradient is left where PPO's clip binds."""
    ratio = ratios.token_ratio(ratios.log_ratio(logprobs, batch.old_logprobs, batch.mask), batch.mask)
    clipped = jnp.clip(ratio, 0.8, 1.2)
    leaky = clipped + LEAK * (ratio - clipped)
    loss = -jnp.minimum(ratio * batch.advantages, leaky * batch.advantages)
    return jnp.sum(batch.weights * masks.keep(loss, batch.mask))


grpo, dapo = microscope.load_recipe("grpo"), microscope.load_recipe("dapo")
result = microscope.compare_folder({"grpo": grpo, "leaky": grpo.with_loss(leaky_clip), "dapo": dapo}, sys.argv[1])
print(microscope.table(result))
print(microscope.draw(result, "functional.png"))
