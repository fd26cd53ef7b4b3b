"""How Hugging Face names the modules of our parameter tree."""

from __future__ import annotations

from jaxrl_llm.models.architecture import ModelConfig

_BEFORE = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_AFTER = {"post_attention_norm": "post_attention_layernorm", "post_mlp_norm": "post_feedforward_layernorm"}
_AROUND = {"attention_norm": "input_layernorm", "mlp_norm": "pre_feedforward_layernorm", **_AFTER}
_NORMS = {"before": _BEFORE, "after": _AFTER, "around": _AROUND}
_LAYER = {
    "attention/query": "self_attn.q_proj",
    "attention/key": "self_attn.k_proj",
    "attention/value": "self_attn.v_proj",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
    "attention/output": "self_attn.o_proj",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}
_OUTSIDE = {"embed": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
_GPT2 = {
    "embed": "transformer.wte",
    "positions": "transformer.wpe",
    "layers/attention_norm": "transformer.h.{layer}.ln_1",
    "layers/attention/qkv": "transformer.h.{layer}.attn.c_attn",
    "layers/attention/output": "transformer.h.{layer}.attn.c_proj",
    "layers/mlp_norm": "transformer.h.{layer}.ln_2",
    "layers/mlp/up": "transformer.h.{layer}.mlp.c_fc",
    "layers/mlp/down": "transformer.h.{layer}.mlp.c_proj",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
}


def hf_name(config: ModelConfig, path: str) -> str:
    """Of the parameter at ``path``; with ``{layer}`` where the layers are stacked."""
    module, _, parameter = path.rpartition("/")
    if config.fused_qkv:
        name = _GPT2[module]
    elif module.startswith("layers/"):
        part = module.removeprefix("layers/")
        name = "model.layers.{layer}." + {**_NORMS[config.norms], **_LAYER}[part]
    else:
        name = _OUTSIDE[module]
    return f"{name}.{'bias' if parameter == 'bias' else 'weight'}"
