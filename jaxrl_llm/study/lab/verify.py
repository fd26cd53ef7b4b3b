"""The verifier `exact` with the answer format `hash`, on tokens: what `rewards.Judge` says of their text.

It reads tokenizers of one token a character, with "####" as one token, and gold answers that are whole numbers from 0
on. Its grammar is that of ``rewards.answers.normalize``: a sign, thousands commas, leading zeros, a fraction of zeros
and one full stop behind all of it change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.data.tokens import Tokenizer
from jaxrl_llm.types import Array

HASH = "####"
_WHOLE = re.compile(r"0|[1-9][0-9]*")

# Kinds of tokens; a digit is its own kind, 0 to 9. _NOTHING is a special token, which no text shows.
_PLUS, _MINUS, _COMMA, _POINT, _SPACE, _NEWLINE, _ANSWER, _OTHER, _NOTHING = range(10, 19)
_KINDS = {"+": _PLUS, "-": _MINUS, ",": _COMMA, ".": _POINT, " ": _SPACE, "\n": _NEWLINE, HASH: _ANSWER, "": _NOTHING}

# Where a reader of numbers is. _DIGITS + n: behind n digits without a comma, 4 for more than three; _GROUP + n: n after
# a comma; _FRACTION: after the point of a whole part; _POINT_FIRST, _ZEROS: in a number without one; _STOP: after the
# full stop.
_START, _SIGN, _DIGITS, _GROUP, _FRACTION = 0, 1, 2, 7, 11
_POINT_FIRST, _ZEROS, _SPACES, _STOP, _BAD = 12, 13, 14, 15, 16
_NUMBERS = (*range(_DIGITS + 1, _DIGITS + 5), _GROUP + 3, _FRACTION, _ZEROS, _SPACES, _STOP)  # where one may end


def _transitions() -> np.ndarray:
    """int32 [states, kinds], the next state."""
    table = np.full((_BAD + 1, _NOTHING + 1), _BAD, np.int32)
    table[:, _NOTHING] = np.arange(_BAD + 1)
    digits = slice(0, 10)
    table[_START, [_SPACE, _PLUS, _MINUS, _POINT]] = [_START, _SIGN, _SIGN, _POINT_FIRST]
    table[_SIGN, _POINT] = _POINT_FIRST
    table[[_START, _SIGN], digits] = _DIGITS + 1
    for count in range(1, 5):
        table[_DIGITS + count, digits] = _DIGITS + min(count + 1, 4)
        table[_DIGITS + count, [_POINT, _SPACE]] = [_FRACTION, _SPACES]
        if count < 4:
            table[_DIGITS + count, _COMMA] = _GROUP
    for count in range(3):
        table[_GROUP + count, digits] = _GROUP + count + 1
    table[_GROUP + 3, [_COMMA, _POINT, _SPACE]] = [_GROUP, _FRACTION, _SPACES]
    for state in (_FRACTION, _ZEROS):  # any other digit makes a number that is not whole
        table[state, [0, _POINT, _SPACE]] = [state, _STOP, _SPACES]
    table[_POINT_FIRST, 0] = _ZEROS
    table[_SPACES, [_SPACE, _POINT]] = [_SPACES, _STOP]
    table[_STOP, _SPACE] = _STOP
    return table


_TABLE = _transitions()


class Verdicts(NamedTuple):
    """bool [B] each: whether the answer is the gold one, and whether there is an answer at all."""

    correct: Array
    parseable: Array


def token_kinds(tokenizer: Tokenizer) -> np.ndarray:
    """int32 [V], what the verifier reads in each token.

    Raises:
      ValueError: a token of several characters other than "####", or none that is "####".
    """
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocabulary_size)]
    strange = [text for text in texts if (len(text) > 1 and text != HASH) or text == "#"]
    if strange or HASH not in texts:
        found = f"the token {strange[0]!r}" if strange else f"no token {HASH!r}"
        raise ValueError(
            f"the engine lab judges tokens, and this tokenizer has {found}: expected one token a character, and one "
            f"for {HASH!r}, as the embedded models have; the engine train judges any text"
        )
    kinds = [int(text) if text.isdecimal() and text.isascii() else _KINDS.get(text, _OTHER) for text in texts]
    return np.array(kinds, np.int32)


def gold_digits(answers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Digits of gold answers, int32 [N, D], and how many each has, int32 [N]; 0 has none, as leading zeros count none.

    Raises:
      ValueError: an answer is no whole number from 0 on.
    """
    for answer in answers:
        if not _WHOLE.fullmatch(answer):
            raise ValueError(f"gold answer {answer!r}: the engine lab judges whole numbers from 0 on, such as '42'")
    texts = ["" if answer == "0" else answer for answer in answers]
    digits = np.full((len(texts), max(1, *map(len, texts))), -1, np.int32)
    for row, text in enumerate(texts):
        digits[row, : len(text)] = [int(character) for character in text]
    return digits, np.array([len(text) for text in texts], np.int32)


def verify(tokens: Array, mask: Array, kinds: Array, gold: Array, gold_length: Array) -> Verdicts:
    """Judges completions.

    Args:
      tokens: int32 [B, T].
      mask: bool [B, T], the tokens of the completion.
      kinds: int32 [V], see :func:`token_kinds`.
      gold: int32 [B, D], see :func:`gold_digits`.
      gold_length: int32 [B].
    """
    table, read = jnp.asarray(_TABLE), jnp.where(mask, kinds[tokens], _NOTHING)
    begun = jnp.cumsum(read == _ANSWER, axis=1)
    begun = (begun - (read == _ANSWER)) > 0  # behind the first ####
    answer = begun & (jnp.cumsum(begun & (read == _NEWLINE), axis=1) == 0)  # up to the end of its line
    read = jnp.where(answer, read, _NOTHING)

    def step(carry: tuple[Array, Array, Array], kind: Array) -> tuple[tuple[Array, Array, Array], None]:
        state, matched, same = carry
        state = table[state, kind]
        whole = (kind < 10) & (state > _DIGITS) & (state < _FRACTION)
        counts = whole & ((kind > 0) | (matched > 0))  # leading zeros do not
        wanted = jnp.take_along_axis(gold, jnp.minimum(matched, gold.shape[1] - 1)[:, None], axis=1)[:, 0]
        same &= ~counts | ((kind == wanted) & (matched < gold_length))
        return (state, matched + counts, same), None

    nothing = jnp.zeros(tokens.shape[0], jnp.int32)
    (state, matched, same), _ = jax.lax.scan(step, (nothing, nothing, nothing == 0), read.T)
    negative = jnp.any(read == _MINUS, axis=1) & (gold_length > 0)  # -0 is 0
    correct = jnp.isin(state, jnp.array(_NUMBERS)) & same & (matched == gold_length) & ~negative
    return Verdicts(correct, jnp.any((read != _SPACE) & (read != _NOTHING), axis=1))
