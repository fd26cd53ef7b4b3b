"""A run as typed, frozen values: what `config.load` makes of a config file, and all that `training` ever sees of it.

Field names are the keys of `configs/base.py`, where each stands with its unit, its default and a comment.
"""

from __future__ import annotations

import dataclasses

from jaxrl_llm.algorithm import Algorithm
from jaxrl_llm.data.prompts import DataSettings
from jaxrl_llm.distributed import DistributedSettings
from jaxrl_llm.models.hub import ModelSettings
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.rewards.combine import RewardSettings
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.sharding import MeshSettings
from jaxrl_llm.training.optimizer import OptimizerSettings


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    epochs: int
    mini_batches: int
    tokens_per_pass: int
    pack: bool
    skip_rows: bool
    score_chunk: int
    offload_reference: bool
    balancing_coefficient: float


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    every: int
    source: str
    tier: str
    split: str
    question_key: str
    answer_key: str
    source_key: str | None
    problems: int
    samples: int
    temperature: float
    top_k: int
    top_p: float
    texts: int


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    every: int
    keep: int


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """When a completion ends in a loop, see :func:`jaxrl_llm.core.shaping.loops`."""

    window: int
    period: int
    repeats: int


@dataclasses.dataclass(frozen=True)
class LogSettings:
    tensorboard: bool
    rollouts_every: int
    loop: LoopSettings


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int
    run_dir: str
    steps: int
    model: ModelSettings
    lora: LoraSettings
    data: DataSettings
    sampling: Sampling
    reward: RewardSettings
    algorithm: Algorithm
    optimizer: OptimizerSettings
    training: TrainingSettings
    mesh: MeshSettings
    distributed: DistributedSettings
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    log: LogSettings
