"""The policy losses of the reference kinds with their inputs and the documented values of their params."""

from __future__ import annotations

import itertools
from typing import Any

Grid = dict[str, list[Any]]
# kind -> (its inputs, those that it has in some cases, the values of its params)
Table = dict[str, tuple[list[str], list[str], Grid]]

ROWS = ["nonempty", "all", "none", 64]
AGGREGATIONS: list[dict[str, Any]] = [
    {"mode": "token_mean", "denominator": "mask", "scale": 1.0},
    {"mode": "token_mean", "denominator": 300, "scale": 4.0},
    *(
        {"mode": mode, "rows": rows, "scale": 2.0}
        for mode in ("seq_mean_token_sum", "seq_mean_token_mean")
        for rows in ROWS
    ),
    *({"mode": "token_sum_norm", "norm": 12.0, "rows": rows, "scale": 1.0} for rows in ROWS),
]
KL = [
    {"beta": 0.04, "estimator": estimator, "log_ratio_clamp": None, "out_clamp": out, "times_ratio": times_ratio}
    for estimator, out, times_ratio in itertools.product(("k1", "abs", "k2", "k3"), (None, 0.05), (False, True))
]
CORRECTIONS = [
    *({"type": kind, "low": low, "high": 1.3} for kind in ("tis", "icepop", "seq_mask_tis") for low in (0.0, 0.8)),
    *(
        {
            "type": "bounds",
            "level": level,
            "action": action,
            "metric": "ratio",
            "agg": "mean",
            "lower": low,
            "upper": 1.2,
        }
        for level, action, low in itertools.product(("token", "sequence"), ("mask", "clamp"), (0.9, None))
    ),
]
PPO: Grid = {
    "agg": AGGREGATIONS,
    "eps_low": [0.1, 0.2],
    "eps_high": [0.2, 0.28],
    "dual_clip": [None, 1.4, 3.0],
    "log_ratio_clamp": [None, 20.0],
    "approx_kl": ["clamped", "raw"],
}

POLICY = ["log_prob", "old_log_prob", "advantages", "mask"]

LOSSES: Table = {
    "pg_ppo_clip": (
        POLICY,
        ["is_weights"],
        PPO
        | {
            "delta": [None, 1.6, 2.5],
            "kl": [None, *KL],
            "top_entropy": [None, 0.4],
            "off_policy_mask": [None, {"threshold": 0.02}],
        },
    ),
    "pg_ppo_correction": ([*POLICY, "rollout_log_prob"], [], PPO | {"correction": CORRECTIONS}),
    "pg_gspo": (
        POLICY,
        ["is_weights"],
        {
            "agg": AGGREGATIONS,
            "eps_low": [0.05, 0.2],
            "eps_high": [0.05, 0.3],
            "log_ratio_max": [None, 10.0, 0.1],
            "ratio_gradient": ["sequence", "token"],
        },
    ),
    "pg_luspo": ([*POLICY[:2], "row_advantages", "mask"], [], {"eps_low": [0.05, 0.2], "eps_high": [0.05, 0.3]}),
    "pg_sequence_ratio": (
        ["log_prob", "old_log_prob_sum", "row_advantages", "mask"],
        [],
        {"eps_low": [0.1, 0.2], "eps_high": [0.1, 0.3]},
    ),
    "pg_cispo": (
        POLICY,
        ["is_weights"],
        {
            "agg": AGGREGATIONS,
            "ratio_min": [None, 0.0, 0.8],
            "ratio_max": [None, 1.28],
            "log_ratio_clamp": [None, 20.0],
            "drop_clipped": [False, True],
        },
    ),
    "pg_truncated_is": (POLICY, [], {"agg": AGGREGATIONS, "ratio_min": [0.0, None], "ratio_max": [1.0, 1.5]}),
    "pg_sapo": (
        POLICY,
        ["is_weights"],
        {"agg": AGGREGATIONS, "tau_pos": [1.0, 2.0], "tau_neg": [1.05, 3.0], "log_ratio_clamp": [None, 20.0]},
    ),
    "pg_gmpo": (POLICY, ["is_weights"], {"log_eps_low": [0.2, 0.4], "log_eps_high": [0.4, 0.1], "rows": ["all"]}),
    "pg_reinforce": (POLICY, ["is_weights"], {"agg": AGGREGATIONS}),
    "pg_clip_cov": (
        POLICY,
        [],
        {
            "agg": AGGREGATIONS,
            "eps_low": [0.2],
            "eps_high": [0.2, 0.3],
            "cov_lower": [0.0, 0.5],
            "cov_upper": [1.5, 0.8],
            "budget": [1.0],
            "choice": ["all candidates"],
        },
    ),
    "pg_kl_cov": (POLICY, [], {"agg": AGGREGATIONS, "fraction": [0.0002, 0.1, 0.29, 1.0], "kl_coef": [1.0, 0.2]}),
    "pg_topr": (
        [*POLICY, "scores"],
        [],
        {"agg": AGGREGATIONS, "positive_weight": [1.0, 0.5], "negative_weight": [1.0, 2.0]},
    ),
    "pg_kimi15": (POLICY, [], {"agg": AGGREGATIONS, "tau": [0.1, 1.0]}),
    "pg_vespo": (
        POLICY,
        [],
        {
            "agg": AGGREGATIONS,
            "k_pos": [2.0, 1.0],
            "lambda_pos": [3.0, 0.5],
            "k_neg": [3.0, 0.0],
            "lambda_neg": [2.0, 1.0],
        },
    ),
    "pg_probability_mask": (
        POLICY,
        [],
        {
            "agg": AGGREGATIONS,
            "by_sign": [True, False],
            "mask_high": [0.05, 0.2],
            "mask_low": [0.03, 0.2],
            "adv_scale": [1.0, 0.5],
            "kl_coef": [0.0, 1e-2],
        },
    ),
}
