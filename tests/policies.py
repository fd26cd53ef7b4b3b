"""A tiny random policy, rollouts of it and algorithms, for tests of sampling and training."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm import config
from jaxrl_llm.algorithm import Algorithm, initial_controls
from jaxrl_llm.data.tokens import character_tokenizer
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.models.writer import save
from jaxrl_llm.sampling.generate import generate
from jaxrl_llm.sampling.keys import step_key
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.training.batch import Batcher, Judged, Scored, make_batcher
from jaxrl_llm.training.settings import LoopSettings
from jaxrl_llm.types import Metrics, Rollout, TrainBatch

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
VOCABULARY = 200  # more than one block of the inverse CDF
CONFIG = ModelConfig(
    family="qwen3",
    vocab_size=VOCABULARY,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_size=8,
    mlp_width=48,
    norm_epsilon=1e-6,
    rope_theta=1e4,
    max_positions=128,
    tied=False,
    qkv_bias=False,
    qk_norm=True,
)
MODEL = functions(CONFIG)
PROMPTS = np.random.default_rng(0).integers(0, VOCABULARY, (4, 7)).astype(np.int32)
LENGTHS = np.array([7, 4, 1, 5], np.int32)
IDS = np.array([3, 11, 40, 5], np.int32)
SAMPLES = 4
STOPS = tuple(range(1, 9))
PAD = 0
PLAIN = Sampling(max_tokens=40, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, stop=())


def save_character_model(folder: Path, **changes: Any) -> Path:
    """A random model of a few thousand parameters with the embedded model's tokenizer, as a Hugging Face folder.

    Args:
      changes: of its architecture.
    """
    tokenizer = character_tokenizer(folder)
    small = dataclasses.replace(
        CONFIG, vocab_size=tokenizer.vocabulary_size, width=16, layers=1, heads=2, kv_heads=1, mlp_width=32, tied=True
    )
    small = dataclasses.replace(small, **changes)
    weights = functions(small).init(jax.random.key(0))
    save(small, weights, folder, dtype="float32", generation_config={"eos_token_id": list(tokenizer.stop_ids)})
    return folder


@functools.cache
def _initial(seed: int) -> dict[str, Any]:
    return jax.device_get(jax.jit(MODEL.init)(jax.random.key(seed)))


def params(seed: int = 0) -> dict[str, Any]:
    """Random weights, in memory of their own; the head is scaled up so that the distribution is far from flat."""
    tree = jax.tree.map(lambda x: jnp.array(x, copy=True), _initial(seed))
    tree["head"]["kernel"] *= 3.0
    return tree


def sample(
    weights: Any,
    sampling: Sampling = PLAIN,
    *,
    step: int = 0,
    stops: tuple[int, ...] = STOPS,
    prompts: Any = slice(None),
    samples: int = SAMPLES,
) -> Rollout:
    """A rollout of 4 prompts × 4 samples, or of some of the prompts."""
    return generate(
        MODEL,
        jax.jit(MODEL.prepare)(weights),
        jnp.asarray(PROMPTS[prompts]),
        jnp.asarray(LENGTHS[prompts]),
        jnp.asarray(IDS[prompts]),
        step_key(0, 0, step),
        samples=samples,
        sampling=sampling,
        stop_ids=stops,
        pad_id=PAD,
    )


def algorithm(recipe: str = "lite_ppo", **changes: Any) -> Algorithm:
    """The algorithm of a recipe's config file, with some knobs changed."""
    settings = config.parse(config.load(str(CONFIGS / f"{recipe}.py"), []))
    return dataclasses.replace(settings.algorithm, **changes)


@functools.cache
def batcher(algorithm: Algorithm, max_tokens: int = PLAIN.max_tokens) -> Batcher:
    return make_batcher(algorithm, max_tokens, LoopSettings(window=8, period=4, repeats=2))


def batch(
    algorithm: Algorithm,
    rollout: Rollout,
    rewards: Any,
    *,
    source: Any = None,
    greedy_rewards: Any = None,
    **scores: Any,
) -> tuple[TrainBatch, Metrics]:
    """The batch of a rollout, of which rewards above 0 are right answers; ``scores`` are fields of Scored."""
    right = np.asarray(rewards) > 0
    judged = Judged(rewards, right, np.ones_like(right), source, greedy_rewards)
    scored = Scored(rollout.sampler_logprobs)._replace(**scores)
    of_step, _, metrics = batcher(algorithm, rollout.tokens.shape[1])(
        rollout, judged, scored, initial_controls(algorithm)
    )
    return of_step, metrics
