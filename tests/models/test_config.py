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
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "moe_intermediate_size",
    "num_local_experts",
    "num_experts_per_tok",
    "norm_topk_prob",
    "sliding_window",
    "layer_types",
    "no_rope_layers",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
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


@pytest.mark.parametrize("name", [name for name in CONFIGS if "rope_theta" in CONFIGS[name]])
def test_both_spellings_of_the_rotary_keys_mean_the_same(name):
    old = dict(CONFIGS[name])
    theta, scaling = old["rope_theta"], old.get("rope_scaling") or {"rope_type": "default"}
    of_rope = ("rope_theta", "rope_scaling", "rope_local_base_freq")
    new = {key: value for key, value in old.items() if key not in of_rope}
    new["rope_parameters"] = {"rope_theta": theta, **scaling}
    if old["model_type"] == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": old.get("rope_local_base_freq", 10000.0)}
        new["rope_parameters"] = {"full_attention": new["rope_parameters"], "sliding_attention": local}
    assert from_hf(new, name) == from_hf(old, name)
    oldest = dict(old, rope_scaling={"type" if key == "rope_type" else key: scaling[key] for key in scaling})
    assert from_hf(oldest, name) == from_hf(old, name)


def test_a_multimodal_gemma_3_is_read_as_its_text_model():
    text = tiny.hf_config("gemma3")
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    assert from_hf(whole, "test") == from_hf(text, "test")
    with pytest.raises(ValueError, match="test: text_config: n"):
        from_hf({**whole, "text_config": {"hidden_size": 8, "num_attention_heads": 3}}, "test")
    with pytest.raises(ValueError, match="test: text_config = None; expected an object"):
        from_hf({"model_type": "gemma3"}, "test")


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
        ("mistral", "sliding_window", "window", 4096),
        ("qwen3_window", "sliding_window", "window", 4096),
        ("qwen2_window", "max_window_layers", "window", None),  # from layer 28 on
        ("smollm3", "no_rope_layers", "unrotated", ()),  # every fourth of three
        ("smollm3", "rope_theta", "rope_theta", 2e6),
        ("gemma2", "attn_logit_softcapping", "attention_cap", 50.0),
        ("gemma2", "final_logit_softcapping", "logit_cap", 30.0),
        ("gemma2", "query_pre_attn_scalar", "query_scalar", 256),
        ("gemma2", "head_dim", "head_size", 256),
        ("gemma2", "tie_word_embeddings", "tied", True),
        ("gemma3", "sliding_window_pattern", "windowed", (True, True, True)),  # full: every sixth
        ("gemma3", "rope_local_base_freq", "local_rope_theta", 10000.0),
        ("gemma3", "rope_theta", "rope_theta", 1e6),
        ("olmo2", "num_key_value_heads", "kv_heads", 4),
        ("gpt2", "n_inner", "mlp_width", 128),
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
            if key == "intermediate_size" and hasattr(original, "moe_intermediate_size"):
                continue  # of dense layers, of which there are none
            if hasattr(type(original)(), key):  # else a key that transformers does not read of this family
                assert getattr(ours, key) == getattr(original, key), key
        _assert_equal_rotations(ours, original)
        assert ours.eos_token_id is None  # not the defaults of transformers' Llama class

    def _assert_equal_rotations(ours, original) -> None:
        """Yarn is written with the numbers that follow where the original says nothing."""
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        one, other = (dict(getattr(config, "rope_parameters", None) or {}) for config in (ours, original))
        other.pop("type", None)  # the older name of rope_type, which stays beside the new one
        kind = one.get("rope_type")
        if kind != "yarn":
            assert one == other
            return
        (found, factor), (expected, wanted) = (ROPE_INIT_FUNCTIONS[kind](config, "cpu") for config in (ours, original))
        assert (found == expected).all() and factor == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llama", {"model_type": "gemma"}, "model_type = 'gemma' is an unknown architecture; known: llama"),
        ("llama", {"model_type": None}, "model_type = None is an unknown architecture"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "['LlamaForSequenceClassification']; known"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported for llama; expected 'silu'"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias = True is not supported"),
        ("mistral", {"attention_bias": True}, "attention_bias = True is not supported for mistral; expected False"),
        ("llama", {"attention_bias": "yes"}, "attention_bias = 'yes'; expected true or false"),
        ("qwen2", {"attention_bias": False}, "attention_bias = False is not supported for qwen2; expected True"),
        ("qwen2_window", {"sliding_window": 0}, "sliding_window = 0; expected a whole number from 1"),
        ("qwen2_window", {"max_window_layers": -1}, "max_window_layers = -1; expected a whole number, 0 or more"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "expected full_attention in every layer"),
        ("llama", {"layer_types": ["sliding_attention"] * 2}, "expected full_attention in every layer"),
        ("qwen3_window", {"layer_types": ["sliding_attention"]}, "for each of 2 layers"),
        ("qwen3_window", {"layer_types": 3}, "layer_types = 3; expected full_attention or sliding_attention for each"),
        ("mistral", {"layer_types": ["full_attention"] * 2}, "expected sliding_attention in every layer"),
        ("gemma2", {"sliding_window": None}, "expected full_attention in every layer, where no sliding_window is set"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers = [1, 0]; expected 0 or 1 for each of 3 layers"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation = 'gelu' is not supported for gemma2"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True is not supported"),
        ("gemma2", {"attn_logit_softcapping": -1}, "attn_logit_softcapping = -1; expected a number above 0"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 is not supported for gemma3_text"),
        ("gemma3", {"rope_parameters": {"sliding_attention": {}, "a": 1}}, "rope_parameters.a is unknown beside"),
        (
            "gemma3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "expected the rope_type default",
        ),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step = 2 is not supported for qwen3_moe; expected 1"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers = [0] is not supported for qwen3_moe; expected []"),
        ("qwen3_moe", {"num_experts_per_tok": 7}, "num_experts_per_tok = 7; expected at most num_experts = [6]"),
        ("qwen3_moe", {"num_local_experts": 5}, "expected at most num_experts and num_local_experts = [6, 5], one"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True is not supported"),
        ("gpt2", {"activation_function": "relu"}, "activation_function = 'relu' is not supported for gpt2"),
        ("gpt2", {"n_embd": None}, "n_embd = None; expected a whole number"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported for llama"),
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
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling.rope_type = 'longrope' is not supported"),
        ("llama", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.factor = None; expected a number above 0"),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 0}},
            "rope_scaling.factor = 0; expected a number",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": ["dynamic"]}},
            "rope_parameters.rope_type = ['dynamic'] is not",
        ),
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
