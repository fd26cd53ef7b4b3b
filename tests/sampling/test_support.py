"""The one distribution of sampler and scorer, against a slow reference and by its laws."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.sampling.generate import cache_widths, draw
from jaxrl_llm.sampling.support import Sampling, support_logits
from jaxrl_llm.sharding import MeshSettings, make_mesh
from tests.policies import PLAIN


def with_knobs(**knobs) -> Sampling:
    return dataclasses.replace(PLAIN, **knobs)


def slow_support(logits: np.ndarray, sampling: Sampling) -> set[int]:
    """Kept tokens by the words of the docstring: sort, then keep one after the other."""
    scaled = logits.astype(np.float64) / sampling.temperature
    order = sorted(range(len(logits)), key=lambda v: -scaled[v])
    if sampling.top_k:
        order = order[: sampling.top_k]
    p = np.exp(scaled - scaled.max())
    mass, kept = 0.0, []
    for v in order:
        if mass >= sampling.top_p:
            break
        kept.append(v)
        mass += p[v] / p[order].sum()
    return {v for v in kept if p[v] >= sampling.min_p * p.max()}


@pytest.mark.parametrize(
    "knobs",
    [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"top_k": 12, "top_p": 0.7, "temperature": 1.3},
        {"top_k": 100, "top_p": 0.99, "temperature": 0.99, "min_p": 0.02},
    ],
)
def test_the_support_is_that_of_a_slow_sort(knobs):
    logits = np.random.default_rng(1).normal(size=(20, 50)).astype(np.float32) * 2
    kept = np.isfinite(np.asarray(support_logits(jnp.asarray(logits), with_knobs(**knobs))))
    for row in range(len(logits)):
        assert set(np.flatnonzero(kept[row])) == slow_support(logits[row], with_knobs(**knobs))


def test_knobs_that_keep_everything_leave_the_logits_alone():
    logits = jax.random.normal(jax.random.key(0), (3, 50))
    np.testing.assert_array_equal(support_logits(logits, with_knobs(top_k=50)), logits)


def test_at_least_the_likeliest_token_is_kept():
    logits = jnp.asarray([[5.0, 1.0, 0.0]])
    assert np.isfinite(np.asarray(support_logits(logits, with_knobs(top_p=0.01)))).tolist() == [[True, False, False]]


def test_a_sampled_token_outside_the_support_keeps_a_finite_logprob_and_a_gradient():
    logits, label = jnp.asarray([[4.0, 1.0, 0.0, -1.0]]), jnp.asarray([3])

    def logprob(z):
        return jax.nn.log_softmax(support_logits(z, with_knobs(top_k=1), label))[0, 3]

    assert float(logprob(logits)) == pytest.approx(-1.0 - np.log(np.exp(4.0) + np.exp(-1.0)), abs=1e-5)
    gradient = jax.grad(logprob)(logits)
    assert np.isfinite(gradient).all() and gradient[0, 3] > 0 and gradient[0, 1] == 0


def test_temperature_0_puts_all_mass_on_the_first_likeliest_token():
    logits = jnp.asarray([[1.0, 3.0, 3.0]])
    assert np.isfinite(np.asarray(support_logits(logits, with_knobs(temperature=0.0)))).tolist() == [
        [False, True, False]
    ]


@pytest.mark.parametrize("knob", [{"top_p": 0.0}, {"top_p": 1.5}, {"temperature": -1.0}, {"top_k": -1}, {"min_p": 1.0}])
def test_a_knob_out_of_range_is_an_error_that_names_it(knob):
    ((name, value),) = knob.items()
    with pytest.raises(ValueError, match=f"sampling.{name} = {value}"):
        with_knobs(**knob)


def test_draws_follow_the_distribution_and_never_leave_the_support():
    logits = jax.random.normal(jax.random.key(3), (300,)) * 2  # three blocks
    logits = logits.at[jnp.arange(0, 300, 3)].set(-jnp.inf)
    logprobs = jax.nn.log_softmax(logits)
    count = 200_000
    uniform = (jnp.arange(count) + 0.5) / count  # a grid: the share of a token is its probability to 1 / count
    tokens = np.asarray(draw(jnp.broadcast_to(logprobs, (count, 300)), uniform))
    share = np.bincount(tokens, minlength=300) / count
    assert (share[::3] == 0).all()
    np.testing.assert_allclose(share, np.exp(logprobs), atol=2e-5)


@pytest.mark.parametrize("uniform", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_the_ends_of_the_unit_interval_draw_tokens_with_mass(uniform):
    logprobs = jax.nn.log_softmax(jnp.full((1, 257), -jnp.inf).at[0, jnp.asarray([5, 130])].set(0.0))
    assert int(draw(logprobs, jnp.asarray([uniform]))[0]) == (5 if uniform == 0 else 130)


@pytest.mark.parametrize("limit", [1, 5, 32, 33, 64, 100, 129, 8192])
def test_cache_widths_grow_to_the_limit_in_a_few_steps(limit):
    widths = cache_widths(limit)
    assert widths[-1] == limit and len(widths) <= 4 and list(widths) == sorted(set(widths))


@pytest.mark.parametrize("top_k", [5, 16, 20, 64], ids=lambda k: f"the {k} likeliest")
def test_devices_that_share_the_vocabulary_keep_what_one_keeps(top_k):
    logits = np.random.default_rng(2).normal(size=(8, 64)).round(1).astype(np.float32)  # with ties, 16 on a device
    sampling = with_knobs(top_k=top_k, top_p=0.9)
    whole = support_logits(jnp.asarray(logits), sampling)
    with jax.set_mesh(mesh := make_mesh(MeshSettings(1, 2, 4, 1))):
        split = jax.device_put(logits, jax.NamedSharding(mesh, jax.P("fsdp", "tensor")))
        shared = jax.jit(lambda x: support_logits(x, sampling))(split)
    np.testing.assert_array_equal(shared, whole)
