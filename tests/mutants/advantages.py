"""Bugs of rewards, advantages and filters."""

from __future__ import annotations

import importlib

import jax.numpy as jnp

from jaxrl_llm.algorithm import BASELINES, SCALES
from jaxrl_llm.core import advantages as core
from jaxrl_llm.core import groups, masks, returns, shaping
from tests import test_algorithm as whole
from tests import test_algorithm_advantages as of_advantages
from tests import test_exact as exact
from tests import test_laws_advantages as laws
from tests.mutants import Law, Mutant, Patch
from tests.strategies import algorithm

# the package exports a function of the same name
advantages_module = importlib.import_module("jaxrl_llm.algorithm.advantages")
_AS_REWARDS, _WHITEN = advantages_module.as_rewards, core.whiten
_PENALTY, _FILTER, _MEMBERS = shaping.overlong_penalty, advantages_module.filter_tokens, groups.members
_GAE = returns.gae
CHARACTERS = 4  # of a token
EXAMPLE = [[1.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, -1.5], [0] * 4, [0] * 4]
PLAIN, LITE_PPO = algorithm(scale_epsilon=0.0), algorithm(baseline="group", scale="batch", scale_epsilon=0.0)
GROUP, BATCH = algorithm(baseline="group", scale="group", scale_epsilon=0.0), algorithm(baseline="batch")


def _truncated(rewards):
    return jnp.where(jnp.isnan(rewards), rewards, jnp.trunc(rewards))


def integer_rewards(rewards):
    rewards = _AS_REWARDS(rewards)
    return rewards._replace(parts=_truncated(rewards.parts))


def unscored_is_zero(rewards):
    rewards = _AS_REWARDS(rewards)
    return rewards._replace(parts=jnp.nan_to_num(rewards.parts))


def penalty_in_characters(length, **given):
    return _PENALTY(CHARACTERS * length, **given)


def std_across_groups(rows, centred):
    """Groups of the same size in order, and the standard deviation along the wrong axis of the table."""
    table = rows.rewards.reshape(-1, 4)
    spread = jnp.broadcast_to(jnp.std(table, axis=0, ddof=1), table.shape).reshape(-1)
    return core.scaled(centred, spread, epsilon=rows.algorithm.scale_epsilon)


def spread_of_the_batch(rewards, prompt_id, where):
    everyone = groups.whole_batch(where)
    return groups.highest(rewards, everyone) > groups.lowest(rewards, everyone)


def mean_of_the_group(rewards, prompt_id, where):
    return shaping.mean_between(rewards, prompt_id, where, low=0.0, high=1.0)


def mean_with_rounding(values, member):
    sums = groups.total(values, member)
    return masks.divide(sums, groups.size(member).astype(sums.dtype))


