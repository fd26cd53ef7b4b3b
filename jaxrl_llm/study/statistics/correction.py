"""p-values of many comparisons together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values: those below α may be called differences, with a chance of at most α of one wrong call.

    p̃_(i) = max over j ≤ i of min(1, (m - j + 1) p_(j)), whatever the comparisons have in common.

    Reference: Holm, 1979, "A simple sequentially rejective multiple test procedure".
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.minimum(values[order] * np.arange(len(values), 0, -1), 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(steps) if len(values) else steps
    return adjusted


def holm_confidence(p: Sequence[float] | np.ndarray, confidence: float) -> np.ndarray:
    """The confidence of the interval that excludes 0 exactly where Holm calls a difference.

    1 - α / (m - i + 1) for the i-th smallest p-value, up to the first that Holm does not call; all after it have its
    level. With k of m called, the intervals of the others hold together with confidence 1 - α.
    """
    values = np.asarray(p, np.float64)
    count, alpha = len(values), 1 - confidence
    order = np.argsort(values, kind="stable")
    levels = alpha / np.arange(count, 0, -1)
    failing = np.flatnonzero(values[order] >= levels)
    if failing.size:
        levels[failing[0] :] = levels[failing[0]]
    result = np.empty_like(values)
    result[order] = 1 - levels
    return result


def benjamini_hochberg(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """q-values: of those below α, a share of at most α is expected to be wrong.

    q_(i) = min over j ≥ i of min(1, m p_(j) / j), for independent or positively dependent comparisons, which arms
    that share a reference are.

    Reference: Benjamini and Hochberg, 1995, "Controlling the false discovery rate".
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.minimum(values[order] * len(values) / np.arange(1, len(values) + 1), 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1] if len(values) else steps
    return adjusted
