"""Advantages, weights and corrections of an algorithm as slow loops over rows and tokens, in numpy and float64.

Written from the formulas in the docstrings and the comments of ``configs/base.py``, with none of the library's code.
The losses are in ``policy``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


def std_of(values: list[float], ddof: int) -> float:
    if len(values) <= ddof:
        return 0.0
    center = float(np.mean(values))
    return math.sqrt(sum((v - center) ** 2 for v in values) / (len(values) - ddof))


def scaled(value: float, std: float, epsilon: float) -> float:
    """0 where nothing spreads, which rounding may hide."""
    return value / (std + epsilon) if std > 1e-12 else 0.0


def tokens_of(mask: np.ndarray, i: int) -> list[int]:
    return [t for t in range(mask.shape[1]) if mask[i, t]]


def shaped(a: Any, step: Any, max_tokens: int) -> list[tuple[float, np.ndarray]]:
    """(weight, rewards [B]) of each reward function, the judge's first."""
    rows = len(step.rewards)
    lengths = [len(tokens_of(step.mask, i)) for i in range(rows)]
    columns = [(1.0, np.array(step.rewards, np.float64))]
    if a.format_coefficient:
        columns.append((a.format_coefficient, np.array([float(found) for found in step.parseable])))
    if a.overlong_buffer:
        start = max_tokens - a.overlong_buffer
        penalties = [-min(max(length - start, 0) / a.overlong_buffer, 1.0) for length in lengths]
        columns.append((a.overlong_penalty, np.array(penalties)))
    if a.length_penalty != "none":
        penalties = [_length_penalty(a, step, i, lengths, max_tokens) for i in range(rows)]
        columns.append((a.length_coefficient, np.array(penalties)))
    if a.repetition_coefficient:
        n, penalties = a.repetition_ngram, []
        for i in range(rows):
            text = [int(step.tokens[i, t]) for t in tokens_of(step.mask, i)]
            words = [tuple(text[k : k + n]) for k in range(len(text) - n + 1)]
            penalties.append(-(1 - len(set(words)) / len(words)) if words else 0.0)
        columns.append((a.repetition_coefficient, np.array(penalties)))
    return columns


def _length_penalty(a: Any, step: Any, i: int, lengths: list[int], max_tokens: int) -> float:
    share, right = min(lengths[i] / max_tokens, 1.0), bool(step.correct[i])
    if a.length_penalty == "linear":
        return -share
    if a.length_penalty == "cosine":
        return ((1 if right else -1) * math.cos(math.pi * share) - 1) / 2
    scored = [j for j in range(len(lengths)) if not math.isnan(step.rewards[j])]
    group = [lengths[j] for j in scored if step.prompt_id[j] == step.prompt_id[i]]
    if i not in scored or max(group) == min(group):
        return 0.0
    rank = 0.5 - (lengths[i] - min(group)) / (max(group) - min(group))
    return rank if right else min(rank, 0.0)


class Moments(NamedTuple):
    mean: float
    variance: float
    count: float


def merged(moments: Moments, values: list[float]) -> Moments:
    """As if ``count`` numbers of that mean and variance and the values had come at once."""
    total = moments.count + len(values)
    mean = (moments.count * moments.mean + sum(values)) / total
    squares = moments.count * (moments.variance + (moments.mean - mean) ** 2) + sum((v - mean) ** 2 for v in values)
    return Moments(mean, squares / total, total)


class Rows(NamedTuple):
    """One reward a row, and what its baseline and scale are taken from."""

    rewards: np.ndarray
    scored: list[int]
    step: Any
    lengths: list[int]
    moments: Moments

    def group(self, i: int) -> list[int]:
        return [j for j in self.scored if self.step.prompt_id[j] == self.step.prompt_id[i]]

    def scope(self, a: Any, i: int) -> list[int]:
        return [j for j in self.scored if a.batch_statistics == "step" or self.step.source[j] == self.step.source[i]]


def _centred(a: Any, rows: Rows, i: int) -> float:
    r, group = rows.rewards, rows.group(i)
    others = [r[j] for j in group if j != i]
    if a.baseline == "pass_at_k":
        best = max(r[j] for j in group)
        return best - max(others) if others and r[i] == best and max(others) < best else 0.0
    if a.baseline == "length_weighted":
        weight = sum(rows.lengths[j] for j in group)
        if len(group) == 1 or weight == 0:
            return r[i] - float(np.mean([r[j] for j in group]))
        return r[i] - sum(rows.lengths[j] * r[j] for j in group) / weight
    return (
        r[i]
        - {
            "none": 0.0,
            "critic": 0.0,
            "optimal_token": 0.0,
            "group": float(np.mean([r[j] for j in group])),
            "batch": float(np.mean([r[j] for j in rows.scope(a, i)])),
            "leave_one_out": float(np.mean(others)) if others else r[i],
            "running": rows.moments.mean,
            "greedy": rows.step.greedy_rewards[i],
        }[a.baseline]
    )


