"""Every reference kind with its inputs and the documented values of its params."""

from __future__ import annotations

from tests.oracles.kinds_loss_params import AGGREGATIONS, LOSSES, ROWS, Table

WHITEN = [  # every value of its params is in the kind itself
    {"ddof": 1, "eps": 1e-8, "eps_at": "variance"},
    {"ddof": 0, "eps": 0.3, "eps_at": "variance_floor"},
    {"ddof": 1, "eps": 1e-5, "eps_at": "std", "shift_mean": False},
]
CLAMPS = {"log_ratio_clamp": [None, 20.0], "out_clamp": [None, 10.0, 0.5]}
KEEP = [
    [],
    *(
        [{"of": of, "level": level, "low": low, "high": high}]
        for of, low, high in (("ratio", 0.7, 1.5), ("ratio", None, 1.2), ("probability_difference", -0.1, 0.05))
        for level in ("token", "sequence", "geometric", "segment")
    ),
    [
        {"of": "ratio", "level": "token", "low": 0.5, "high": None},
        {"of": "probability_difference", "level": "geometric", "low": -0.2, "high": 0.2},
    ],
]
RULES = [
    *(
        [{"level": level, "estimator": estimator, "low": None, "high": high, "bounds": "plain"}]
        for level in ("token", "seq_sum", "seq_mean", "seq_max")
        for estimator, high in (("k1", 0.2), ("k2", 0.1), ("k3", 0.1))
    ),
    *(
        [{"level": level, "estimator": "k1", "low": 0.6, "high": 1.3, "bounds": "log"}]
        for level in ("token", "seq_sum", "seq_mean", "seq_max")
    ),
    [
        {"level": "seq_max", "estimator": "k2", "low": None, "high": 0.8, "bounds": "plain"},
        {"level": "token", "estimator": "k1", "low": 0.7, "high": 1.5, "bounds": "log"},
    ],
]
ROW, TOKENS = ["rewards", "group"], ["token_rewards", "mask"]
GAP = ["train_log_prob", "rollout_log_prob", "mask"]

