"""The reading and writing of Hugging Face's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrl_llm.models.architecture import Llama3RopeScaling, ModelConfig
from jaxrl_llm.models.config_values import FULL, MOST_LAYERS, SLIDING, Reader, rope_object, short
from jaxrl_llm.models.families import FAMILIES, SWITCHED_OFF, Family

__all__ = ["FAMILIES", "Llama3RopeScaling", "ModelConfig", "from_hf", "to_hf"]

_MULTIMODAL = "gemma3"  # its text model stands under `text_config`


def from_hf(config: dict[str, Any], where: str) -> ModelConfig:
    """Reads a config.json, in the spelling of transformers 4 or 5.

    A missing key means what it means to transformers where every version agrees (``families.Family.defaults``); any
    other size must be there. Of a multimodal Gemma 3 its text model is read.

    Args:
      where: the file, for messages.

    Raises:
      ValueError: an architecture, a switch or a rotary scaling that the decoder does not have, a size that is missing
        or no positive number, or sizes that do not fit together.
    """
    if config.get("model_type") == _MULTIMODAL:
        text = config.get("text_config")
        if not isinstance(text, dict):
            raise ValueError(f"{where}: text_config = {short(text)}; expected an object")
        return from_hf({"model_type": "gemma3_text", **text}, f"{where}: text_config")
    name = _family(config, where)
    family = FAMILIES[name]
    reader = Reader(config, where, family.spelling, family.defaults)
    _refuse_switches(reader, name, family)
    sizes = _sizes(reader, family)
    attention_bias, mlp_bias = (key in family.biases and reader.flag(key) for key in ("attention_bias", "mlp_bias"))
    switches = {"output_bias": attention_bias, "mlp_bias": mlp_bias, "qkv_bias": attention_bias, "qk_norm": False}
    return ModelConfig(
        family=name,
        norm_epsilon=reader.positive("rms_norm_eps"),
        tied=reader.flag("tie_word_embeddings"),
        **sizes,
        **_positions(reader, name, family, sizes["max_positions"]),
        **_layer_kinds(reader, name, family, sizes["layers"]),
        **_caps(reader, family),
        **_experts(reader, name),
        **{**switches, **family.fixed},
    )


def _family(config: Mapping[str, Any], where: str) -> str:
    family, names = config.get("model_type"), config.get("architectures") or ()
    known = ", ".join(f"{name} ({FAMILIES[name].class_name})" for name in FAMILIES)
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"{where}: model_type = {short(family)} is an unknown architecture; known: {known}")
    if names and not (isinstance(names, list) and FAMILIES[family].class_name in names):
        raise ValueError(f"{where}: architectures = {short(names)}; known: {known}")
    return family


def _refuse_switches(reader: Reader, name: str, family: Family) -> None:
    off = {**SWITCHED_OFF, **family.off, family.activation[0]: family.activation[1]}
    for key in ("attention_bias", "mlp_bias"):
        if key not in family.biases:
            off.setdefault(key, (False,))
    for key, allowed in off.items():
        value = reader.config.get(key)
        if value is not None and value not in allowed:
            expected = " or ".join([repr(one) for one in allowed] + ["no such key"])
            raise ValueError(f"{reader.where}: {key} = {short(value)} is not supported for {name}; expected {expected}")


def _sizes(reader: Reader, family: Family) -> dict[str, Any]:
    width, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    kv_heads = reader.size("num_key_value_heads", default=None if family.kv_heads_needed else heads)
    if heads % kv_heads:
        raise ValueError(
            f"{reader.where}: num_attention_heads = {heads} is no multiple of num_key_value_heads = {kv_heads}"
        )
    own = family.own_head_size
    if reader.get("head_dim") is None and own is None and width % heads:
        raise ValueError(f"{reader.where}: hidden_size = {width} is no multiple of num_attention_heads = {heads}")
    head_size = reader.size("head_dim", default=width // heads if own is None else own)
    if family.fixed.get("fused_qkv") and (kv_heads != heads or head_size * heads != width):
        raise ValueError(
            f"{reader.where}: {kv_heads} key/value heads and {heads} heads of {head_size}; expected one key/value head "
            f"a head, and together the width {width}"
        )
    learned = family.fixed.get("learned_positions")
    if head_size % 2 and not learned:
        raise ValueError(f"{reader.where}: head_dim = {head_size}: rotary positions need an even size")
    return {
        "vocab_size": reader.size("vocab_size"),
        "width": width,
        "layers": reader.size("num_hidden_layers", most=MOST_LAYERS),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_size": head_size,
        "mlp_width": reader.size("intermediate_size", default=4 * width if learned else None),
        "max_positions": reader.size("max_position_embeddings"),
    }


def _positions(reader: Reader, name: str, family: Family, max_positions: int) -> dict[str, Any]:
    """Rotary bases and scaling. Gemma 3 has two, which transformers 5 writes as one object for each kind of layer."""
    if name != "gemma3_text":
        theta, scaling = reader.rope(family.theta, max_positions)
        return {"rope_theta": theta, "rope_scaling": scaling}
    config, local = dict(reader.config), reader.positive("rope_local_base_freq")
    nested = config.get("rope_parameters")
    if isinstance(nested, dict) and nested.keys() & {FULL, SLIDING}:
        if extra := nested.keys() - {FULL, SLIDING}:
            raise ValueError(f"{reader.where}: rope_parameters.{min(map(str, extra))} is unknown beside {FULL}")
        of_local = {"rope_theta": config.get("rope_local_base_freq"), "rope_parameters": nested.get(SLIDING)}
        where = f"{reader.where}: {SLIDING}"
        local, scaled = Reader(of_local, where).rope(reader.defaults["rope_local_base_freq"], max_positions)
        if scaled is not None:
            raise ValueError(f"{where}: rope_parameters = {short(nested[SLIDING])}; expected the rope_type default")
        config["rope_parameters"] = nested.get(FULL)
    theta, scaling = Reader(config, reader.where).rope(family.theta, max_positions)
    return {"rope_theta": theta, "rope_scaling": scaling, "local_rope_theta": local}


def _layer_kinds(reader: Reader, name: str, family: Family, layers: int) -> dict[str, Any]:
    """Which layers have a window, and which no rotation."""
    unrotated: tuple[bool, ...] = ()
    if family.windows == "unrotated":
        interval = reader.size("no_rope_layer_interval")
        rotated = reader.flags("no_rope_layers", layers)
        unrotated = tuple((i + 1) % interval == 0 if rotated is None else not rotated[i] for i in range(layers))
    switchable = family.windows in ("from", "unrotated")
    missing = "sliding_window" not in reader.config
    size = reader.size("sliding_window") if missing and "sliding_window" in reader.defaults else None
    if not missing and reader.config["sliding_window"] is not None and family.windows != "none":
        size = reader.size("sliding_window")
    on = family.windows != "none" and (reader.flag("use_sliding_window") if switchable else True)
    on = on and (size is not None or family.windows == "but")
    windowed = reader.windowed(layers)
    if windowed is None or name == "mistral":
        pattern = _pattern(reader, family, layers, unrotated) if on else (False,) * layers
        if windowed not in (None, pattern):  # transformers reads no layer_types for Mistral
            raise reader.error("layer_types", f"{SLIDING if on else FULL} in every layer")
        windowed = pattern
    if not any(windowed):
        return {"unrotated": unrotated if any(unrotated) else ()}
    if not on or size is None:
        raise reader.error("layer_types", f"{FULL} in every layer, where no sliding_window is set or switched on")
    return {"window": size, "windowed": windowed, "unrotated": unrotated if any(unrotated) else ()}


def _pattern(reader: Reader, family: Family, layers: int, unrotated: tuple[bool, ...]) -> tuple[bool, ...]:
    """Windowed layers by the family's own rule."""
    if family.windows == "from":
        value = reader.get("max_window_layers")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise reader.error("max_window_layers", "a whole number, 0 or more")
        return tuple(i >= value for i in range(layers))
    if family.windows == "unrotated":
        return unrotated
    if family.windows == "but":
        period = reader.size("sliding_window_pattern") if "sliding_window_pattern" in reader.defaults else 2
        return tuple((i + 1) % period != 0 for i in range(layers))
    return (True,) * layers


