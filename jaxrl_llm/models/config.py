"""The architecture of a decoder: sizes, switches, and the reading and writing of Hugging Face's config.json."""

from __future__ import annotations

import dataclasses


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
