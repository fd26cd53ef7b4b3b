"""The critic: a network of its own that values the state before a token, and learns.

It starts at the policy's weights, or is of another checkpoint; a run of the latter is that of test_run.py.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from jaxrl_llm import config
from jaxrl_llm.core.diagnostics import explained_variance
from jaxrl_llm.models import value_head
from jaxrl_llm.models import weights as weight_tables
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.sharding import MESH_AXES, MeshSettings, make_mesh
from jaxrl_llm.training.layouts import Budget
from jaxrl_llm.training.learn import budget_of
from jaxrl_llm.training.packing import pack_batch
from jaxrl_llm.training.score import predictions, score_values
from jaxrl_llm.training.step import init_state
from jaxrl_llm.training.update import CriticUpdate
from jaxrl_llm.types import Rollout
from tests import policies
from tests.policies import CONFIG, LENGTHS, MODEL, PROMPTS, VOCABULARY

CRITIC = value_head.functions(CONFIG)
ROWS, TOKENS = 8, 10


def rollout() -> Rollout:
    """Two completions of each prompt, of random tokens."""
    rng = np.random.default_rng(0)
    mask = np.arange(TOKENS) < rng.integers(3, TOKENS + 1, (ROWS, 1))
    arrays = {
        "prompt_tokens": np.repeat(PROMPTS, 2, axis=0),
        "prompt_length": np.repeat(LENGTHS, 2),
        "tokens": rng.integers(0, VOCABULARY, (ROWS, TOKENS)).astype(np.int32),
        "mask": mask,
        "sampler_logprobs": np.where(mask, -1.0, 0.0).astype(np.float32),
        "truncated": np.zeros(ROWS, bool),
        "prompt_id": np.repeat(np.arange(4, dtype=np.int32), 2),
    }
    return Rollout(**arrays)  # type: ignore[arg-type]


ROLLOUT = rollout()


@functools.cache
def values_of():
    return jax.jit(lambda params, batch: score_values(CRITIC, params, batch))


def critic_params(seed: int = 1):
    """A critic whose head is no longer zero."""
    params = CRITIC.init(policies.params())
    rng = np.random.default_rng(seed)
    params["value_head"]["kernel"] = jnp.asarray(rng.normal(size=CONFIG.width), jnp.float32)
    return params


def test_a_new_critic_has_the_policys_trunk_in_memory_of_its_own_and_values_everything_at_0():
    weights, optimizer = policies.params(), optax.sgd(1.0)
    algorithm = policies.algorithm("ppo")
    params = init_state(weights, optimizer, algorithm, critic=CRITIC, critic_optimizer=optimizer).critic_params
    assert set(params) == {"trunk", "value_head"} and set(params["trunk"]) == set(weights) - {"head"}
    for (path, copy), leaf in zip(
        jax.tree_util.tree_leaves_with_path(params["trunk"]),
        jax.tree.leaves({name: tree for name, tree in weights.items() if name != "head"}),
        strict=True,
    ):
        np.testing.assert_array_equal(copy, leaf)
        assert copy.unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer(), jax.tree_util.keystr(path)
    assert (np.asarray(values_of()(params, ROLLOUT)) == 0).all()


def test_a_critic_is_float32_whatever_the_policy_is():
    weights = jax.tree.map(lambda x: x.astype(jnp.bfloat16), policies.params())
    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(CRITIC.init, weights))} == {jnp.dtype("float32")}


def test_a_token_that_a_critic_of_another_checkpoint_does_not_have_reads_its_last_row():
    short = 150  # entries, of the policy's 200
    critic = value_head.functions(dataclasses.replace(CONFIG, vocab_size=short, layers=1))
    params = critic.init(
        jax.jit(functions(dataclasses.replace(CONFIG, vocab_size=short, layers=1)).init)(jax.random.key(0))
    )
    params["value_head"]["kernel"] = jnp.ones(CONFIG.width)
    values = jax.jit(functools.partial(score_values, critic))
    assert (np.asarray(ROLLOUT.tokens) >= short).any()
    clipped = {name: np.minimum(getattr(ROLLOUT, name), short - 1) for name in ("tokens", "prompt_tokens")}
    np.testing.assert_array_equal(values(params, ROLLOUT), values(params, Rollout(**{**vars(ROLLOUT), **clipped})))


@pytest.mark.parametrize(
    ("of_policy", "of_critic", "trees"), [(64, 64, False), (64, 24, False), (24, 64, False), (24, 24, True)]
)
def test_a_pass_has_trunks_where_the_kernels_of_policy_and_critic_have_them(of_policy, of_critic, trees):
    """On a TPU, whose kernel has none and takes heads of a multiple of 64."""
    device = AbstractDevice(device_kind="a device", num_cores=1, platform="tpu")
    mesh = AbstractMesh((1, 1, 1, 1), MESH_AXES, abstract_device=device)
    configs = [dataclasses.replace(CONFIG, head_size=size) for size in (of_policy, of_critic)]
    settings = config.parse(config.load(policies.CONFIGS / "ppo.py", []))
    with jax.sharding.use_abstract_mesh(mesh):
        assert budget_of(settings, configs, mesh).trees == trees  # type: ignore[arg-type]


def test_the_critics_hidden_states_are_the_policys_at_the_start():
    weights = policies.params()
    of_critic = jax.jit(lambda params: predictions(CRITIC.apply, params, ROLLOUT).hidden)(CRITIC.init(weights))
    of_policy = jax.jit(lambda params: predictions(MODEL.apply, params, ROLLOUT).hidden)(weights)
    np.testing.assert_allclose(of_critic, of_policy, atol=1e-6)


def test_the_value_at_a_token_knows_the_tokens_before_it_and_not_the_token_itself():
    params, column = critic_params(), 4
    before = np.asarray(values_of()(params, ROLLOUT))
    tokens = np.array(ROLLOUT.tokens)
    tokens[:, column] = (tokens[:, column] + 1) % VOCABULARY
    after = np.asarray(values_of()(params, Rollout(**{**vars(ROLLOUT), "tokens": tokens})))
    # other positions of a row are computed by the same operations: the very same numbers
    np.testing.assert_array_equal(after[:, : column + 1], before[:, : column + 1])
    longer = ROLLOUT.mask[:, column + 1]
    assert longer.any() and (after[longer, column + 1] != before[longer, column + 1]).all()
    assert (before[~np.asarray(ROLLOUT.mask)] == 0).all()


def test_the_critic_lies_on_the_mesh_as_the_policy_does():
    mesh = make_mesh(MeshSettings(2, 2, 2, 1))
    weights = jax.device_put(policies.params(), weight_tables.shardings(CONFIG, mesh))
    params = CRITIC.init(weights)
    for name, tree in params["trunk"].items():
        places = jax.tree.map(lambda x, y: x.sharding == y.sharding, tree, weights[name])
        assert all(jax.tree.leaves(places)), name
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params["value_head"]))
    assert all(len(leaf.devices()) == 8 for leaf in jax.tree.leaves(params))


def test_a_critic_learns_which_prompts_are_worth_something():
    """The reward is that of the prompt: the returns can be known, and after enough steps they are."""
    algorithm = policies.algorithm("ppo", value_clip=None, gae_lambda_returns=1.0)
    rewards = np.repeat(np.array([1, 0, 1, 0], np.float32), 2)
    optimizer = optax.adam(3e-3)
    state = init_state(policies.params(), optimizer, algorithm, critic=CRITIC, critic_optimizer=optimizer)
    update = CriticUpdate(CRITIC, algorithm, optimizer)
    values = values_of()(state.critic_params, ROLLOUT)
    batch, first = policies.batch(algorithm, ROLLOUT, rewards, values=values)
    passes, _ = pack_batch(batch, np.asarray(ROLLOUT.prompt_id), Budget(40))
    errors = []
    for _ in range(40):
        state, metrics = update(state, batch, passes)
        errors.append(float(metrics["value_error"].value))
    _, last = policies.batch(algorithm, ROLLOUT, rewards, values=values_of()(state.critic_params, ROLLOUT))
    assert errors[0] == pytest.approx(float(np.mean(np.square(np.asarray(batch.returns)[ROLLOUT.mask]))), rel=1e-5)
    assert errors[-1] < 0.1 * errors[0]
    assert float(first["explained_variance"].value) == pytest.approx(0, abs=1e-6)
    assert float(last["explained_variance"].value) > 0.9


def test_explained_variance_is_1_at_the_targets_0_at_their_mean_and_nan_where_they_are_equal():
    mask = jnp.array([[True, True, False], [True, False, False]])
    targets = jnp.array([[1.0, 2.0, jnp.nan], [6.0, 9.0, 9.0]])
    assert float(explained_variance(targets + 5, targets, mask)) == 1.0, "a constant error is no variance"
    assert float(explained_variance(jnp.full((2, 3), 3.0), targets, mask)) == 0.0
    assert float(explained_variance(-targets, targets, mask)) == pytest.approx(-3.0)
    assert np.isnan(float(explained_variance(targets, jnp.ones((2, 3)), mask)))
