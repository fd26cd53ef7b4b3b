"""The microscope's gradients against those that training would take, and what it refuses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm import config, microscope
from jaxrl_llm.algorithm import policy_loss
from jaxrl_llm.microscope.compare import batch_of
from jaxrl_llm.microscope.parameters import at_policy
from jaxrl_llm.training.rollouts import SavedRollout
from jaxrl_llm.training.score import score
from tests import policies

RNG = np.random.default_rng(0)
WEIGHTS = policies.params()


def recipe(name: str = "lite_ppo", **changes) -> microscope.Recipe:
    return microscope.Recipe(policies.algorithm(name, **changes))


@pytest.fixture(scope="module")
def saved() -> SavedRollout:
    """A rollout of the tiny policy whose log-probabilities have moved since."""
    rollout = jax.device_get(policies.sample(WEIGHTS))
    plain = config.load(policies.CONFIGS / "lite_ppo.py", [f"sampling.max_tokens={rollout.tokens.shape[1]}"]).to_dict()
    noise = RNG.normal(size=rollout.mask.shape) * 0.3
    correct = RNG.random(len(rollout.mask)) < 0.5
    return SavedRollout(
        step=3,
        config=plain,
        rollout=rollout,
        rewards=correct.astype(np.float32),
        correct=correct,
        parseable=correct,
        old_logprobs=rollout.sampler_logprobs,
        logprobs=np.where(rollout.mask, rollout.sampler_logprobs + noise, 0).astype(np.float32),
        entropy=np.where(rollout.mask, 1.0, 0).astype(np.float32),
    )


def test_a_recipe_beside_itself_and_a_multiple_of_itself_affects_no_token(saved):
    one = recipe()
    twice = one.with_loss(lambda *arrays: 2 * policy_loss(one.algorithm, *arrays)[0])
    rows = microscope.compare({"one": one, "same": one, "twice": twice}, [saved]).rows
    assert rows["same"].norm == rows["one"].norm > 0
    assert rows["twice"].norm == pytest.approx(2 * rows["one"].norm, rel=1e-6)
    assert [row.affected for row in rows.values()] == [0, 0, 0]
    assert [row.cosine.value for row in rows.values()] == pytest.approx([1, 1, 1])


def test_a_wider_clip_affects_the_tokens_between_the_bounds(saved):
    rows = microscope.compare({"narrow": recipe(), "wide": recipe(clip_high=0.5)}, [saved]).rows
    batch = batch_of(recipe(), saved)
    ratio = np.exp(saved.logprobs - saved.old_logprobs)
    between = np.asarray(batch.mask) & (np.asarray(batch.advantages) > 0) & (ratio > 1.2) & (ratio <= 1.5)
    assert between.sum() > 0
    assert rows["wide"].affected == pytest.approx(between.sum() / saved.rollout.mask.sum())
    bins = rows["wide"].by_position
    assert np.nansum(bins.values * bins.tokens) == pytest.approx(between.sum())


def test_gradients_by_parameters_are_those_of_the_loss_of_training(saved):
    recipes = {"lite_ppo": recipe(), "gspo": recipe(ratio="sequence", entropy_coefficient=0.01)}
    moved = jax.tree.map(lambda x: x * 1.05, WEIGHTS)
    rollouts, pull_back = at_policy(policies.MODEL, moved, policies.PLAIN, [saved], recipes=2)
    found = microscope.compare(recipes, rollouts, pull_back=pull_back)
    assert found.space == "parameters"
    flat = {}
    for name, one in recipes.items():
        batch = batch_of(one, saved)

        def loss(params, one=one, batch=batch):
            scores = score(policies.MODEL, params, batch, policies.PLAIN, chunk=1024)
            return policy_loss(one.algorithm, scores.logprobs, scores.entropy, batch)[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(moved)
        flat[name] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]).astype(np.float64)
        # sums over prompts of float32 products against one backward pass over all rows
        assert found.rows[name].norm == pytest.approx(np.linalg.norm(flat[name]), rel=1e-4)
        assert found.rows[name].loss == pytest.approx(float(value), rel=1e-4, abs=1e-6)
    one, other = flat.values()
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert found.rows["gspo"].cosine.value == pytest.approx(cosine, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "reason"), [("ppo", "algorithm.baseline = 'critic'"), ("grpo", "algorithm.kl_placement = 'loss'")]
)
def test_a_recipe_that_reads_what_a_rollout_does_not_hold_is_refused_with_the_reason(saved, name, reason):
    with pytest.raises(ValueError, match=reason):
        microscope.compare({name: microscope.load_recipe(name)}, [saved])


def test_a_recipe_with_a_reference_takes_that_of_the_rollout(saved):
    with_reference = dataclasses.replace(saved, ref_logprobs=saved.old_logprobs)
    assert microscope.compare({"grpo": microscope.load_recipe("grpo")}, [with_reference]).rows["grpo"].norm > 0


def test_a_loss_that_is_not_finite_is_an_error(saved):
    broken = recipe().with_loss(lambda logprobs, entropy, batch: jnp.sum(jnp.log(logprobs)))
    with pytest.raises(ValueError, match="step 3: the loss or its gradient is not finite"):
        microscope.compare({"broken": broken}, [saved])


def test_the_table_and_the_figure_name_every_recipe(saved, tmp_path):
    result = microscope.compare({"lite_ppo": recipe(), "wide": recipe(clip_high=0.5)}, [saved])
    text = microscope.table(result)
    assert "1 rollouts, 4 prompts" in text and "wide" in text
    svg = microscope.draw(result, tmp_path / "figure.svg").read_text()
    assert svg.count("wide") >= 2 and "Tokens treated otherwise than by lite_ppo" in svg
    assert microscope.draw(result, tmp_path / "again.svg").read_text() == svg


def test_a_folder_without_rollouts_says_how_to_get_some(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"log\.rollouts_every"):
        microscope.compare_folder({"lite_ppo": recipe()}, tmp_path)
