"""Bugs of sampling, on a tiny model."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tests import policies
from tests.mutants import Law, Mutant, Patch
from tests.sampling import test_generate as of_sampling

_GENERATE, _STEP_KEY = policies.generate, policies.step_key


def stop_token_dropped(*arguments, stop_ids, **given):
    rollout = _GENERATE(*arguments, stop_ids=stop_ids, **given)
    return dataclasses.replace(rollout, mask=rollout.mask & ~jnp.isin(rollout.tokens, jnp.asarray(stop_ids)))


def same_key(seed, stream, step):
    return _STEP_KEY(seed, stream, 0)


def a_rollout() -> tuple[Any]:
    return (jax.device_get(policies.sample(policies.params())),)


def weights_and_a_rollout() -> tuple[Any, Any]:
    weights = policies.params()
    return weights, jax.device_get(policies.sample(weights))


MUTANTS = (
    Mutant(
        "the stop token is dropped, and stopping is never learned",
        "nanochat issue 810, Tunix's vanilla engine",
        (Patch(policies, "generate", stop_token_dropped),),
        (Law(of_sampling.test_a_row_ends_with_its_first_stop_token_which_is_inside_the_mask, a_rollout),),
    ),
    Mutant(
        "every step draws with the same key",
        "a key that is not folded with the step",
        (Patch(policies, "step_key", same_key),),
        (Law(of_sampling.test_every_step_and_every_sample_has_its_own_text, weights_and_a_rollout),),
    ),
)
