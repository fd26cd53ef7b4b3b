"""The architectures of GGUF files: what llama.cpp calls the fields and tensors of our families, and what it fixes.

Names of tensors follow from the path in our tree and are the same for all. What a file does not say stands in
llama.cpp's code; those numbers are ``fixed`` and ``defaults`` here.

Reference: ggml-org/llama.cpp, convert_hf_to_gguf.py (what is written) and src/llama-model.cpp (what is read).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# Field after "<architecture>." -> key of a config.json. Every file must have these.
SIZES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
}
_RMS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
# Of every architecture: what a file may say and the decoder does not have -> the values that switch it off.
SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (),
    "embedding_scale": (),
    "logit_scale": (),
    "residual_scale": (),
    "router_logit_softcapping": (0.0,),
    "rope.scaling.type": ("none", "linear"),
    "use_parallel_residual": (False,),
}
# Frequencies are divided by these factors. A file has them without the parameters that they were made from; those of
# Llama 3.1, 3.2 and 3.3 are these, beside `factor`, which is the largest of them.
ROPE_FACTORS = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_NO_EXPERTS: dict[str, tuple[Any, ...]] = {"expert_count": (0,)}
_NO_WINDOWS: dict[str, tuple[Any, ...]] = {
    "attention.sliding_window": (0,),
    "attention.sliding_window_pattern": (1,),
    "rope.freq_base_swa": (),
}
_NO_CAPS: dict[str, tuple[Any, ...]] = {"attn_logit_softcapping": (0.0,), "final_logit_softcapping": (0.0,)}
_PLAIN = {**_NO_EXPERTS, **_NO_WINDOWS, **_NO_CAPS}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Attributes:
    family: Hugging Face's model_type.
    needed: fields beside SIZES that every file has -> keys of a config.json.
    optional: those that a file may have.
    defaults: keys of a config.json that llama.cpp has a number for where the file has none.
    fixed: those that no file says.
    off: what a file may say and the decoder does not have, beside SWITCHED_OFF.
    neighbours: q and k have their rows in the order in which ggml rotates them, neighbours instead of halves.
    wide_blocks: the number of layers at which queries are scaled by width / heads instead of the head size (Gemma).
    """

    family: str
    needed: Mapping[str, str] = dataclasses.field(default_factory=lambda: _RMS)
    optional: Mapping[str, str] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    off: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=lambda: _PLAIN)
    neighbours: bool = False
    wide_blocks: int | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", neighbours=True),  # Mistral too
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "qwen3moe": Architecture(
        "qwen3_moe",
        {
            **_RMS,
            "expert_count": "num_experts",
            "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "intermediate_size",  # in place of a dense MLP's
        },
        fixed={"norm_topk_prob": True},
        off={
            **_NO_WINDOWS,
            **_NO_CAPS,
            "expert_gating_func": (1,),  # softmax
            "expert_group_count": (0, 1),
            "expert_shared_count": (0,),
            "expert_weights_norm": (True,),
            "expert_weights_scale": (0.0, 1.0),
        },
    ),
    "smollm3": Architecture("smollm3", fixed={"no_rope_layer_interval": 4}, neighbours=True),
    "gemma2": Architecture(
        "gemma2",
        optional={
            "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        defaults={"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        off={**_NO_EXPERTS, "attention.sliding_window_pattern": (2,), "rope.freq_base_swa": ()},
        wide_blocks=46,
    ),
    "gemma3": Architecture(
        "gemma3_text",
        optional={
            "attention.sliding_window": "sliding_window",
            "attention.sliding_window_pattern": "sliding_window_pattern",
            "final_logit_softcapping": "final_logit_softcapping",
            "rope.freq_base_swa": "rope_local_base_freq",
        },
        defaults={"sliding_window_pattern": 6, "rope_local_base_freq": 10000.0},
        off={**_NO_EXPERTS, "attn_logit_softcapping": (0.0,)},
        wide_blocks=62,
    ),
    "olmo2": Architecture("olmo2"),
    "gpt2": Architecture("gpt2", {"attention.layer_norm_epsilon": "rms_norm_eps"}),
}

# Module in our tree -> tensor. Those of experts end in `_exps` and hold all experts of a layer.
_OUTSIDE = {
    "embed": "token_embd",
    "positions": "position_embd",
    "final_norm": "output_norm",
    "head": "output",
}
_LAYER = {
    "attention_norm": "attn_norm",
    "attention/query": "attn_q",
    "attention/key": "attn_k",
    "attention/value": "attn_v",
    "attention/qkv": "attn_qkv",
    "attention/query_norm": "attn_q_norm",
    "attention/key_norm": "attn_k_norm",
    "attention/output": "attn_output",
    "post_attention_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "mlp/router": "ffn_gate_inp",
    "mlp/gate": "ffn_gate",
    "mlp/up": "ffn_up",
    "mlp/down": "ffn_down",
    "post_mlp_norm": "post_ffw_norm",
}


def tensor_name(path: tuple[str, ...], *, of_experts: bool) -> str:
    """Of the parameter at ``path`` of our tree; with ``{layer}`` where layers are stacked."""
    *modules, parameter = path
    name = "/".join(modules)
    if modules[0] == "layers":
        name = "blk.{layer}." + _LAYER["/".join(modules[1:])] + ("_exps" if of_experts else "")
    else:
        name = _OUTSIDE[name]
    return f"{name}.{'bias' if parameter == 'bias' else 'weight'}"
