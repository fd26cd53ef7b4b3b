"""The architecture of a decoder: sizes, switches, and the reading and writing of Hugging Face's config.json."""

from __future__ import annotations

import dataclasses
from typing import Any

# model_type -> the class name in `architectures`.
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# What a config.json may say and we do not have: key -> the values that switch it off. A missing key and null are off.
_SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "attention_dropout": (0,),
    "partial_rotary_factor": (1,),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "quantization_config": (),
}
_LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_DEFAULT_THETA = 10000.0  # transformers' own, where a config.json (Llama 2's) names none
_QWEN3_HEAD_SIZE = 128  # transformers' own
# What a damaged file may claim; nothing of that size is listed or allocated.
_LARGEST_SIZE, _MOST_LAYERS = 2**31 - 1, 10_000


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
    """Llama 3.1's scaling of rotary frequencies (rope_type `llama3`): low frequencies are divided by ``factor``."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes by the axis letters of :mod:`jaxrl_llm.types`, and the switches in which the families differ.

    Attributes:
      family: Hugging Face's model_type: llama, qwen2 or qwen3.
      head_size: of one head; not always width / heads (Qwen3).
      tied: the output head is the embedding, transposed.
      qkv_bias: biases on the query, key and value projections (Qwen2).
      qk_norm: an RMS norm over the head axis of queries and keys, before the rotation (Qwen3).
    """

    family: str
    vocab_size: int  # V
    width: int  # D
    layers: int  # L
    heads: int  # N
    kv_heads: int  # K
    head_size: int  # H
    mlp_width: int  # F
    norm_epsilon: float
    rope_theta: float
    max_positions: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    rope_scaling: Llama3RopeScaling | None = None