def _caps(reader: Reader, family: Family) -> dict[str, Any]:
    if family.windows != "but":
        return {}
    return {
        "query_scalar": reader.size("query_pre_attn_scalar"),
        "attention_cap": reader.cap("attn_logit_softcapping"),
        "logit_cap": reader.cap("final_logit_softcapping"),
    }


def _experts(reader: Reader, name: str) -> dict[str, Any]:
    if name != "qwen3_moe":
        return {}
    # transformers 5 reads and writes the number under either name.
    keys = [key for key in ("num_experts", "num_local_experts") if reader.get(key) is not None]
    counts = [reader.size(key) for key in keys or ["num_experts"]]
    chosen = reader.size("num_experts_per_tok")
    if counts[0] != counts[-1] or chosen > counts[0]:
        raise reader.error("num_experts_per_tok", f"at most {' and '.join(keys)} = {counts}, one number")
    renormalized = reader.flag("norm_topk_prob")
    return {"experts": counts[0], "experts_per_token": chosen, "renormalized_router": renormalized}


def to_hf(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The config.json that transformers, 4 or 5, builds the same architecture from.

    The rotary keys are in transformers 4's spelling, which 5 reads as well. Token ids are null: without the keys
    transformers would put the defaults of its own class.

    Args:
      dtype: of the saved tensors, float32 or bfloat16.
    """
    family = FAMILIES[config.family]
    key, (activation, *_) = family.activation
    hf: dict[str, Any] = {
        "architectures": [family.class_name],
        "bos_token_id": None,
        "eos_token_id": None,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "model_type": config.family,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "pad_token_id": None,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
        key: "gelu_new" if config.learned_positions else activation,
    }
    if config.experts:
        hf |= {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": hf.pop("intermediate_size"),
            "norm_topk_prob": config.renormalized_router,
            "num_experts": config.experts,
            "num_experts_per_tok": config.experts_per_token,
        }
    if config.learned_positions:
        hf |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        return {family.spelling.get(name, name): value for name, value in hf.items()}
    hf |= {
        "attention_dropout": 0.0,
        "head_dim": config.head_size,
        "num_key_value_heads": config.kv_heads,
        "rope_scaling": rope_object(config.rope_scaling),
        "rope_theta": config.rope_theta,
    }
    hf |= {name: {"attention_bias": config.output_bias, "mlp_bias": config.mlp_bias}[name] for name in family.biases}
    return hf | _windows_to_hf(config, family)


def _windows_to_hf(config: ModelConfig, family: Family) -> dict[str, Any]:
    if family.windows == "none":
        return {}
    if family.windows == "from" and config.window is None:
        return {"use_sliding_window": False}
    windowed = config.windowed or (False,) * config.layers
    hf: dict[str, Any] = {"sliding_window": config.window}
    if family.windows != "all":
        hf["layer_types"] = [SLIDING if one else FULL for one in windowed]
    if family.windows in ("from", "unrotated"):
        hf["use_sliding_window"] = config.window is not None
    if family.windows == "from":  # all that versions before layer_types read
        hf["max_window_layers"] = windowed.index(True) if any(windowed) else config.layers
    if family.windows == "unrotated":
        hf["no_rope_layers"] = [int(not one) for one in config.unrotated or (False,) * config.layers]
    if family.windows == "but":
        hf |= {
            "query_pre_attn_scalar": config.query_scalar,
            "final_logit_softcapping": config.logit_cap,
            "attn_logit_softcapping": config.attention_cap,
        }
    if config.local_rope_theta is not None:
        hf["rope_local_base_freq"] = config.local_rope_theta
    return hf
