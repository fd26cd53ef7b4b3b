"""The families: for each of Hugging Face's model types the switches that it fixes, and those in its config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

# Where the layers with a window come from, beside `layer_types`:
#   none       there are none
#   all        every layer, if `sliding_window` is a number (Mistral)
#   from       those from `max_window_layers` on, if `use_sliding_window` (Qwen)
#   unrotated  those without rotation, if `use_sliding_window` (SmolLM3)
#   but        all but every `sliding_window_pattern`-th (Gemma)
Windows = Literal["none", "all", "from", "unrotated", "but"]
_GELU = ("gelu_pytorch_tanh", "gelu_new")  # two names of one function


@dataclasses.dataclass(frozen=True)
class Family:
    """Attributes:
    class_name: in `architectures`.
    fixed: fields of a ModelConfig that all its models have.
    biases: keys of config.json that put biases on projections: attention_bias (of q, k, v and the output), mlp_bias.
    defaults: of missing keys, where every version of transformers has the same; other sizes must be there.
    own_head_size: transformers' head size where none is said is no division (None: width / heads).
    kv_heads_needed: `num_key_value_heads` must be there; else it is the number of heads where it is missing.
    activation: the key of config.json, and the values that are ours.
    windows: see Windows.
    off: what it may say and we do not have: key -> the values that switch it off.
    spelling: of keys, where it has its own.
    """

    class_name: str
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    biases: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    own_head_size: int | None = None
    kv_heads_needed: bool = True
    theta: float = 10000.0
    activation: tuple[str, tuple[str, ...]] = ("hidden_act", ("silu",))
    windows: Windows = "none"
    off: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    spelling: Mapping[str, str] = dataclasses.field(default_factory=dict)


# Of every family: what it may say and we do not have. A missing key and null are off.
SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "attention_dropout": (0,),
    "partial_rotary_factor": (1,),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "quantization_config": (),
}
_GEMMA: dict[str, Any] = {
    "norms": "around",
    "norm_offset": True,
    "scaled_embedding": True,
    "activation": "gelu_tanh",
}
_GEMMA_DEFAULTS: dict[str, Any] = {
    "tie_word_embeddings": True,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
_NO_BIDIRECTION: dict[str, tuple[Any, ...]] = {"use_bidirectional_attention": (False,)}
_GPT2_SPELLING = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
    "rms_norm_eps": "layer_norm_epsilon",
}

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", biases=("attention_bias", "mlp_bias"), kv_heads_needed=False),
    "mistral": Family("MistralForCausalLM", defaults={"sliding_window": 4096}, windows="all"),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        {"qkv_bias": True},
        defaults={"sliding_window": 4096, "max_window_layers": 28},
        windows="from",
        off={"attention_bias": (True,)},  # biases of q, k and v, always
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        {"qk_norm": True},
        biases=("attention_bias",),
        defaults={"sliding_window": 4096, "max_window_layers": 28},
        own_head_size=128,
        windows="from",
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        {"qk_norm": True},
        biases=("attention_bias",),
        off={"use_sliding_window": (False,), "decoder_sparse_step": (1,), "mlp_only_layers": ([],)},
        spelling={"intermediate_size": "moe_intermediate_size"},
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        biases=("attention_bias", "mlp_bias"),
        defaults={"tie_word_embeddings": True, "no_rope_layer_interval": 4},
        theta=2e6,
        windows="unrotated",
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _GEMMA,
        biases=("attention_bias",),
        defaults={**_GEMMA_DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        own_head_size=256,
        activation=("hidden_activation", _GELU),
        windows="but",
        off=_NO_BIDIRECTION,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        {**_GEMMA, "qk_norm": True},
        biases=("attention_bias",),
        defaults={  # the configs of the multimodal models say only what differs from these
            **_GEMMA_DEFAULTS,
            "sliding_window_pattern": 6,
            "vocab_size": 262208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "rope_local_base_freq": 10000.0,
        },
        own_head_size=256,
        theta=1e6,
        activation=("hidden_activation", _GELU),
        windows="but",
        # transformers reads a cap of Gemma 3's scores, and then leaves it out.
        off={**_NO_BIDIRECTION, "attn_logit_softcapping": ()},
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        {"norms": "after", "qk_norm": True, "qk_norm_joint": True},
        biases=("attention_bias",),
        kv_heads_needed=False,
        defaults={"rms_norm_eps": 1e-5},
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        {
            "qkv_bias": True,
            "output_bias": True,
            "mlp_bias": True,
            "activation": "gelu_tanh",
            "gated": False,
            "layer_norm": True,
            "learned_positions": True,
            "fused_qkv": True,
        },
        defaults={"tie_word_embeddings": True, "rms_norm_eps": 1e-5},
        kv_heads_needed=False,
        activation=("activation_function", _GELU),
        off={
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        spelling=_GPT2_SPELLING,
    ),
}