def groups_by_position(prompt_id, where):
    return _MEMBERS(jnp.arange(prompt_id.shape[0]) // 3, where)


def filter_that_keeps_the_tokens(a, tokens, *given):
    return tokens, _FILTER(a, tokens, *given)[1]


def gae_through_gaps(token_rewards, values, mask, **given):
    return _GAE(masks.keep(token_rewards, mask), masks.keep(values, mask), jnp.ones_like(mask), **given)


def whitened_with_padding(values, mask, **given):
    return masks.keep(_WHITEN(values, jnp.ones_like(mask), **given), mask)


MUTANTS = (
    Mutant(
        "rewards pass through integers",
        "Tunix PPO",
        (Patch(advantages_module, "as_rewards", integer_rewards),),
        (
            Law(laws.test_an_affine_map_of_the_reward_does_what_baseline_and_scale_promise, (PLAIN,)),
            Law(whole.test_advantages_mask_returns_and_moments_are_those_of_the_loops, ("none",)),
        ),
    ),
    Mutant(
        "a row that could not be scored has reward 0",
        "EasyDeL's nan_to_num",
        (Patch(advantages_module, "as_rewards", unscored_is_zero),),
        (
            Law(
                laws.test_a_row_without_a_score_has_no_gradient_and_what_it_holds_is_of_no_consequence_to_the_others,
                (LITE_PPO,),
            ),
        ),
    ),
    Mutant(
        "the overlong penalty counts characters",
        "Tunix DAPO",
        (Patch(shaping, "overlong_penalty", penalty_in_characters),),
        (Law(of_advantages.test_the_soft_penalty_is_zero_before_the_buffer_and_full_at_the_limit),),
    ),
    Mutant(
        "the standard deviation runs along the wrong axis",
        "ROLL's batch mean with group std",
        (Patch(SCALES, "group", std_across_groups),),
        (
            Law(
                of_advantages.test_the_table_of_small_examples_holds,
                ("group", "group", EXAMPLE),
            ),
        ),
    ),
    Mutant(
        "no scale is a scale all the same",
        "ROLL's adv_estimator grpo overrides what was configured",
        (Patch(SCALES, "none", SCALES["group"]),),
        (Law(laws.test_an_affine_map_of_the_reward_does_what_baseline_and_scale_promise, (PLAIN,)),),
    ),
    Mutant(
        "the filter of groups reads the spread of the batch",
        "TRL pulls 7068 and 6365",
        (Patch(shaping, "has_spread", spread_of_the_batch),),
        (Law(laws.test_dynamic_sampling_reads_the_spread_of_the_group_whatever_the_scale_and_the_mean, ("batch",)),),
    ),
    Mutant(
        "the filter of groups reads the mean",
        "OpenRLHF issue 1270",
        (Patch(shaping, "has_spread", mean_of_the_group),),
        (Law(laws.test_dynamic_sampling_reads_the_spread_of_the_group_whatever_the_scale_and_the_mean, ("none",)),),
    ),
    Mutant(
        "filtered tokens stay in the denominator",
        "TRL pull 6439",
        (Patch(advantages_module, "filter_tokens", filter_that_keeps_the_tokens),),
        (Law(laws.test_a_filter_changes_the_mask_alone_and_counts_the_rows_it_took, ({"overlong_filter": True},)),),
    ),
    Mutant(
        "a standard deviation of float noise divides",
        "NeMo-RL pull 4158",
        (Patch(groups, "mean", mean_with_rounding),),
        (Law(laws.test_equal_rewards_give_exactly_no_advantage_even_with_no_epsilon, (GROUP,)),),
    ),
    Mutant(
        "leave-one-out leaves nothing out",
        "the mean of the group in its place",
        (Patch(BASELINES, "leave_one_out", BASELINES["group"]),),
        (Law(exact.test_the_group_mean_is_leave_one_out_times_one_less_than_the_samples_over_the_samples),),
    ),
    Mutant(
        "groups are found by position",
        "reshape to (prompts, samples) after a shuffle",
        (Patch(groups, "members", groups_by_position),),
        (Law(laws.test_the_order_of_the_rows_and_the_width_of_the_padding_change_nothing, (GROUP,)),),
    ),
    Mutant(
        "padding is whitened too",
        "a mean over all columns",
        (Patch(core, "whiten", whitened_with_padding),),
        (Law(of_advantages.test_whitened_advantages_have_mean_zero_and_std_one_over_tokens),),
    ),
    Mutant(
        "a gap in a row costs discount and λ",
        "ROLL, OpenRLHF",
        (Patch(returns, "gae", gae_through_gaps),),
        (Law(laws.test_a_gap_in_a_row_costs_nothing, (algorithm(baseline="critic"),)),),
    ),
    Mutant(
        "the coefficient of the KL in the reward is never applied",
        "slime pull 1247",
        (Patch(advantages_module, "kl_coefficient", lambda a, controls: 1.0),),
        (Law(exact.test_a_kl_in_the_reward_weighs_as_its_coefficient_says),),
    ),
)
