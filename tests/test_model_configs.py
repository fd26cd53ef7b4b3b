"""The configs of large models: their update in abstract shapes, and one real step at a tiny width."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl_llm import config
from jaxrl_llm.algorithm import initial_controls
from jaxrl_llm.models import weights
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.sampling.generate import generate
from jaxrl_llm.sampling.keys import step_key
from jaxrl_llm.training.layouts import Budget, Sequences
from jaxrl_llm.training.packing import Packing, pack, pack_batch
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.step import init_state
from jaxrl_llm.training.update import PolicyUpdate
from jaxrl_llm.types import TrainBatch, TrainState
from tests import policies
from tests.models.public import CONFIGS as PUBLIC
from tests.policies import CONFIGS

FILES = {
    "qwen3_4b_base": "Qwen3-4B-Base",
    "qwen3_8b_base": "Qwen3-8B-Base",
    "qwen3_4b": "Qwen3-4B",
    "qwen3_8b": "Qwen3-8B",
    "llama3_8b": "Llama-3.1-8B",
}


def settings_of(name: str):
    settings = config.parse(config.load(CONFIGS / "models" / f"{name}.py", []))
    config.check(settings, devices=None)
    return settings


def model_of(name: str):
    return from_hf(PUBLIC[FILES[name]], name)


@pytest.mark.parametrize("name", FILES)
def test_the_paper_s_hyperparameters_stand_in_the_config(name):
    """arXiv 2508.08221, sections 3 and A.1."""
    s = settings_of(name)
    assert (s.data.prompts_per_step, s.data.samples_per_prompt) == (128, 8)
    assert (s.sampling.max_tokens, s.data.max_prompt_tokens) == (8192, 1024)
    assert (s.sampling.temperature, s.sampling.top_p, s.sampling.top_k) == (0.99, 0.99, 100)
    assert (s.optimizer.learning_rate, s.optimizer.weight_decay, s.optimizer.warmup_steps) == (1e-6, 0.0, 50)
    assert (s.algorithm.clip_low, s.algorithm.clip_high, s.training.epochs) == (0.2, 0.2, 1)
    assert s.training.mini_batches > 1, "with one optimizer step a rollout, the ratio is 1 and no clip ever binds"


@pytest.mark.parametrize("name", FILES)
def test_the_whole_update_has_shapes_without_a_byte_of_weights(name):
    s = settings_of(name)
    passes = has_shapes(s, model_of(name))
    assert passes[0].lanes == 2, "a pass of the config has room for two completions of full length"


def has_shapes(s: Settings, model_config: ModelConfig) -> list[Packing]:
    """Traces the update of a config at full size; returns the passes of eight rows of full length."""
    model = functions(model_config, dtype=jnp.dtype(s.model.dtype), remat=s.model.remat)
    optimizer = optax.adamw(1e-6)
    update = PolicyUpdate(model, s.algorithm, s.sampling, optimizer, s.training.score_chunk)
    rows, prompt_width, width = 8, s.data.max_prompt_tokens, s.sampling.max_tokens

    def shape(*sizes: int, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype)

    params = weights.abstract_params(model_config)
    step = shape(dtype=jnp.int32)
    opt_state = jax.eval_shape(optimizer.init, params)
    state = TrainState(step, params, {}, opt_state, initial_controls(s.algorithm), {}, {})  # type: ignore[arg-type]
    batch = TrainBatch(
        prompt_tokens=shape(rows, prompt_width, dtype=jnp.int32),  # type: ignore[arg-type]
        prompt_length=shape(rows, dtype=jnp.int32),  # type: ignore[arg-type]
        tokens=shape(rows, width, dtype=jnp.int32),  # type: ignore[arg-type]
        mask=shape(rows, width, dtype=jnp.bool_),  # type: ignore[arg-type]
        advantages=shape(rows, width),  # type: ignore[arg-type]
        old_logprobs=shape(rows, width),  # type: ignore[arg-type]
        sampler_logprobs=shape(rows, width),  # type: ignore[arg-type]
        weights=shape(rows, width),  # type: ignore[arg-type]
    )
    lengths = np.full(rows, prompt_width), np.full(rows, width)
    groups, kept = np.arange(rows) // 4, np.ones(rows, bool)
    sequences = Sequences(*lengths, groups, kept, prompt_width=prompt_width, width=width)
    passes, _ = pack(sequences, Budget(s.training.tokens_per_pass))
    after, metrics = jax.eval_shape(functools.partial(update, passes=passes), state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert {"loss", "gradient_norm", "effect/clip_high"} <= set(metrics)
    return passes


@pytest.mark.parametrize("name", ["qwen3_4b_base", "llama3_8b"])
def test_one_step_at_a_tiny_width_is_on_policy_and_moves_the_weights(name):
    """Architecture, algorithm, filters and compute dtype of the big config; bfloat16 has 8 bits, hence the bound."""
    s = settings_of(name)
    tiny = dataclasses.replace(
        model_of(name), vocab_size=200, width=32, layers=2, heads=4, kv_heads=2, head_size=8, mlp_width=48
    )
    sampling = dataclasses.replace(s.sampling, max_tokens=12)
    model = functions(tiny, dtype=jnp.dtype(s.model.dtype), remat=s.model.remat)
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    rollout = generate(
        model,
        jax.jit(model.prepare)(params),
        jnp.asarray(rng.integers(0, 200, (2, 6)), jnp.int32),
        jnp.asarray([6, 3], jnp.int32),
        jnp.asarray([0, 1], jnp.int32),
        step_key(0, 0, 1),
        samples=4,
        sampling=sampling,
        stop_ids=(1,),
        pad_id=0,
    )
    batch, _ = policies.batch(s.algorithm, rollout, np.arange(8, dtype=np.float32) % 2)
    optimizer = optax.sgd(1.0)
    update = PolicyUpdate(model, s.algorithm, sampling, optimizer, 64)
    passes, _ = pack_batch(batch, np.asarray(rollout.prompt_id), Budget(64))
    before = jax.tree.map(np.asarray, params)
    after, metrics = update(init_state(params, optimizer, s.algorithm), batch, passes)
    assert float(metrics["ratio"].value) == pytest.approx(1.0, abs=0.02)
    assert float(metrics["gradient_norm"].value) > 0
    moved = jax.tree.map(lambda a, b: bool((a != np.asarray(b)).any()), before, after.params)
    assert all(jax.tree.leaves(moved)), moved
