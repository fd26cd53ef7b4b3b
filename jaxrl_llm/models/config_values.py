"""Reads one value at a time from a config.json; every error names the file, the key and the value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxrl_llm.models.architecture import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    RopeScaling,
    YarnRopeScaling,
)

LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_YARN_NUMBERS = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
# rope_type -> the keys that it may have beside the type and rope_theta
_ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings", "truncate", *_YARN_NUMBERS),
    "llama3": LLAMA3_KEYS,
}
FULL, SLIDING = "full_attention", "sliding_attention"
# What a damaged file may claim; nothing of that size is listed or allocated.
_LARGEST_SIZE = 2**31 - 1
MOST_LAYERS = 10_000


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclasses.dataclass(frozen=True)
class Reader:
    """Attributes:
    config: the object that was read.
    where: the file, for messages.
    spelling: how the family spells a key, where it has its own.
    defaults: what transformers takes for a missing key.
    """

    config: Mapping[str, Any]
    where: str
    spelling: Mapping[str, str] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def name(self, key: str) -> str:
        return self.spelling.get(key, key)

    def get(self, key: str) -> Any:
        """None where there is neither the key nor a default."""
        value = self.config.get(self.name(key))
        return self.defaults.get(key) if value is None else value

    def error(self, key: str, expected: str) -> ValueError:
        return ValueError(f"{self.where}: {self.name(key)} = {short(self.get(key))}; expected {expected}")

    def size(self, key: str, default: int | None = None, *, most: int = _LARGEST_SIZE) -> int:
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise self.error(key, f"a whole number from 1 to {most}")
        return value

    def positive(self, key: str) -> float:
        return self._positive(self.name(key), self.get(key))

    def _positive(self, name: str, value: Any) -> float:
        # A whole number may be too large for a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e300:
            raise ValueError(f"{self.where}: {name} = {short(value)}; expected a number above 0")
        return float(value)

    def cap(self, key: str) -> float | None:
        """A positive number; null is none, a missing key the default."""
        if self.name(key) in self.config and self.config[self.name(key)] is None:
            return None
        return None if self.get(key) is None else self.positive(key)

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if value not in (None, True, False):
            raise self.error(key, "true or false")
        return bool(value)

    def flags(self, key: str, layers: int) -> tuple[bool, ...] | None:
        """0 or 1 for each layer; further ones are not read, by transformers neither."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) < layers or any(one not in (0, 1) for one in value):
            raise self.error(key, f"0 or 1 for each of {layers} layers")
        return tuple(bool(one) for one in value[:layers])

    def windowed(self, layers: int) -> tuple[bool, ...] | None:
        """For each layer whether `layer_types` gives it a window."""
        value = self.get("layer_types")
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != layers or any(one not in (FULL, SLIDING) for one in value):
            raise self.error("layer_types", f"{FULL} or {SLIDING} for each of {layers} layers")
        return tuple(one == SLIDING for one in value)

    def rope(self, default_theta: float, max_positions: int) -> tuple[float, RopeScaling | None]:
        """Theta and scaling from `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (5)."""
        found = {key: self.config[key] for key in ("rope_scaling", "rope_parameters") if self.config.get(key)}
        if not found:
            return self._theta({}, "rope_theta", default_theta), None
        read = [
            (self._theta(rope, key, default_theta), self._scaling(rope, key, max_positions))
            for key, rope in found.items()
        ]
        if any(one != read[0] for one in read):
            raise ValueError(f"{self.where}: rope_scaling and rope_parameters contradict each other: {short(found)}")
        return read[0]

    def _theta(self, rope: Any, key: str, default: float) -> float:
        if not isinstance(rope, dict):
            raise ValueError(f"{self.where}: {key} = {short(rope)}; expected an object")
        inner, outer = rope.get("rope_theta"), self.config.get("rope_theta")
        if inner is not None and outer is not None and inner != outer:
            raise ValueError(f"{self.where}: rope_theta = {short(outer)} contradicts {key}.rope_theta = {short(inner)}")
        theta = outer if inner is None else inner
        return self._positive("rope_theta", default if theta is None else theta)

    def _scaling(self, rope: dict[str, Any], key: str, max_positions: int) -> RopeScaling | None:
        kind = rope.get("rope_type", rope.get("type", "default"))
        if not isinstance(kind, str) or kind not in _ROPE_KEYS:
            known = ", ".join(_ROPE_KEYS)
            raise ValueError(f"{self.where}: {key}.rope_type = {short(kind)} is not supported; supported: {known}")
        known = {"rope_type", "type", "rope_theta", *_ROPE_KEYS[kind]}
        for name, value in rope.items():
            if name not in known:
                raise ValueError(
                    f"{self.where}: {key}.{name} = {short(value)} is unknown to rope_type {kind!r}; "
                    f"known: {', '.join(sorted(known))}"
                )

        def number(name: str) -> float:
            return self._positive(f"{key}.{name}", rope.get(name))

        if kind == "default":
            return None
        if kind == "linear":
            return LinearRopeScaling(number("factor"))
        if kind == "dynamic":
            return DynamicRopeScaling(number("factor"))
        if kind == "yarn":
            numbers = {name: number(name) for name in _YARN_NUMBERS if rope.get(name) is not None}
            original = rope.get("original_max_position_embeddings")
            original = self._positive(
                f"{key}.original_max_position_embeddings", max_positions if original is None else original
            )
            if rope.get("truncate") not in (None, True, False):
                raise ValueError(f"{self.where}: {key}.truncate = {short(rope['truncate'])}; expected true or false")
            return _yarn(number("factor"), int(original), rope.get("truncate") is not False, numbers)
        factor, low, high, original = (number(name) for name in LLAMA3_KEYS)
        return Llama3RopeScaling(factor, low, high, int(original))


def _yarn(factor: float, original: int, truncate: bool, numbers: Mapping[str, float]) -> YarnRopeScaling:
    """With the attention factor that follows from the others, where it is not said."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention_factor = numbers.get("attention_factor")
    if attention_factor is None:
        one, other = numbers.get("mscale"), numbers.get("mscale_all_dim")
        attention_factor = mscale(1.0) if one is None or other is None else mscale(one) / mscale(other)
    fast, slow = numbers.get("beta_fast", 32.0), numbers.get("beta_slow", 1.0)
    return YarnRopeScaling(factor, original, attention_factor, fast, slow, truncate)


def rope_object(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """`rope_scaling` as transformers 4 and 5 read it."""
    if scaling is None:
        return None
    if isinstance(scaling, LinearRopeScaling | DynamicRopeScaling):
        kind = "linear" if isinstance(scaling, LinearRopeScaling) else "dynamic"
        return {"rope_type": kind, "factor": scaling.factor}
    if isinstance(scaling, YarnRopeScaling):
        return {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_max_positions,
            "attention_factor": scaling.attention_factor,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
        }
    return {"rope_type": "llama3", **dict(zip(LLAMA3_KEYS, dataclasses.astuple(scaling), strict=True))}
