"""The architecture of a GGUF file: its fields as the config.json that llama.cpp made them from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxrl_llm.models import gguf_file
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.models.families import FAMILIES
from jaxrl_llm.models.gguf_families import ARCHITECTURES, LLAMA3, ROPE_FACTORS, SIZES, SWITCHED_OFF, Architecture
from jaxrl_llm.models.gguf_file import GgufFile, GgufTensor
from jaxrl_llm.models.tensor_files import mapped

_F32 = 0  # number of the type
_ROPE_THETA = 10000.0  # llama.cpp's, where a file has none


def load_config(path: Path) -> ModelConfig:
    """The architecture. Tied when the file has no output matrix of its own; the vocabulary is the embedding's.

    Raises:
      ValueError: a damaged file, an architecture or variant that the decoder does not have, or a missing field.
    """
    file = gguf_file.read(path)
    name = _number(file.fields.get("general.architecture"))
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{path}: general.architecture = {name!r} is unknown; supported: {known}")
    architecture, fields = ARCHITECTURES[name], _Fields(file, name)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    _refuse_variants(fields, architecture)
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: missing tensor token_embd.weight")
    hf = {key: fields.needed(field) for field, key in {**SIZES, **architecture.needed}.items()}
    found = {key: fields.get(field) for field, key in architecture.optional.items()}
    hf |= {**architecture.defaults, **{key: value for key, value in found.items() if value is not None}}
    if name == "gemma3" and not found["sliding_window"]:  # then no layer has one
        hf |= {"sliding_window": None, "sliding_window_pattern": 1}
    hf |= {**architecture.fixed, **_heads(fields, architecture), **_rope(fields)}
    for bias, tensor in {"attention_bias": "attn_output", "mlp_bias": "ffn_up"}.items():
        if bias in FAMILIES[architecture.family].biases:
            hf[bias] = f"blk.0.{tensor}.bias" in tensors
    if ROPE_FACTORS in tensors:
        hf["rope_scaling"] = _llama3(fields, tensors[ROPE_FACTORS], hf)
    hf["model_type"] = architecture.family
    hf["vocab_size"] = tensors["token_embd.weight"].shape[0]
    hf["tie_word_embeddings"] = "output.weight" not in tensors
    spelling = FAMILIES[architecture.family].spelling
    config = from_hf({spelling.get(key, key): value for key, value in hf.items()}, str(path))
    rotated = fields.get("rope.dimension_count")
    if rotated not in (None, config.head_size):
        raise ValueError(f"{path}: {name}.rope.dimension_count = {rotated}; expected {config.head_size}, all of a head")
    return config


class _Fields:
    """The fields of the file's own architecture."""

    def __init__(self, file: GgufFile, architecture: str):
        self.file, self.architecture = file, architecture

    def get(self, name: str) -> Any:
        return _number(self.file.fields.get(f"{self.architecture}.{name}"))

    def needed(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise ValueError(f"{self.file.path}: no field {self.architecture}.{name}")
        return value

    def size(self, name: str) -> int:
        value = self.needed(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(name, "is not supported; expected a whole number, 1 or more")
        return value

    def error(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{self.file.path}: {self.architecture}.{name} = {self.get(name)!r} {expected}")


def _number(value: Any) -> Any:
    # Files hold float32 numbers; the shortest decimal is the number that the model's authors wrote (1e-05).
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _refuse_variants(fields: _Fields, architecture: Architecture) -> None:
    path = fields.file.path
    for name, off in {**SWITCHED_OFF, **architecture.off}.items():
        value = fields.get(name)
        if value is not None and value not in off:
            expected = repr(off[0]) if off else "no such field"
            raise fields.error(name, f"is not supported; expected {expected}")
    for name in fields.file.lists:
        if name.startswith(f"{fields.architecture}."):
            raise ValueError(f"{path}: {name} is a list, a number for each layer; supported is one for all layers")
    if (parts := fields.file.fields.get("split.count")) not in (None, 0, 1):
        raise ValueError(f"{path}: one of {parts} parts (split.count); join them with llama-gguf-split --merge")


def _heads(fields: _Fields, architecture: Architecture) -> dict[str, Any]:
    """What llama.cpp takes for missing fields, where a config.json of the family may mean something else."""
    width, heads, layers = (fields.size(name) for name in ("embedding_length", "attention.head_count", "block_count"))
    if fields.get("attention.key_length") is not None:
        size = fields.size("attention.key_length")
    elif width % heads:
        raise fields.error("attention.head_count", f"and no attention.key_length; {width} is no multiple of it")
    else:
        size = width // heads
    if fields.get("attention.value_length") not in (None, size):
        raise fields.error("attention.value_length", f"is not supported; expected {size}, as attention.key_length")
    kv_heads = fields.get("attention.head_count_kv")
    found = {"head_dim": size, "num_key_value_heads": heads if kv_heads is None else kv_heads}
    if architecture.wide_blocks is not None:
        found["query_pre_attn_scalar"] = width // heads if layers == architecture.wide_blocks else size
    return found


def _rope(fields: _Fields) -> dict[str, Any]:
    theta = fields.get("rope.freq_base")
    if theta is not None and not (isinstance(theta, float) and 0 < theta < np.inf):
        raise fields.error("rope.freq_base", "is not supported; expected a number above 0")
    # A file with a factor and no type means a linear one. `rope.scale_linear` is its old name.
    factors = {fields.get(name) for name in ("rope.scaling.factor", "rope.scale_linear")} - {None, 0.0, 1.0}
    if len(factors) > 1:
        raise fields.error("rope.scaling.factor", "contradicts rope.scale_linear")
    scaling = {"rope_type": "linear", "factor": factors.pop()} if factors else None
    if scaling is not None and fields.get("rope.scaling.type") == "none":
        scaling = None
    return {"rope_theta": _ROPE_THETA if theta is None else theta, "rope_scaling": scaling}


def _llama3(fields: _Fields, tensor: GgufTensor, hf: dict[str, Any]) -> dict[str, Any]:
    """The scaling whose factors the tensor holds, if it is that of a public Llama."""
    path, half = fields.file.path, hf["head_dim"] // 2
    if (fields.architecture, tensor.kind, tensor.shape, hf["rope_scaling"]) == ("llama", _F32, (half,), None):
        stored = mapped(path, np.dtype(np.float32), tensor.offset, tensor.shape).astype(np.float64)
        factor = float(stored.max())
        low, high, context = LLAMA3.values()
        turns = context / (2 * np.pi) * hf["rope_theta"] ** (-np.arange(half) / half)  # within the original context
        kept = np.clip((turns - low) / (high - low), 0, 1)
        # llama.cpp's converter computes in float32
        if factor > 1 and np.allclose(stored, 1 / ((1 - kept) / factor + kept), rtol=1e-5, atol=0):
            return {"rope_type": "llama3", "factor": factor, **LLAMA3}
    raise ValueError(
        f"{path}: {ROPE_FACTORS}: scaled rotary frequencies are stored without their parameters in GGUF, and these are "
        f"not those of Llama 3.1 to 3.3 ({LLAMA3}); load the model's safetensors instead"
    )
