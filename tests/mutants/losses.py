"""Bugs of the policy loss, its weights and its KL."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxrl_llm.algorithm import AGGREGATIONS, Algorithm, choose_tokens, policy_loss
from jaxrl_llm.algorithm import kl as kl_table
from jaxrl_llm.algorithm import loss as loss_module
from jaxrl_llm.core import kl, losses, mismatch, ratios
from jaxrl_llm.types import TrainBatch
from tests import strategies
from tests import test_algorithm as whole
from tests import test_algorithm_loss as of_loss
from tests import test_exact as exact
from tests import test_laws_loss as laws
from tests.mutants import Law, Mutant, Patch
from tests.strategies import algorithm

IN_LOSS = {"kl_placement": "loss", "kl_coefficient": 0.3}


def everywhere(value: Any) -> tuple[Patch, ...]:
    """The policy loss as the laws and the loops call it."""
    return (Patch(laws, "policy_loss", value), Patch(strategies, "policy_loss", value))


def inverted_clip(ratio, advantages, *, clip_low, clip_high, cap=None):
    unclipped, clipped = -advantages * ratio, -advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    return jnp.where((advantages < 0) == (clipped > unclipped), unclipped, clipped)


def swapped_bounds(ratio, advantages, *, clip_low, clip_high, cap=None):
    return _PPO(ratio, advantages, clip_low=clip_high, clip_high=clip_low, cap=cap)


def leaking_weight(logprobs, ratio, advantages, *, ratio_min, ratio_max):
    return -jnp.clip(ratio, ratio_min, ratio_max) * advantages * logprobs


def tied_dual_clip(loss, advantages, *, bound):
    return _DUAL(loss, advantages, bound=1.2)


def mean_of_micro_batches(a: Algorithm, logprobs, entropy, batch: TrainBatch, **given):
    weights = batch.mask / jnp.maximum(jnp.sum(batch.mask), 1)
    return policy_loss(a, logprobs, entropy, dataclasses.replace(batch, weights=weights), **given)


def without_mask(a: Algorithm, logprobs, entropy, batch: TrainBatch, **given):
    ones = jnp.ones_like(batch.mask)
    weights = jnp.broadcast_to(jnp.max(batch.weights), ones.shape)
    return policy_loss(a, logprobs, entropy, dataclasses.replace(batch, mask=ones, weights=weights), **given)


def divided_by_rows(a: Algorithm, logprobs, entropy, batch: TrainBatch, **given):
    loss, metrics = policy_loss(a, logprobs, entropy, batch, **given)
    return loss / len(batch.mask), metrics


def choice_of_micro_batch(a: Algorithm, logprobs, entropy, batch: TrainBatch, **given):
    choice = choose_tokens(a, logprobs, entropy, batch)
    return policy_loss(a, logprobs, entropy, dataclasses.replace(batch, choice=choice), **given)


def padded_width(mask, prompt_id, tokens_per_row):
    return mask / (mask.shape[1] * jnp.maximum(jnp.sum(jnp.any(mask, axis=1)), 1))


def padded_constant(mask, prompt_id, tokens_per_row):
    return mask / (mask.shape[0] * mask.shape[1])


_PPO, _DUAL, _WEIGHTS = losses.ppo_clip, losses.dual_clip, mismatch.importance_weights
MUTANTS = (
    Mutant(
        "the clip is inverted where the advantage is negative",
        "EasyDeL",
        (Patch(losses, "ppo_clip", inverted_clip),),
        (
            Law(laws.test_the_clip_takes_the_gradient_on_the_side_of_the_advantage_alone, (algorithm(),)),
            Law(of_loss.test_the_clip_takes_the_gradient_on_one_side_only, (-1.0, 0.5, None, False, "effect/clip_low")),
            Law(whole.test_weights_corrections_loss_and_gradient_are_those_of_the_loops, ("ppo_clip",)),
        ),
    ),
    Mutant(
        "the bounds of the clip are swapped",
        "a symmetric default hides it",
        (Patch(losses, "ppo_clip", swapped_bounds),),
        (Law(laws.test_the_clip_takes_the_gradient_on_the_side_of_the_advantage_alone, (algorithm(),)),),
    ),
    Mutant(
        "the gradient flows through CISPO's weight",
        "EasyDeL",
        (Patch(losses, "weighted_reinforce", leaking_weight),),
        (
            Law(
                laws.test_on_policy_the_gradient_is_that_of_reinforce_and_no_clip_binds, (algorithm(surrogate="cispo"),)
            ),
        ),
    ),
    Mutant(
        "the dual clip is tied to the clip",
        "ROLL",
        (Patch(losses, "dual_clip", tied_dual_clip),),
        (Law(of_loss.test_the_clip_takes_the_gradient_on_one_side_only, (-1.0, 1.5, 2.0, True, None)),),
    ),
    Mutant(
        "the loss is a mean of the means of micro-batches",
        "TRL pull 6024, open-instruct pulls 1137 and 1161, EasyDeL",
        everywhere(mean_of_micro_batches),
        (Law(laws.test_micro_batches_of_any_rows_sum_to_the_loss_the_gradient_and_the_metrics, (algorithm(),)),),
    ),
    Mutant(
        "the loss is divided by the number of rows a second time",
        "Marin",
        everywhere(divided_by_rows),
        (
            Law(laws.test_micro_batches_of_any_rows_sum_to_the_loss_the_gradient_and_the_metrics, (algorithm(),)),
            Law(laws.test_on_policy_the_gradient_is_that_of_reinforce_and_no_clip_binds, (algorithm(),)),
        ),
    ),
    Mutant(
        "the numerator is not masked",
        "ROLL's token-mean",
        everywhere(without_mask),
        (Law(laws.test_garbage_off_the_mask_changes_nothing_and_every_effect_is_a_share, (algorithm(),)),),
    ),
    Mutant(
        "each micro-batch chooses its own tokens of high entropy",
        "a quantile taken inside the loss",
        everywhere(choice_of_micro_batch),
        (
            Law(
                laws.test_micro_batches_of_any_rows_sum_to_the_loss_the_gradient_and_the_metrics,
                (algorithm(top_entropy_share=0.4),),
            ),
        ),
    ),
    Mutant(
        "a sequence is divided by the padded width",
        "ROLL's seq-mean-token-sum-norm",
        (Patch(AGGREGATIONS, "sequence_mean", padded_width), Patch(AGGREGATIONS, "constant", padded_constant)),
        (
            Law(laws.test_the_order_of_the_rows_and_the_width_of_the_padding_change_nothing, (algorithm(),)),
            Law(of_loss.test_each_aggregation_gives_every_token_row_or_prompt_its_share),
        ),
    ),
    Mutant(
        "the ratio of a sequence is the product of its tokens'",
        "GSPO without its mean",
        (Patch(ratios, "sequence_ratio", ratios.sequence_product_ratio),),
        (Law(laws.test_on_policy_the_gradient_is_that_of_reinforce_and_no_clip_binds, (algorithm(ratio="sequence"),)),),
    ),
    Mutant(
        "k1 stands in the loss",
        "Tunix's default",
        (Patch(kl_table.KL_ESTIMATORS, "k3", kl.k1),),
        (
            Law(
                laws.test_on_policy_the_gradient_is_that_of_reinforce_and_no_clip_binds,
                (algorithm(**IN_LOSS, kl_estimator="k3"),),
            ),
            Law(exact.test_a_kl_in_the_loss_pulls_to_the_reference, ("k3",)),
        ),
    ),
    Mutant(
        "the coefficient of the KL is never applied",
        "slime pull 1247",
        (Patch(loss_module, "kl_coefficient", lambda a, controls: 1.0),),
        (
            Law(
                laws.test_what_a_coefficient_adds_to_the_loss_and_the_gradient_is_in_proportion_to_it,
                ("kl_coefficient", IN_LOSS),
            ),
        ),
    ),
    Mutant(
        "the weight for the gap is turned upside down",
        "sampler and trainer exchanged",
        (Patch(mismatch, "importance_weights", lambda x, **given: _WEIGHTS(-x, **given)),),
        (Law(exact.test_the_weight_of_the_whole_row_takes_the_gap_away),),
    ),
)
