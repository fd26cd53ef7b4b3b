"""The architecture of a decoder: sizes, and the switches in which the families differ."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class LinearRopeScaling:
    """Every rotary frequency divided by ``factor`` (rope_type `linear`)."""

    factor: float


@dataclasses.dataclass(frozen=True)
class DynamicRopeScaling:
    """The rotary base grows with the length beyond ``max_positions`` (rope_type `dynamic`, NTK)."""

    factor: float


@dataclasses.dataclass(frozen=True)
class YarnRopeScaling:
    """Frequencies of few turns within the original context are divided by ``factor``, others kept (rope_type `yarn`).

    Attributes:
      attention_factor: that cos and sin are multiplied by.
      beta_fast: turns from which a frequency is kept.
      beta_slow: turns up to which it is divided.
      truncate: the bounds are rounded outwards, to whole frequencies.
    """

    factor: float
    original_max_positions: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
    """Llama 3.1's scaling of rotary frequencies (rope_type `llama3`): low frequencies are divided by ``factor``."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_max_positions: int


RopeScaling = LinearRopeScaling | DynamicRopeScaling | YarnRopeScaling | Llama3RopeScaling
# How the positions of a layer enter attention: rotated by the model's base, by the base of its local layers, or not.
Rope = Literal["global", "local", "none"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes by the axis letters of :mod:`jaxrl_llm.types`, and the switches in which the families differ.

    Attributes:
      family: Hugging Face's model_type, a key of ``config.FAMILIES``.
      head_size: of one head; not always width / heads (Qwen3).
      tied: the output head is the embedding, transposed.
      qkv_bias: biases on the query, key and value projections (Qwen2).
      qk_norm: a norm over the head axis of queries and keys, before the rotation (Qwen3, Gemma 3).
      qk_norm_joint: that norm is over all heads at once (OLMo-2).
      output_bias: a bias on the output projection of attention.
      mlp_bias: biases in the MLP.
      activation: of the MLP.
      gated: the MLP is down(act(gate(x)) · up(x)), else down(act(up(x))) (GPT-2).
      norms: of attention and MLP: before each, after each (OLMo-2), or both (Gemma).
      layer_norm: norms subtract the mean and have a bias (GPT-2).
      norm_offset: norms multiply by 1 + scale (Gemma).
      learned_positions: added to the embedding; then nothing is rotated (GPT-2).
      fused_qkv: query, key and value are one projection (GPT-2).
      scaled_embedding: the embedding is multiplied by √D (Gemma).
      query_scalar: queries are divided by its root; None is the head size (Gemma).
      attention_cap: scores s become cap · tanh(s / cap) (Gemma 2).
      logit_cap: the same of logits.
      window: a token of a windowed layer sees that many positions, its own included.
      windowed: for each layer whether it has the window; empty without one.
      unrotated: for each layer whether it goes without rotation (SmolLM3); empty where none does.
      local_rope_theta: rotary base of windowed layers, which are not scaled (Gemma 3); None is ``rope_theta``.
      experts: that an MLP consists of, of ``mlp_width`` each; 0 is a dense one (Qwen3-MoE).
      experts_per_token: that the router chooses.
      renormalized_router: the shares of the chosen experts sum to 1.
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
    rope_scaling: RopeScaling | None = None
    qk_norm_joint: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    gated: bool = True
    norms: Literal["before", "after", "around"] = "before"
    layer_norm: bool = False
    norm_offset: bool = False
    learned_positions: bool = False
    fused_qkv: bool = False
    scaled_embedding: bool = False
    query_scalar: int | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    window: int | None = None
    windowed: tuple[bool, ...] = ()
    unrotated: tuple[bool, ...] = ()
    local_rope_theta: float | None = None
    experts: int = 0
    experts_per_token: int = 0
    renormalized_router: bool = False

    @property
    def query_scale(self) -> float:
        """What queries are multiplied by."""
        return (self.head_size if self.query_scalar is None else self.query_scalar) ** -0.5

    def window_of(self, layer: int) -> int | None:
        """Of a layer; None: it sees everything before."""
        return self.window if self.windowed and self.windowed[layer] else None

    def rope_of(self, layer: int) -> Rope:
        if self.learned_positions or (self.unrotated and self.unrotated[layer]):
            return "none"
        return "global" if self.local_rope_theta is None or self.window_of(layer) is None else "local"

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The kinds that some layer has, in a fixed order."""
        return tuple(sorted({self.rope_of(layer) for layer in range(self.layers)}))

    @property
    def active_mlp_width(self) -> int:
        """F of what one token meets: of all experts that are chosen for it."""
        return self.mlp_width * (self.experts_per_token if self.experts else 1)

    @property
    def mlp_matrices(self) -> int:
        """Matrices [D, F] of an MLP, or of an expert."""
        return 3 if self.gated else 2
