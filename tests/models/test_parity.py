"""The decoder against transformers: logits at every position, greedy continuations, exported folders."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm.models import certificate, decoder, hub, weights, writer
from jaxrl_llm.models.hub import Policy
from jaxrl_llm.models.rotary import rotary_angles
from jaxrl_llm.types import Array, KVCache
from tests.compilation import optimized_jit
from tests.models import tiny

TOLERANCE = 1e-4  # of a logit; they reach about ±5
REAL = np.arange(tiny.WIDTH) < tiny.LENGTHS[:, None]
# Weights of the layers that gradients are compared of, beside the embedding; in the last layer.
DIFFERENTIATED = [("attention", "query", "kernel"), ("attention", "qkv", "kernel"), ("mlp", "down", "kernel")]
# Without transformers its recorded answers are compared; with it, its own as well.
SOURCES = ["recorded", "transformers"] if tiny.HAVE_TRANSFORMERS else ["recorded"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    return functools.cache(lambda case: tiny.write_case(tmp_path_factory.mktemp(case), case))


@pytest.fixture(scope="module")
def model_of(folder_of):
    return functools.cache(lambda case: tiny.transformers_model(folder_of(case)))


@pytest.fixture(scope="module")
def logits_of(model_of):
    """transformers' logits."""
    return functools.cache(
        lambda case, source: tiny.recorded(case)["logits"] if source == "recorded" else tiny.ask_logits(model_of(case))
    )


@pytest.fixture(scope="module")
def policy_of(folder_of):
    return functools.cache(lambda case: hub.load(str(folder_of(case))))


@pytest.fixture(scope="module")
def ours_of(policy_of):
    return functools.cache(lambda case: _ours(policy_of(case)))


class Ours(NamedTuple):
    """Attributes:
    logits: [3, WIDTH, VOCABULARY].
    hidden: of every layer, [3, WIDTH, D], the last behind the final norm.
    gradient: of the summed log-probability of all next tokens, a tree as the parameters.
    """

    logits: Any
    hidden: list[Any]
    gradient: dict[str, Any]


def _ours(policy: Policy) -> Ours:
    """In one compiled program; the layers run once more, one by one, for what each of them gives."""
    config, model = policy.config, policy.model
    tokens, length = jnp.asarray(tiny.tokens()), jnp.asarray(tiny.LENGTHS)
    columns = jnp.broadcast_to(jnp.arange(tiny.WIDTH), tokens.shape)
    segments = (columns < length[:, None]).astype(jnp.int32)
    counted = segments[:, 1:] != 0

    def total(params: dict[str, Any]) -> tuple[Array, tuple[Array, list[Array]]]:
        last = model.apply(params, tokens, columns, segments)
        logits = model.unembed(params, last)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(chosen * counted), (logits, last)

    def run(params: dict[str, Any]) -> Ours:
        gradient, (logits, last) = jax.grad(total, has_aux=True)(params)
        prepared, layer = model.prepare(params), decoder.Layer(config, jnp.dtype(jnp.float32))
        x, angles = decoder.embedded(config, prepared, tokens, columns), rotary_angles(config, columns)
        hidden = [x]
        for of_layer, kind in zip(prepared["layers"], decoder.layer_kinds(config), strict=True):
            x, _ = layer.apply({"params": of_layer}, x, angles, segments, columns, kind)  # type: ignore[misc]
            hidden.append(x)
        return Ours(logits, [*hidden[:-1], last], gradient)

    return jax.device_get(jax.jit(run)(policy.params))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("case", tiny.CASES)
