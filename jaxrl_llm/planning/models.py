"""The architecture to plan for, without weights: from a config.json, a table of public models, or as training does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxrl_llm.models import hub, tensor_files
from jaxrl_llm.models.config import Llama3RopeScaling, ModelConfig, from_hf

_QWEN3_8B = ModelConfig(
    family="qwen3",
    vocab_size=151936,
    width=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_size=128,
    mlp_width=12288,
    norm_epsilon=1e-6,
    rope_theta=1e6,
    max_positions=40960,
    tied=False,
    qkv_bias=False,
    qk_norm=True,
)
_QWEN3_4B = dataclasses.replace(_QWEN3_8B, width=2560, mlp_width=9728, tied=True)
_BASE_POSITIONS = 32768  # of Qwen3's base models
# The models of configs/models, by Hub id, so that planning them needs no network.
PUBLIC: dict[str, ModelConfig] = {
    "Qwen/Qwen3-4B": _QWEN3_4B,
    "Qwen/Qwen3-4B-Base": dataclasses.replace(_QWEN3_4B, max_positions=_BASE_POSITIONS),
    "Qwen/Qwen3-8B": _QWEN3_8B,
    "Qwen/Qwen3-8B-Base": dataclasses.replace(_QWEN3_8B, max_positions=_BASE_POSITIONS),
    "meta-llama/Llama-3.1-8B": ModelConfig(
        family="llama",
        vocab_size=128256,
        width=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_size=128,
        mlp_width=14336,
        norm_epsilon=1e-5,
        rope_theta=500000.0,
        max_positions=131072,
        tied=False,
        qkv_bias=False,
        qk_norm=False,
        rope_scaling=Llama3RopeScaling(8.0, 1.0, 4.0, 8192),
    ),
}


def architecture(source: str, file: Path | None = None) -> ModelConfig:
    """The architecture of ``source``.

    Args:
      source: ``model.source`` of a config; a local folder goes before the table, and a Hub id that the table does not
        know is fetched with its weights, as training does.
      file: a Hugging Face config.json that is read instead.

    Raises:
      FileNotFoundError: nothing there, and no network.
      ValueError: a config.json that the decoder cannot be.
    """
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"--model-config {file} does not exist")
        return from_hf(tensor_files.read_json(file), str(file))
    if source in PUBLIC and not Path(source).exists():
        return PUBLIC[source]
    try:
        return hub.load_config(hub.resolve(source))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; a plan needs no weights: --model-config FILE reads a config.json") from error