def from_hf(config: dict[str, Any], where: str) -> ModelConfig:
    """Reads a config.json, in the spelling of transformers 4 or 5.

    A missing key means what it means to transformers where every version agrees (head_dim, tie_word_embeddings,
    rope_theta, num_key_value_heads of Llama); any other size must be there.

    Args:
      where: the file, for messages.

    Raises:
      ValueError: an architecture, a switch or a rotary scaling that the decoder does not have, a size that is missing
        or no positive number, or sizes that do not fit together.
    """
    reader = _Reader(config, where)
    family = reader.family()
    reader.refuse_switches(family)
    width, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    kv_heads = reader.size("num_key_value_heads", default=heads if family == "llama" else None)
    if heads % kv_heads:
        raise ValueError(f"{where}: num_attention_heads = {heads} is no multiple of num_key_value_heads = {kv_heads}")
    if config.get("head_dim") is None and family != "qwen3" and width % heads:
        raise ValueError(f"{where}: hidden_size = {width} is no multiple of num_attention_heads = {heads}")
    head_size = reader.size("head_dim", default=_QWEN3_HEAD_SIZE if family == "qwen3" else width // heads)
    if head_size % 2:
        raise ValueError(f"{where}: head_dim = {head_size}: rotary positions need an even size")
    theta, scaling = reader.rope()
    return ModelConfig(
        family=family,
        vocab_size=reader.size("vocab_size"),
        width=width,
        layers=reader.size("num_hidden_layers", most=_MOST_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        mlp_width=reader.size("intermediate_size"),
        norm_epsilon=reader.positive("rms_norm_eps"),
        rope_theta=theta,
        max_positions=reader.size("max_position_embeddings"),
        tied=reader.flag("tie_word_embeddings"),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        rope_scaling=scaling,
    )


def to_hf(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The config.json that transformers, 4 or 5, builds the same architecture from.

    The rotary keys are in transformers 4's spelling, which 5 reads as well. Token ids are null: without the keys
    transformers would put the defaults of its own Llama class.

    Args:
      dtype: of the saved tensors, float32 or bfloat16.
    """
    rope_scaling = None
    if config.rope_scaling is not None:
        values = dataclasses.astuple(config.rope_scaling)
        rope_scaling = {"rope_type": "llama3", **dict(zip(_LLAMA3_KEYS, values, strict=True))}
    hf: dict[str, Any] = {
        "architectures": [FAMILIES[config.family]],
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "model_type": config.family,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "pad_token_id": None,
        "rms_norm_eps": config.norm_epsilon,
        "rope_scaling": rope_scaling,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
    }
    if config.family != "qwen2":
        hf["attention_bias"] = False
    if config.family == "llama":
        hf["mlp_bias"] = False
    else:
        hf["use_sliding_window"] = False
    return hf


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads one value at a time from a config.json; every error names the file, the key and the value."""

    config: dict[str, Any]
    where: str

    def family(self) -> str:
        family, names = self.config.get("model_type"), self.config.get("architectures") or ()
        supported = ", ".join(f"{name} ({FAMILIES[name]})" for name in FAMILIES)
        if not isinstance(family, str) or family not in FAMILIES:
            raise ValueError(f"{self.where}: model_type = {family!r} is an unknown architecture; known: {supported}")
        if names and not (isinstance(names, list) and FAMILIES[family] in names):
            raise ValueError(f"{self.where}: architectures = {names!r}; known: {supported}")
        return family

    def refuse_switches(self, family: str) -> None:
        # attention_bias of Llama and Qwen3 also puts one on the output projection; Qwen2 always has those of q, k, v.
        switches = {"attention_bias": (True,) if family == "qwen2" else (False,), **_SWITCHED_OFF}
        for key, allowed in switches.items():
            value = self.config.get(key)
            if value is not None and value not in allowed:
                expected = " or ".join([repr(one) for one in allowed] + ["no such key"])
                raise ValueError(f"{self.where}: {key} = {value!r} is not supported for {family}; expected {expected}")
        layer_types = self.config.get("layer_types") or ()
        if set(layer_types) - {"full_attention"}:
            raise ValueError(f"{self.where}: layer_types = {layer_types!r}; supported: full_attention in every layer")

    def size(self, key: str, default: int | None = None, *, most: int = _LARGEST_SIZE) -> int:
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise ValueError(f"{self.where}: {key} = {_short(value)}; expected a whole number from 1 to {most}")
        return value

    def positive(self, key: str) -> float:
        return self._positive(key, self.config.get(key))

    def _positive(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{self.where}: {key} = {value!r}; expected a number above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.config.get(key)
        if value not in (None, True, False):
            raise ValueError(f"{self.where}: {key} = {value!r}; expected true or false")
        return bool(value)

    def rope(self) -> tuple[float, Llama3RopeScaling | None]:
        """Theta and scaling from `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (5)."""
        found = {key: self.config[key] for key in ("rope_scaling", "rope_parameters") if self.config.get(key)}
        if not found:
            return self._theta({}, "rope_theta"), None
        read = [(self._theta(rope, key), self._scaling(rope, key)) for key, rope in found.items()]
        if any(one != read[0] for one in read):
            raise ValueError(f"{self.where}: rope_scaling and rope_parameters contradict each other: {found!r}")
        return read[0]

    def _theta(self, rope: dict[str, Any], key: str) -> float:
        if not isinstance(rope, dict):
            raise ValueError(f"{self.where}: {key} = {rope!r}; expected an object")
        inner, outer = rope.get("rope_theta"), self.config.get("rope_theta")
        if inner is not None and outer is not None and inner != outer:
            raise ValueError(f"{self.where}: rope_theta = {outer!r} contradicts {key}.rope_theta = {inner!r}")
        theta = outer if inner is None else inner
        return self._positive("rope_theta", _DEFAULT_THETA if theta is None else theta)

    def _scaling(self, rope: dict[str, Any], key: str) -> Llama3RopeScaling | None:
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise ValueError(f"{self.where}: {key}.rope_type = {kind!r} is not supported; supported: default, llama3")
        known = {"rope_type", "type", "rope_theta", *(_LLAMA3_KEYS if kind == "llama3" else ())}
        for name, value in rope.items():
            if name not in known:
                raise ValueError(
                    f"{self.where}: {key}.{name} = {value!r} is unknown to rope_type {kind!r}; "
                    f"known: {', '.join(sorted(known))}"
                )
        if kind == "default":
            return None
        numbers = [self._positive(f"{key}.{name}", rope.get(name)) for name in _LLAMA3_KEYS]
        return Llama3RopeScaling(*numbers[:3], original_max_positions=int(numbers[3]))