def _scaled(a: Any, rows: Rows, i: int, centred: float) -> float:
    r = rows.rewards
    if a.scale == "none":
        return centred
    if a.scale == "nonzero_share":
        return centred * len(rows.scored) / max(1, sum(r[j] != 0 for j in rows.scored))
    if a.scale == "running":
        m = rows.moments
        return scaled(centred, math.sqrt(m.variance * (m.count / (m.count - 1) if m.count > 1 else 1)), a.scale_epsilon)
    values = {
        "group": [r[j] for j in rows.group(i)],
        "batch": [r[j] for j in rows.scope(a, i)],
        "batch_centered": [r[j] - float(np.mean([r[k] for k in rows.group(j)])) for j in rows.scope(a, i)],
    }[a.scale]
    return scaled(centred, std_of(values, a.scale_ddof), a.scale_epsilon)


def row_values(a: Any, step: Any, max_tokens: int, before: Moments) -> tuple[dict[int, float], list[int], Moments]:
    """({row: value}, scored rows, moments after the step)."""
    scored = [i for i in range(len(step.rewards)) if not math.isnan(step.rewards[i])]
    columns = shaped(a, step, max_tokens)
    total = np.sum([weight * column for weight, column in columns], axis=0)
    after = merged(before, [float(total[i]) for i in scored]) if "running" in (a.baseline, a.scale) else before
    lengths = [len(tokens_of(step.mask, i)) for i in range(len(step.rewards))]

    def of(rewards: np.ndarray) -> dict[int, float]:
        rows = Rows(rewards, scored, step, lengths, after)
        return {i: _scaled(a, rows, i, _centred(a, rows, i)) for i in scored}

    if a.reward_combination == "separate":
        each = [(weight, of(column)) for weight, column in columns]
        summed = {i: sum(weight * values[i] for weight, values in each) for i in scored}
        every = list(summed.values())
        std = std_of(every, a.scale_ddof)
        values = {i: scaled(summed[i] - float(np.mean(every)), std, a.scale_epsilon) for i in scored}
    else:
        values = of(total)
    if a.reward_clip is not None:
        values = {i: float(np.clip(value, -a.reward_clip, a.reward_clip)) for i, value in values.items()}
    return values, scored, after


class Advantages(NamedTuple):
    values: np.ndarray
    mask: np.ndarray
    returns: np.ndarray | None
    moments: Moments


def advantages(a: Any, step: Any, *, max_tokens: int, moments: Moments, kl_coefficient: float) -> Advantages:
    mask, shape = step.mask, step.mask.shape
    per_row, scored, moments = row_values(a, step, max_tokens, moments)
    values, kept = np.zeros(shape), np.zeros(shape, bool)
    returns = np.zeros(shape) if a.baseline == "critic" else None
    for i in scored:
        tokens = tokens_of(mask, i)
        rewards = {t: (per_row[i] if t == tokens[-1] else 0.0) for t in tokens}
        if a.kl_placement == "reward":
            rewards = {t: r - kl_coefficient * step.kl[i, t] for t, r in rewards.items()}
        lam, baseline = 1.0, dict.fromkeys(tokens, 0.0)
        if returns is not None:
            baseline = {t: float(step.values[i, t]) for t in tokens}
            lam = a.gae_lambda
            if a.gae_length_alpha is not None and tokens:
                lam = max(1 - 1 / (a.gae_length_alpha * len(tokens)), 0.0)
            for t, value in _gae(rewards, baseline, tokens, a.discount, a.gae_lambda_returns).items():
                returns[i, t] = value + baseline[t]
        for t, value in _gae(rewards, baseline, tokens, a.discount, lam).items():
            values[i, t] = value
            kept[i, t] = _keeps(a, step, i, scored)
    if a.baseline == "optimal_token":
        values = _minus_optimal(a, step, values, scored)
    at = [(i, t) for i in scored for t in tokens_of(mask, i)]
    if a.whiten and at:
        seen = [values[place] for place in at]
        mean, std = float(np.mean(seen)), std_of(seen, a.scale_ddof)
        for place in at:
            values[place] = scaled(values[place] - mean, std, a.scale_epsilon)
    if a.advantage_clip is not None:
        values = np.clip(values, -a.advantage_clip, a.advantage_clip)
    return Advantages(values, kept, returns, moments)


def _gae(rewards: dict[int, float], values: dict[int, float], tokens: list[int], gamma: float, lam: float):
    result, after, next_value = {}, 0.0, 0.0
    for t in reversed(tokens):
        after = rewards[t] + gamma * next_value - values[t] + gamma * lam * after
        next_value, result[t] = values[t], after
    return result


