"""Rewards of a completion: the judge's, and what the knobs add to it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxrl_llm.core import masks, shaping
from jaxrl_llm.knobs import Algorithm
from jaxrl_llm.types import Array, Mean, Metrics


class Rewards(NamedTuple):
    """The rewards of a step, one column a reward function.

    Attributes:
      parts: [B, F], before their weights; column 0 is the judge's, NaN where it could not score.
      weights: F of them.
      metrics: what each addition touched.
    """

    parts: Array
    weights: tuple[float, ...]
    metrics: Metrics

    @property
    def judged(self) -> Array:
        """[B]."""
        return self.parts[:, 0]

    @property
    def total(self) -> Array:
        """Σ_f weights_f · parts_f, [B]; the judge's rewards themselves if there is nothing else."""
        result = self.parts[:, 0] * self.weights[0]
        for column, weight in zip(self.parts.T[1:], self.weights[1:], strict=True):
            result = result + weight * column
        return result


def as_rewards(rewards: Array | Rewards) -> Rewards:
    """Plain rewards [B] as those of one function."""
    return rewards if isinstance(rewards, Rewards) else Rewards(masks.as_float(rewards)[:, None], (1.0,), {})


def shape_rewards(
    algorithm: Algorithm,
    rewards: Array,
    *,
    mask: Array,
    prompt_id: Array,
    max_tokens: int,
    tokens: Array | None = None,
    correct: Array | None = None,
    parseable: Array | None = None,
) -> Rewards:
    """The judge's rewards and a column for each addition that is on: format, overlong, length, repetition.

    Args:
      rewards: [B]; NaN stays NaN, and its row is in no group whose lengths are compared.
      mask: bool [B, T]; a completion is as long as it has tokens here, the stop token included.
      prompt_id: int [B].
      max_tokens: the limit of a completion, in tokens.
      tokens: int [B, T]; read by repetition_coefficient.
      correct: bool [B]; read by length_penalty group_relative and cosine.
      parseable: bool [B], whether an answer was found; read by format_coefficient.

    Raises:
      ValueError: a knob that is on reads an argument that is None.
    """
    a, length = algorithm, jnp.sum(mask, axis=1)
    parts = [masks.as_float(rewards)]
    columns: list[tuple[str, float, Array]] = []
    if a.format_coefficient > 0:
        columns.append(("format_coefficient", a.format_coefficient, masks.as_float(_given(a, "parseable", parseable))))
    if a.overlong_buffer > 0:
        penalty = shaping.overlong_penalty(
            length, max_tokens=max_tokens, buffer=a.overlong_buffer, penalty=1.0, floor=-1.0
        )
        assert a.overlong_penalty is not None
        columns.append(("overlong_buffer", a.overlong_penalty, penalty))
    if a.length_penalty != "none":
        assert a.length_coefficient is not None
        scored = ~jnp.isnan(parts[0])
        penalty = _length_penalty(a, length, correct, prompt_id, scored, max_tokens)
        columns.append(("length_penalty", a.length_coefficient, penalty))
    if a.repetition_coefficient > 0:
        assert a.repetition_ngram is not None
        penalty = shaping.repetition_penalty(_given(a, "tokens", tokens), mask, ngram=a.repetition_ngram)
        columns.append(("repetition_coefficient", a.repetition_coefficient, penalty))
    parts += [column for _, _, column in columns]
    metrics = {f"effect/{knob}": Mean.of(column != 0) for knob, _, column in columns}
    return Rewards(jnp.stack(parts, axis=1), (1.0, *(weight for _, weight, _ in columns)), metrics)


def _given(a: Algorithm, name: str, value: Array | None) -> Array:
    if value is None:
        raise ValueError(
            f"{name} is None: expected an array, which algorithm.format_coefficient = {a.format_coefficient}, "
            f"length_penalty = {a.length_penalty!r} or repetition_coefficient = {a.repetition_coefficient} reads"
        )
    return value


def _length_penalty(
    a: Algorithm, length: Array, correct: Array | None, prompt_id: Array, scored: Array, max_tokens: int
) -> Array:
    if a.length_penalty == "linear":
        return shaping.linear_length_penalty(length, max_tokens=max_tokens)
    correct = _given(a, "correct", correct)
    if a.length_penalty == "cosine":
        return shaping.cosine_length_penalty(length, correct, max_tokens=max_tokens)
    return shaping.group_relative_length_penalty(length, correct, prompt_id, scored)
