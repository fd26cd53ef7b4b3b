"""Damped advantages: the sign of A times the root of its size, so that rare answers weigh less. One function."""

import dataclasses

import jax.numpy as jnp

from jaxrl_llm.study import Trick


def damp(batch):
    size = jnp.sqrt(jnp.abs(batch.advantages))
    return dataclasses.replace(batch, advantages=jnp.sign(batch.advantages) * size)


TRICK = Trick("damped_advantages", {}, title="sign(A) · √|A|", transform=damp)