def _minus_optimal(a: Any, step: Any, returns: np.ndarray, scored: list[int]) -> np.ndarray:
    energy, result = np.zeros_like(returns), np.zeros_like(returns)
    for i in scored:
        sum_so_far = 0.0
        for t in tokens_of(step.mask, i):
            sum_so_far += 1 - 2 * math.exp(step.old_logprobs[i, t]) + step.sum_pi_squared[i, t]
            energy[i, t] = sum_so_far
    for i in scored:
        group = [j for j in scored if step.prompt_id[j] == step.prompt_id[i]]
        for t in tokens_of(step.mask, i):
            weight = sum(energy[j, t] for j in group) + a.scale_epsilon
            gains = sum(energy[j, t] * returns[j, t] for j in group)
            baseline = gains / weight if len(group) > 1 and weight != 0 else 0.0
            result[i, t] = returns[i, t] - baseline
    return result


def _keeps(a: Any, step: Any, i: int, scored: list[int]) -> bool:
    group = [j for j in scored if step.prompt_id[j] == step.prompt_id[i]]
    if a.overlong_filter and step.truncated[i]:
        return False
    if a.group_filter == "zero_variance":
        return len({float(step.rewards[j]) for j in group}) > 1
    if a.group_filter == "difficulty":
        return a.difficulty_low < np.mean([float(step.correct[j]) for j in group]) < a.difficulty_high
    return True


def weights(a: Any, mask: np.ndarray, prompt_id: np.ndarray, max_tokens: int) -> np.ndarray:
    rows = len(mask)
    lengths = [int(mask[i].sum()) for i in range(rows)]
    full = [i for i in range(rows) if lengths[i]]
    prompts = {int(prompt_id[i]) for i in full}
    result = np.zeros(mask.shape)
    for i in full:
        of_prompt = sum(lengths[j] for j in full if prompt_id[j] == prompt_id[i])
        weight = {
            "token_mean": 1 / sum(lengths),
            "sequence_mean": 1 / lengths[i] / len(full),
            "prompt_mean": 1 / of_prompt / len(prompts),
            "sequence_sum": 1 / len(full),
            "constant": 1 / ((a.aggregation_constant or max_tokens) * rows),
        }[a.aggregation]
        result[i] = np.where(mask[i], weight, 0)
    return result


def correction(a: Any, step: Any, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(weights [B, T], 1 without a correction; mask after rejection)."""
    x = np.where(mask, step.old_logprobs.astype(np.float64) - step.sampler_logprobs, 0.0)
    result, kept = np.where(mask, 1.0, 0.0), mask.copy()
    for i in range(len(mask)):
        tokens = tokens_of(mask, i)
        for t in tokens:
            if a.correction != "none":
                result[i, t] = _weight(a, {s: x[i, s] for s in tokens}, t)
            if a.rejection != "none":
                low = -math.inf if a.rejection_low is None else a.rejection_low
                kept[i, t] = low <= _statistic(a, {s: x[i, s] for s in tokens}, t) <= a.rejection_high
    rows = [np.mean([result[i, t] for t in tokens_of(mask, i)]) for i in range(len(mask)) if mask[i].any()]
    mean = {"none": 1.0, "tokens": np.mean(result[mask]) if mask.any() else 0.0, "rows": np.mean(rows) if rows else 0.0}
    divisor = mean[a.correction_normalize]
    return (result / divisor if divisor else np.zeros_like(result)), kept


def _weight(a: Any, x: dict[int, float], t: int) -> float:
    first, last = t, t
    while first - 1 in x:
        first -= 1
    while last + 1 in x:
        last += 1
    level = {
        "token": x[t],
        "segment": float(np.mean([x[s] for s in range(first, last + 1)])),
        "sequence": sum(x.values()),
        "geometric": sum(x.values()) / len(x),
    }[a.correction_level]
    weight = math.exp(float(np.clip(level, -20, 20)))
    low = -math.inf if a.correction_low is None else a.correction_low
    if a.correction == "truncate":
        return float(np.clip(weight, low, a.correction_high))
    return weight if low <= weight <= a.correction_high else 0.0


def _statistic(a: Any, x: dict[int, float], t: int) -> float:
    """An estimate of KL(sampler, trainer) at the token, or of its row."""
    estimates = {}
    for s, value in x.items():
        gap = float(np.clip(value, -20, 20))
        estimates[s] = {"k1": -gap, "k2": gap * gap / 2, "k3": math.exp(gap) - gap - 1}[a.rejection]
    every = list(estimates.values())
    return {
        "token": estimates[t],
        "sequence_sum": sum(every),
        "sequence_mean": sum(every) / len(every),
        "sequence_max": max(every),
    }[a.rejection_level]
