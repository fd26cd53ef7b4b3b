"""The decoder against transformers: logits at every position, greedy continuations, exported folders."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxrl_llm.models import certificate, hub, writer
from jaxrl_llm.types import Array, KVCache
from tests.models import tiny

TOLERANCE = 1e-4  # of a logit; they reach about ±5
# Without transformers its recorded answers are compared; with it, its own as well.
SOURCES = ["recorded", "transformers"] if tiny.HAVE_TRANSFORMERS else ["recorded"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    return functools.cache(lambda case: tiny.write_case(tmp_path_factory.mktemp(case), case))


@pytest.fixture(scope="module")
def answer_of(folder_of):
    @functools.cache
    def answer(case: str, source: str) -> dict[str, np.ndarray]:
        return tiny.recorded(case) if source == "recorded" else tiny.ask_transformers(folder_of(case))

    return answer


@pytest.fixture(scope="module")
def logits_of(folder_of):
    @functools.cache
    def logits(case: str) -> np.ndarray:
        policy = hub.load(str(folder_of(case)))
        return np.asarray(jax.jit(policy.logits)(jnp.asarray(tiny.tokens()), jnp.asarray(tiny.LENGTHS)))

    return logits


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("case", tiny.CASES)
def test_logits_equal_transformers_at_every_position_of_right_padded_rows(case, source, answer_of, logits_of):
    real = np.arange(tiny.WIDTH) < tiny.LENGTHS[:, None]
    expected, found = answer_of(case, source)["logits"][real], logits_of(case)[real]
    assert np.abs(expected).max() > 1  # the comparison is of numbers that say something
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("case", tiny.CASES)
def test_greedy_decoding_with_the_cache_continues_as_transformers_does(case, source, answer_of, folder_of):
    expected = answer_of(case, source)["greedy"]
    assert len(np.unique(expected)) > 5  # no constant text
    np.testing.assert_array_equal(_greedy(str(folder_of(case))), expected)


@functools.cache
def _greedy(folder: str) -> np.ndarray:
    """Continuations [3, GREEDY_TOKENS] by the model's own prefill and decode."""
    policy = hub.load(folder)
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
    def test_the_recorded_answers_are_transformers_own(case, answer_of):
        recorded, live = answer_of(case, "recorded"), answer_of(case, "transformers")
        np.testing.assert_allclose(recorded["logits"], live["logits"], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(recorded["greedy"], live["greedy"])

    @pytest.mark.parametrize("limit", [writer.MAX_SHARD_BYTES, 5000])
    @pytest.mark.parametrize("case", tiny.CASES)
    def test_transformers_reads_a_saved_folder_as_the_same_model(case, limit, folder_of, answer_of, tmp_path):
        policy = hub.load(str(folder_of(case)))
        writer.save(policy.config, policy.params, tmp_path, dtype="float32", max_shard_bytes=limit)
        again = tiny.ask_transformers(tmp_path)
        np.testing.assert_array_equal(again["logits"], answer_of(case, "transformers")["logits"])

    @pytest.mark.parametrize("case", tiny.CASES)
    def test_a_folder_that_transformers_saved_loads_bitwise(case, folder_of, tmp_path):
        import transformers

        model = transformers.AutoModelForCausalLM.from_pretrained(folder_of(case))
        model.save_pretrained(tmp_path)
        first, second = hub.load(str(folder_of(case))), hub.load(str(tmp_path))
        assert first.config == second.config  # config.json in transformers 4's spelling, and in 5's
        _assert_equal_trees(first.params, second.params)

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


@pytest.mark.parametrize("limit", [writer.MAX_SHARD_BYTES, 5000])
@pytest.mark.parametrize("case", tiny.CASES)
def test_load_save_load_gives_the_same_bits(case, limit, folder_of, tmp_path):
    policy = hub.load(str(folder_of(case)))
    writer.save(policy.config, policy.params, tmp_path, dtype="float32", max_shard_bytes=limit)
    assert (tmp_path / "model.safetensors.index.json").exists() == (limit == 5000)
    again = hub.load(str(tmp_path))
    assert again.config == policy.config
    _assert_equal_trees(again.params, policy.params)


def test_saving_in_bfloat16_rounds_each_number_once(folder_of, tmp_path):
    policy = hub.load(str(folder_of("qwen3")))
    writer.save(policy.config, policy.params, tmp_path, dtype="bfloat16")
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "model.safetensors").values()} == {"bfloat16"}
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), policy.params)
    _assert_equal_trees(hub.load(str(tmp_path)).params, rounded)


def test_saving_over_an_earlier_save_leaves_nothing_of_it(folder_of, tmp_path):
    policy = hub.load(str(folder_of("llama")))
    tokenizer = tmp_path / "elsewhere" / "tokenizer.json"
    tokenizer.parent.mkdir()
    tokenizer.write_text("{}")
    folder = tmp_path / "model"
    writer.save(policy.config, policy.params, folder, dtype="float32", max_shard_bytes=5000)
    generation = {"eos_token_id": [3, 5], "pad_token_id": 0}
    writer.save(
        policy.config, policy.params, folder, dtype="float32", tokenizer_files=[tokenizer], generation_config=generation
    )
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert hub.tensor_files.read_json(folder / "config.json")["eos_token_id"] == [3, 5]
    assert hub.tensor_files.read_json(folder / "generation_config.json") == generation


def test_a_save_that_breaks_off_leaves_no_folder_that_loads(folder_of, tmp_path):
    policy = hub.load(str(folder_of("llama")))
    writer.save(policy.config, policy.params, tmp_path, dtype="float32")
    missing = [Path("/nowhere/tokenizer.json")]  # a stand-in for a full disk, after the weights, before config.json
    with pytest.raises(FileNotFoundError):
        writer.save(policy.config, policy.params, tmp_path, dtype="float32", tokenizer_files=missing)
    with pytest.raises(FileNotFoundError, match=r"looked for config\.json"):
        hub.load(str(tmp_path))


def test_saving_refuses_parameters_of_another_model(folder_of, tmp_path):
    config, params = hub.load(str(folder_of("llama"))).config, hub.load(str(folder_of("qwen3"))).params
    with pytest.raises(ValueError, match=r"attention/query/kernel: found \(2, 32, 4, 16\), expected \(2, 32, 4, 8\)"):
        writer.save(config, params, tmp_path, dtype="float32")
    with pytest.raises(ValueError, match="dtype = 'float16': expected one of float32, bfloat16"):
        writer.save(config, params, tmp_path, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def _assert_equal_trees(first, second) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert one.dtype == other.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)
