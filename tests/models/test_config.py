"""Reading and writing config.json."""

from __future__ import annotations

import re

import pytest

from jaxrl_llm.models.config import Llama3RopeScaling, ModelConfig, from_hf, to_hf
from tests.models import public, tiny

CONFIGS = {**tiny.CASES, **public.CONFIGS}
COMPARED = (  # what determines the function that transformers computes
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "max_position_embeddings",
    "tie_word_embeddings",
)
LLAMA3 = public.CONFIGS["Llama-3.1-8B"]["rope_scaling"]


def test_llama_31_is_read_as_published():
    assert from_hf(public.CONFIGS["Llama-3.1-8B"], "test") == ModelConfig(
        family="llama",
        vocab_size=128256,
        width=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_size=128,
        mlp_width=14336,
        norm_epsilon=1e-5,
        rope_theta=5e5,
        max_positions=131072,
        tied=False,
        qkv_bias=False,
        qk_norm=False,
        rope_scaling=Llama3RopeScaling(8.0, 1.0, 4.0, 8192),
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_writing_and_reading_a_config_gives_it_back(name):
    config = from_hf(CONFIGS[name], name)
    assert from_hf(to_hf(config, "bfloat16"), name) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_both_spellings_of_the_rotary_keys_mean_the_same(name):
    old = dict(CONFIGS[name])
    theta, scaling = old["rope_theta"], old.get("rope_scaling") or {"rope_type": "default"}
    new = {key: value for key, value in old.items() if key not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {"rope_theta": theta, **scaling}
    assert from_hf(new, name) == from_hf(old, name)
    oldest = dict(old, rope_scaling={"type" if key == "rope_type" else key: scaling[key] for key in scaling})
    assert from_hf(oldest, name) == from_hf(old, name)


@pytest.mark.parametrize(
    ("case", "absent", "key", "value"),
    [
        ("llama", "head_dim", "head_size", 8),
        ("qwen2", "head_dim", "head_size", 8),
        ("qwen3", "head_dim", "head_size", 128),
        ("llama", "num_key_value_heads", "kv_heads", 4),
        ("llama3", "tie_word_embeddings", "tied", False),
        ("qwen2", "tie_word_embeddings", "tied", False),
        ("qwen3", "tie_word_embeddings", "tied", False),
        ("llama", "rope_theta", "rope_theta", 10000.0),
    ],
)
def test_an_absent_key_means_what_it_means_to_transformers(case, absent, key, value):
    hf = {name: given for name, given in tiny.hf_config(case).items() if name != absent}
    assert getattr(from_hf(hf, case), key) == value


if tiny.HAVE_TRANSFORMERS:

    @pytest.mark.parametrize("name", CONFIGS)
    def test_transformers_reads_our_config_as_the_original_one(name):
        import transformers

        original = transformers.AutoConfig.for_model(**CONFIGS[name])
        ours = transformers.AutoConfig.for_model(**to_hf(from_hf(CONFIGS[name], name), "float32"))
        for key in COMPARED:
            assert getattr(ours, key) == getattr(original, key), key
        assert ours.eos_token_id is None  # not the defaults of transformers' Llama class


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llama", {"model_type": "gemma2"}, "model_type = 'gemma2' is an unknown architecture; known: llama"),
        ("llama", {"model_type": None}, "model_type = None is an unknown architecture"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "['LlamaForSequenceClassification']; known"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported for llama; expected 'silu'"),
        ("llama", {"mlp_bias": True}, "mlp_bias = True is not supported"),
        ("llama", {"attention_bias": True}, "attention_bias = True is not supported for llama; expected False"),
        ("qwen3", {"attention_bias": True}, "attention_bias = True is not supported for qwen3; expected False"),
        ("qwen2", {"attention_bias": False}, "attention_bias = False is not supported for qwen2; expected True"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window = True is not supported"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "supported: full_attention"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not supported"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout = 0.1 is not supported"),
        ("llama", {"hidden_size": None}, "hidden_size = None; expected a whole number from 1"),
        ("llama", {"vocab_size": -3}, "vocab_size = -3; expected a whole number from 1"),
        ("llama", {"num_hidden_layers": 2.0}, "num_hidden_layers = 2.0; expected a whole number"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers = True; expected a whole number"),
        ("llama", {"rms_norm_eps": None}, "rms_norm_eps = None; expected a number above 0"),
        ("qwen3", {"num_key_value_heads": None}, "num_key_value_heads = None; expected"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads = 4 is no multiple of num_key_value_heads = 3"),
        ("llama", {"hidden_size": 30}, "hidden_size = 30 is no multiple of num_attention_heads = 4"),
        ("llama", {"head_dim": 7}, "head_dim = 7: rotary positions need an even size"),
        ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes'; expected true or false"),
        ("llama", {"rope_theta": 0}, "rope_theta = 0; expected a number above 0"),
        ("llama", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.rope_type = 'yarn' is not supported"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.rope_type = 'linear' is not supp"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters.rope_type = 'dynamic' is not supp"),
        ("llama", {"rope_parameters": "llama3"}, "rope_parameters = 'llama3'; expected an object"),
        ("llama", {"rope_scaling": {**LLAMA3, "beta": 1}}, "rope_scaling.beta = 1 is unknown to rope_type 'llama3'"),
        ("llama", {"rope_scaling": {**LLAMA3, "factor": None}}, "rope_scaling.factor = None; expected a number above"),
        ("llama", {"rope_parameters": {"rope_theta": 5.0}}, "rope_theta = 10000.0 contradicts rope_param"),
        ("llama3", {"rope_parameters": {"rope_type": "default"}}, "rope_scaling and rope_parameters contradict"),
    ],
)
def test_what_the_decoder_does_not_have_is_refused_by_name(case, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_hf(tiny.hf_config(case, **changes), "/models/x/config.json")
    assert str(caught.value).startswith("/models/x/config.json: ")
