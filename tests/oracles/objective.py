"""Advantages, weights and loss of an algorithm as slow loops over rows and tokens, in numpy and float64.

Written from the formulas in the docstrings and the comments of ``configs/base.py``, with none of the library's code.
"""

from __future__ import annotations

import math

import numpy as np


def std_of(values: list[float], ddof: int, about: float | None = None) -> float:
    if len(values) <= ddof:
        return 0.0
    center = float(np.mean(values)) if about is None else about
    return math.sqrt(sum((v - center) ** 2 for v in values) / (len(values) - ddof))


def advantages(a, rewards, prompt_id, mask, truncated, kl=None) -> tuple[np.ndarray, np.ndarray]:
    """(values [B, T], mask [B, T])."""
    rows, width = mask.shape
    scored = [i for i in range(rows) if not math.isnan(rewards[i])]
    group = {i: [j for j in scored if prompt_id[j] == prompt_id[i]] for i in range(rows)}
    rewards_of = {i: [float(rewards[j]) for j in group[i]] for i in range(rows)}
    everything = [float(rewards[i]) for i in scored]
    within = [float(rewards[i]) - float(np.mean(rewards_of[i])) for i in scored]
    values, kept = np.zeros((rows, width)), np.zeros((rows, width), bool)
    for i in scored:
        others = [float(rewards[j]) for j in group[i] if j != i]
        baseline = {
            "none": 0.0,
            "group": np.mean(rewards_of[i]),
            "batch": np.mean(everything),
            "leave_one_out": np.mean(others) if others else rewards[i],
        }[a.baseline]
        std = {
            "none": None,
            "group": std_of(rewards_of[i], a.scale_ddof),
            "batch": std_of(everything, a.scale_ddof),
            "batch_centered": std_of(within, a.scale_ddof, about=0.0),
        }[a.scale]
        row_value = float(rewards[i]) - baseline
        if std is not None:
            row_value = row_value / (std + a.scale_epsilon) if std > 1e-12 else 0.0
        flat = max(rewards_of[i]) == min(rewards_of[i])
        for t in range(width):
            if mask[i, t]:
                later = [] if kl is None else [kl[i, s] for s in range(t, width) if mask[i, s]]
                values[i, t] = row_value - a.kl_coefficient * sum(later)
                dropped = (a.overlong_filter and truncated[i]) or (a.group_filter == "zero_variance" and flat)
                kept[i, t] = not dropped
    tokens = [(i, t) for i in scored for t in range(width) if mask[i, t]]
    if a.whiten and tokens:
        seen = [values[at] for at in tokens]
        mean, std = np.mean(seen), std_of(seen, a.scale_ddof)
        for at in tokens:
            values[at] = (values[at] - mean) / (std + a.scale_epsilon) if std > 1e-12 else 0.0
    if a.advantage_clip is not None:
        values = np.clip(values, -a.advantage_clip, a.advantage_clip)
    return values, kept


def weights(a, mask, prompt_id, max_tokens) -> np.ndarray:
    rows, width = mask.shape
    lengths = [int(mask[i].sum()) for i in range(rows)]
    full = [i for i in range(rows) if lengths[i]]
    prompts = {int(prompt_id[i]) for i in full}
    result = np.zeros((rows, width))
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


def policy_loss(a, logprobs, entropy, batch) -> float:
    rows, width = batch["mask"].shape
    total = 0.0
    for i in range(rows):
        tokens = [t for t in range(width) if batch["mask"][i, t]]
        if not tokens:
            continue
        d = {t: float(np.clip(logprobs[i, t] - batch["old_logprobs"][i, t], -20, 20)) for t in tokens}
        for t in tokens:
            advantage = batch["advantages"][i, t]
            exponent = d[t] if a.ratio == "token" else sum(d.values()) / len(tokens)
            ratio = math.exp(exponent)
            if a.surrogate == "reinforce":
                loss = -advantage * logprobs[i, t]
            else:
                clipped = min(max(ratio, 1 - a.clip_low), 1 + a.clip_high)
                loss = -min(ratio * advantage, clipped * advantage)
                if a.dual_clip is not None and advantage < 0:
                    loss = min(loss, -a.dual_clip * advantage)
            if a.kl_placement == "loss":
                x = float(np.clip(logprobs[i, t] - batch["ref_logprobs"][i, t], -20, 20))
                estimate = {"k2": x * x / 2, "k3": math.exp(-x) + x - 1}[a.kl_estimator]
                loss += a.kl_coefficient * min(estimate, 10.0)
            loss -= a.entropy_coefficient * entropy[i, t]
            total += batch["weights"][i, t] * loss
    return total