TABLE: Table = {
    "adv_group": (
        ROW,
        ["mask"],
        {
            "center": ["group_mean", "batch_mean", "none"],
            "scale": ["group_std", "batch_std", "none"],
            "ddof": [0, 1],
            "eps": [1e-4, 1e-6, 0.0],
            "singleton": ["raw", None],
            "var_floor": [0.0, 1e-6, 0.5],
            "batch_std_about": ["batch_mean", "group_mean"],
        },
    ),
    "adv_rloo": (
        ROW,
        ["mask"],
        {"singleton": ["raw", "zero"], "normalise": [None, {"ddof": 1, "eps": 1e-4}, {"ddof": 0, "eps": 1e-8}]},
    ),
    "adv_opo": ([*ROW, "mask"], [], {"singleton": ["raw"]}),
    "adv_gpg": (
        [*ROW, "mask"],
        [],
        {"alpha": ["rows / rows with a nonzero reward"], "f_norm": [1.0, 0.7], "singleton": ["raw"]},
    ),
    "adv_pass_at_k": ([*ROW, "mask"], [], {"scale": ["none", "group_std"], "ddof": [0, 1], "eps": [1e-6, 0.1]}),
    "adv_reinforce_pp_baseline": ([*ROW, "mask"], [], {"singleton": ["raw"], "whiten": WHITEN}),
    "adv_multi_reward": (
        ["reward_columns", "weights", "group"],
        ["unscored"],
        {
            "order": ["sum_then_normalize", "normalize_then_sum"],
            "scale": ["group_std", "batch_std", "none"],
            "ddof": [1],
            "eps": [1e-4, 0.1],
        },
    ),
    "whiten": (
        ["values", "mask"],
        [],
        {
            "ddof": [0, 1],
            "eps": [1e-8, 1e-5, 0.3],
            "eps_at": ["variance", "variance_floor", "std"],
            "shift_mean": [True, False],
            "over": ["batch", "row"],
        },
    ),
    "adv_gae": (
        [*TOKENS, "values"],
        [],
        {"gamma": [0.9, 1.0], "lam": [0.95, 1.0, 0.0], "gap": ["skip", "zero", "none"], "whiten": [None, *WHITEN]},
    ),
    "returns_discounted": (TOKENS, [], {"gamma": [0.97, 1.0], "gap": ["zero"]}),
    "adv_reinforce_pp": (TOKENS, [], {"gamma": [0.9, 1.0], "gap": ["restart"], "whiten": WHITEN}),
    "adv_remax": ([*TOKENS, "baseline"], [], {}),
    "adv_optimal_token_baseline": (
        [*TOKENS, "group", "old_log_prob", "sum_pi_squared"],
        ["is_weights"],
        {"eps": [1e-8, 0.1], "zero_tail": [False, True]},
    ),
    "adv_pipeline": (
        [*ROW, "kl", "mask", "values"],
        [],
        {
            "baseline": ["none", "group_mean", "group_mean_std", "leave_one_out"],
            "group_std": [{"ddof": 1, "eps": 1e-9}, {"ddof": 0, "eps": 0.1}],
            "reward_clip": [None, [-0.5, 0.3]],
            "kl_coef": [0.0, 0.1],
            "returns": ["discounted", "gae"],
            "gamma": [0.9, 1.0],
            "lam": [0.95, 1.0],
            "normalise": [
                None,
                {"center": True, "scale": True, "ddof": 0, "eps": 1e-8, "eps_at": "variance_floor"},
                {"center": True, "scale": False, "ddof": 0, "eps": 1e-8, "eps_at": "variance_floor"},
            ],
        },
    ),
    "reward_kl": (
        ["old_log_prob", "ref_log_prob", "token_scores", "mask"],
        [],
        {
            "estimator": ["k1", "abs", "k2", "k3"],
            "coef": [0.02, 0.5],
            "controller": [{"target": 0.1, "horizon": 100}, {"target": 0.5, "horizon": 50, "error_clip": 0.1}],
        }
        | CLAMPS,
    ),
    "kl_controller": (
        ["kl_series", "samples"],
        [],
        {"init": [0.2, 1.0], "target": [0.1, 0.4], "horizon": [500], "error_clip": [0.2, 0.5]},
    ),
    "group_filter": (["scores", "group"], [], {"bounds": ["exclusive"], "low": [0.0, 0.25], "high": [0.5, 1.0]}),
    "overlong": (
        ["lengths"],
        [],
        {"max_length": [80, 100], "buffer": [16, 25, 7], "factor": [0.5, 1.0], "floor": [None, -0.5, -1.0]},
    ),
    "reward_running_norm": (
        ["reward_batches", "group"],
        [],
        {"center": ["running_mean", "group_mean"], "initial_count": [1e-4, 2.0], "eps": [1e-8, 1e-4]},
    ),
    "kl_estimate": (["log_prob", "ref_log_prob"], [], {"estimator": ["k1", "abs", "k2", "k3"]} | CLAMPS),
    "kl_full": (["log_probs", "ref_log_probs"], [], {}),
    "logprob_entropy": (
        ["logits", "labels", "weight_log_prob", "weight_entropy"],
        [],
        {"temperature": [1.0, 0.6, 1.7]},
    ),
    "sum_pi_squared": (["logits"], [], {}),
    "agg": (
        ["loss_mat", "mask", "row_weights"],
        [],
        {
            "agg": [
                *AGGREGATIONS,
                *({"mode": "seq_mean_token_mean", "rows": rows, "row_weights": True} for rows in ROWS),
                *(aggregation | {"when_empty": "zero"} for aggregation in AGGREGATIONS[:3]),
            ]
        },
    ),
    "value_loss": (
        ["values", "old_values", "returns", "mask"],
        [],
        {"agg": AGGREGATIONS, "clip": [None, 0.2, 0.5], "factor": [0.5, 1.0]},
    ),
    "is_weights": (
        GAP,
        [],
        {
            "level": ["token", "sequence", "geometric", "segment"],
            "mode": ["truncate", "mask"],
            "low": [None, 0.0, 0.8],
            "high": [None, 1.3, 2.0],
            "log_ratio_clamp": [None, 20.0],
            "batch_normalise": [None, "tokens", "rows"],
            "keep": KEEP,
        },
    ),
    "is_weights_areal": (
        GAP,
        [],
        {"metric": ["ratio", "kl_k3"], "action": ["mask", "clamp"], "upper": [1.1, 0.06], "lower": [None, 0.04]},
    ),
    "rejection_mask": (GAP, [], {"log_ratio_clamp": [20.0, None], "rules": RULES}),
    "offpolicy_metrics": (GAP, [], {"log_ratio_clamp": [20.0]}),
    "high_entropy_mask": (["entropy", "mask"], [], {"share": [0.25, 0.2, 0.5, 0.1, 0.9, 1.0]}),
    "off_policy_sequence_mask": ([*GAP, "row_advantages"], [], {"threshold": [0.05, 0.0]}),
} | LOSSES
