"""How Hugging Face names the modules of our parameter tree."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
_EXPERTS = {
    "mlp/router": "mlp.gate",
    **{f"mlp/{part}": f"mlp.experts.{{expert}}.{part}_proj" for part in ("gate", "up", "down")},
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
    """Of the parameter at ``path``; with ``{layer}`` and ``{expert}`` where those are stacked."""
    module, _, parameter = path.rpartition("/")
    if config.fused_qkv:
        name = _GPT2[module]
    elif module.startswith("layers/"):
        part = module.removeprefix("layers/")
        of_experts = _EXPERTS if config.experts else {}
        name = "model.layers.{layer}." + {**_NORMS[config.norms], **_LAYER, **of_experts}[part]
    else:
        name = _OUTSIDE[module]
    return f"{name}.{'bias' if parameter == 'bias' else 'weight'}"


# Buffers that old checkpoints carry. They follow from the config, and transformers does not read them either.
_DERIVED = re.compile(r".*\.rotary_emb\.inv_freq|transformer\.h\.\d+\.attn\.(masked_)?bias")
# Of a multimodal Gemma 3, whose text model alone is read: as published, and as later versions of transformers save it.
_TEXT = {"language_model.": "", "model.language_model.": "model."}
_OTHER = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


def table_names(names: Iterable[str], where: str) -> dict[str, str]:
    """The names in a checkpoint by the names of the weight table; those that nothing knows stay themselves.

    GPT-2's come with and without `transformer.`, Gemma 3's text model within a multimodal one. Buffers are left out.

    Raises:
      ValueError: two names mean one weight.
    """
    listed = list(names)
    text = next((prefix for prefix in _TEXT if any(name.startswith(prefix) for name in listed)), None)
    found: dict[str, str] = {}
    for name in listed:
        known = name
        if text is not None:
            if name.startswith(_OTHER):
                continue
            known = _TEXT[text] + name.removeprefix(text) if name.startswith(text) else name
        elif "wte.weight" in listed and name != "lm_head.weight":
            known = f"transformer.{name}"
        if _DERIVED.fullmatch(known):
            continue
        if known in found:
            raise ValueError(f"{where}: tensors {found[known]} and {name} are one weight, {known}")
        found[known] = name
    return found