def test_logits_equal_transformers_at_every_position_of_right_padded_rows(case, source, logits_of, ours_of):
    expected, found = logits_of(case, source)[REAL], ours_of(case).logits[REAL]
    assert np.abs(expected).max() > 1  # the comparison is of numbers that say something
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["qwen3", "gemma2"])
def test_a_program_that_is_compiled_as_users_have_it_gives_these_logits(case, policy_of, ours_of):
    found = optimized_jit(policy_of(case).logits)(jnp.asarray(tiny.tokens()), jnp.asarray(tiny.LENGTHS))
    # sums of 32 to 64 products in another order
    np.testing.assert_allclose(np.asarray(found)[REAL], ours_of(case).logits[REAL], rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", tiny.CASES)
def test_greedy_decoding_with_the_cache_continues_as_transformers_does(case, policy_of):
    expected = tiny.recorded(case)["greedy"]
    assert len(np.unique(expected)) > 5  # no constant text
    np.testing.assert_array_equal(_greedy(policy_of(case)), expected)


def _greedy(policy: Policy) -> np.ndarray:
    """Continuations [3, GREEDY_TOKENS] by the model's own prefill and decode."""
    model, length = policy.model, jnp.asarray(tiny.PROMPT_LENGTHS)
    prepared = model.prepare(policy.params)

    @jax.jit
    def run(prepared) -> Array:
        hidden, prompt = model.prefill(prepared, jnp.asarray(tiny.tokens()), length)

        def step(carry: tuple[Array, KVCache], column: Array) -> tuple[tuple[Array, KVCache], Array]:
            hidden, cache = carry
            token = jnp.argmax(model.unembed_prepared(prepared, hidden), axis=-1).astype(jnp.int32)
            hidden, cache = model.decode(prepared, token, length + column, prompt, length, cache, column)
            return (hidden, cache), token

        start = (hidden, model.empty_cache(len(tiny.PROMPT_LENGTHS), tiny.GREEDY_TOKENS))
        return jax.lax.scan(step, start, jnp.arange(tiny.GREEDY_TOKENS))[1].T

    return np.asarray(run(prepared))


if tiny.HAVE_TRANSFORMERS:

    @pytest.mark.parametrize("case", tiny.CASES)
    def test_the_recorded_answers_are_transformers_own(case, model_of, logits_of):
        recorded = tiny.recorded(case)
        np.testing.assert_allclose(recorded["logits"], logits_of(case, "transformers"), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(tiny.likeliest(model_of(case), recorded["greedy"]), recorded["greedy"])

    @pytest.mark.parametrize("case", tiny.CASES)
    def test_every_layer_gives_what_transformers_gives_and_so_do_gradients(case, model_of, ours_of, policy_of):
        import torch

        model, ours, ids = model_of(case), ours_of(case), torch.tensor(tiny.tokens()).long()
        logits, hidden = tiny.forward(model, tiny.tokens(), tiny.LENGTHS)
        chosen = torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
        chosen[torch.tensor(REAL[:, 1:])].sum().backward()
        assert len(hidden) == len(ours.hidden)
        for expected, found in zip(hidden, ours.hidden, strict=True):
            expected = expected.detach().numpy()[REAL]
            np.testing.assert_allclose(found[REAL], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        compared = 0
        for weight in weights.weight_table(policy_of(case).config):
            if weight.path[1:] in (("embedding",), *DIFFERENTIATED):
                name, number = weight.hf_names[-1], len(weight.hf_names) - 1
                if "experts" in name:  # transformers stacks them as we do
                    expected = gradients["model.layers.1.mlp.experts.down_proj"][-1]
                else:
                    expected = gradients[name]
                expected = weights.from_hf_layout(weight, expected.numpy())
                found = weight.tensor(weights.leaf(ours.gradient, weight), number)
                assert np.abs(expected).max() > 1e-3
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
                compared += 1
        assert compared >= 3

    @pytest.mark.parametrize("case", tiny.CASES)
    def test_bfloat16_is_as_near_to_float32_as_transformers_is(case, folder_of, logits_of, ours_of):
        policy = hub.load(str(folder_of(case)), dtype="bfloat16")
        found = jax.jit(policy.logits)(jnp.asarray(tiny.tokens()), jnp.asarray(tiny.LENGTHS))
        ours = np.asarray(found)[REAL] - ours_of(case).logits[REAL]
        rounded = tiny.ask_logits(tiny.transformers_model(folder_of(case), "bfloat16"))
        theirs = (rounded - logits_of(case, "transformers"))[REAL]
        assert np.sqrt(np.mean(ours**2)) <= 1.2 * np.sqrt(np.mean(theirs**2))

    def test_a_certificate_holds_both_loaders_to_the_policy_that_was_saved(folder_of, tmp_path):
        policy = hub.load(str(folder_of("qwen3")))
        writer.save(policy.config, policy.params, tmp_path, dtype="float32")
        found = certificate.certify(policy, tmp_path, certificate.logits_of_transformers())
        assert found["certified"] and found == json.loads((tmp_path / certificate.FILE).read_text())
        assert found["differences"]["jaxrl_llm"]["max"] == 0 < found["differences"]["transformers"]["max"] < 1e-4
        bias = policy.params["final_norm"] | {"scale": policy.params["final_norm"]["scale"] * 1.01}
        other = dataclasses.replace(policy, params={**policy.params, "final_norm": bias})
        with pytest.raises(ValueError, match="not the model that was saved: logits differ by up to jaxrl_llm"):
            certificate.certify(other, tmp_path, certificate.logits_of_transformers())
        assert not json.loads((tmp_path / certificate.FILE).read_text())["certified"]
