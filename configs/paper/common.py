"""What the experiments of arXiv 2508.08221 share: models, data tiers and baseline, at three scales.

`paper`: Qwen3 4B and 8B with the hyperparameters of configs/models/paper.py, for accelerators. `small`: the real model
of configs/quickstart_real.py. `lab`: the two embedded models of configs/studies/lab.py, minutes on two CPU cores.

The paper leaves open which normalization and aggregation its clip, filter, length and loss experiments have. Here all
of them start from one baseline: PPO clip of 0.2 on both sides, no critic, no KL, group mean and group std, mean of
sequence means (what the paper's framework, ROLL, had for a default then). An arm is that baseline and what it names.

Tiers of the scale `paper`, and its six benchmarks, are files of JSON lines in data/paper, which
`jaxrl-llm tiers --config configs/paper/tiers.py` writes. Cells are named MODEL_TIER or MODEL_TIER_LENGTH.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import base, quickstart_real
from configs.models import llama3_8b, paper, qwen3_4b, qwen3_4b_base, qwen3_8b, qwen3_8b_base
from configs.studies import lab

TIERS = ("easy", "medium", "hard")
# What a run is, the engine, the number of seeds (paper: the paper's own) and the models, of each scale.
RUNS = {"paper": paper.get_config, "small": quickstart_real.get_config, "lab": lab.get_config}
ENGINES = {"paper": "train", "small": "train", "lab": "lab"}
SEEDS = {"paper": 1, "small": 3, "lab": 16}
FIRST_SEED = {"paper": 42, "small": 0, "lab": 0}
MODELS = {
    "paper": {
        "base_4b": qwen3_4b_base.get_config().model.source,
        "base_8b": qwen3_8b_base.get_config().model.source,
        "aligned_4b": qwen3_4b.get_config().model.source,
        "aligned_8b": qwen3_8b.get_config().model.source,
        "aligned_llama3_8b": llama3_8b.get_config().model.source,
    },
    "small": {"aligned_135m": quickstart_real.get_config().model.source},
    "lab": {"base": "embedded:lab_base", "aligned": "embedded:lab_aligned"},
}
# max_tokens: the paper's 8k, 16k and 20k, and limits in about their proportion.
LENGTHS = {
    "paper": {"short": 8192, "middle": 16384, "long": 20480},
    "small": {"short": 5, "middle": 10, "long": 13},
    "lab": {"short": 10, "middle": 20, "long": 25},
}
# The arms of E12 and E13: recipes of the catalogue, whole; and what the paper compares.
RECIPES = {name: (name,) for name in ("grpo", "dapo", "lite_ppo")}
OF_RECIPES = (("lite_ppo", "grpo"), ("lite_ppo", "dapo"))


def run(scale: str) -> ConfigDict:
    """The baseline of every experiment."""
    if scale not in RUNS:
        raise ValueError(f"scale {scale!r}: expected one of {', '.join(RUNS)}")
    c = RUNS[scale]()
    c.algorithm = base.get_config().algorithm
    c.algorithm.baseline = "group"
    c.algorithm.scale = "group"
    c.algorithm.aggregation = "sequence_mean"
    if scale == "paper":
        c.data.answer_key = "answer"  # of the tiers
    return c


def cell(scale: str, name: str) -> dict[str, Any]:
    """What a cell sets: model, tier of training (and, of built-in tasks, of evaluation), and maximum length."""
    model = next(model for model in MODELS[scale] if name.startswith(f"{model}_"))
    tier, *length = name.removeprefix(f"{model}_").split("_")
    assert tier in TIERS, name
    changes: dict[str, Any] = {"model.source": MODELS[scale][model]}
    if scale == "paper":
        changes["data.source"] = f"jsonl:data/paper/{tier}.jsonl"
    else:
        changes |= {"data.tier": tier, "evaluation.tier": tier}
    if length:
        changes["sampling.max_tokens"] = LENGTHS[scale][length[0]]
    if scale == "paper" and length and length[0] != "short":  # one prompt and one completion of full length a pass
        changes["training.tokens_per_pass"] = 1024 + LENGTHS[scale][length[0]]
    return changes


def study(
    file: str,
    scale: str,
    *,
    question: str,
    claim: str,
    source: str,
    cells: Mapping[str, str],
    arms: Mapping[str, tuple[str, ...]],
    comparisons: tuple[tuple[str, str], ...],
) -> ConfigDict:
    """The study of one experiment.

    Args:
      file: of the experiment; its name is that of the study.
      cells: scale -> names of its cells, with spaces between.
      arms: name -> names of tricks on top of the baseline.
      comparisons: (arm, reference), those that the paper makes.
    """
    c = ConfigDict()
    c.name = Path(file).stem
    c.question = question
    c.claim = claim
    c.source = f"arXiv 2508.08221, {source}"
    c.run = run(scale)
    c.engine = ENGINES[scale]
    c.cells = ConfigDict(
        {name: cell(scale, name) for name in cells[scale].split()}, allow_dotted_keys=True, sort_keys=False
    )
    c.mode = "arms"
    c.arms = ConfigDict(dict(arms), sort_keys=False)
    c.comparisons = comparisons
    c.seeds = SEEDS[scale]
    c.first_seed = FIRST_SEED[scale]
    return c
