"""Supervised pretraining of the embedded models: next-token cross-entropy on packed text of a built-in task.

The text is of mixed quality on purpose (:class:`jaxrl_llm.data.tasks.Mix`): like a real base model, the result knows
the way to the answer but does not take it every time, so that reinforcement learning has something to do.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl_llm.data.tasks import TASKS, Mix, pretraining_text
from jaxrl_llm.data.tokens import Tokenizer, character_tokenizer
from jaxrl_llm.models import hub
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.models.writer import save
from jaxrl_llm.training.optimizer import OptimizerSettings, init_optimizer, make_optimizer
from jaxrl_llm.types import Array, Model, Params


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a decoder of the Qwen3 architecture with tied embeddings; the vocabulary is the tokenizer's."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int

    def config(self, vocab_size: int) -> ModelConfig:
        return ModelConfig(
            family="qwen3",
            vocab_size=vocab_size,
            norm_epsilon=1e-6,
            rope_theta=10_000.0,
            max_positions=512,
            tied=True,
            qkv_bias=False,
            qk_norm=True,
            **dataclasses.asdict(self),
        )


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """``rows`` of ``width`` tokens a step, for ``steps`` steps, tiers in turn; written to ``folder``.

    Attributes:
      task: built-in, with worked solutions.
      start: source of the checkpoint to go on from, of the sizes in ``model``; None starts from random weights.
    """

    folder: str
    task: str
    start: str | None
    seed: int
    steps: int
    rows: int
    width: int
    model: Sizes
    mix: Mix
    optimizer: OptimizerSettings

    def __post_init__(self):
        for key in ("rows", "width"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)}: expected at least 1")
        if self.task not in TASKS:
            raise ValueError(f"task = {self.task!r}: the built-in tasks are {', '.join(TASKS)}")


def documents(settings: PretrainSettings, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Token ids of question, completion and end of text, one document after another, the tiers in turn."""
    task, (stop, *_) = TASKS[settings.task], tokenizer.stop_ids
    index = 0
    while True:
        for tier in task.tiers:
            question = task.generate(tier, "train", index).question
            text = pretraining_text(task, tier, index, settings.mix, seed=settings.seed)
            yield [*tokenizer.encode(question + text), stop]
        index += 1


def pack(stream: Iterator[list[int]], rows: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and segments, int32 [rows, width]: whole documents side by side, 0-padded (segment 0).

    A document that finds no room at the end of a row is dropped, not carried over: the next row starts with the next.

    Raises:
      ValueError: a document is longer than a row; to leave it out would train on short texts alone.
    """
    tokens, positions, segments = (np.zeros((rows, width), np.int32) for _ in range(3))
    for row in range(rows):
        start, segment = 0, 1
        for document in stream:
            if len(document) > width:
                raise ValueError(f"width = {width}: a text has {len(document)} tokens; expected room for the longest")
            end = start + len(document)
            if end > width:
                break
            tokens[row, start:end] = document
            positions[row, start:end] = np.arange(len(document))
            segments[row, start:end] = segment
            start, segment = end, segment + 1
    return tokens, positions, segments


def cross_entropy(model: Model, params: Params, tokens: Array, positions: Array, segments: Array) -> Array:
    """Mean over all predicted tokens, in nats; a document's first token is not predicted."""
    logits = model.unembed(params, model.apply(params, tokens, positions, segments)[:, :-1])
    logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)[..., 0]
    predicted = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    return -jnp.sum(jnp.where(predicted, logprobs, 0.0)) / jnp.sum(predicted)


def _first_params(settings: PretrainSettings, config: ModelConfig, model: Model) -> Params:
    """Random weights, or those of ``start``."""
    if settings.start is None:
        return jax.jit(model.init)(jax.random.key(settings.seed))
    path = hub.resolve(settings.start)
    if (found := hub.load_config(path)) != config:
        raise ValueError(f"start = {settings.start!r} holds {found}, expected the sizes of the section model: {config}")
    return hub.load_params(path, config)


def pretrain(settings: PretrainSettings) -> Path:
    """Trains and writes a Hugging Face folder; the same settings give the same weights."""
    folder = Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = character_tokenizer(folder)
    config = settings.model.config(tokenizer.vocabulary_size)
    model = functions(config)
    optimizer = make_optimizer(settings.optimizer, settings.steps, seed=settings.seed)
    params = _first_params(settings, config, model)
    state = (params, init_optimizer(optimizer, params, offload=settings.optimizer.offload))

    @jax.jit
    def step(state, tokens, positions, segments):
        params, opt_state = state
        loss, gradients = jax.value_and_grad(lambda p: cross_entropy(model, p, tokens, positions, segments))(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    stream, begun = documents(settings, tokenizer), time.perf_counter()
    for count in range(1, settings.steps + 1):
        state, loss = step(state, *pack(stream, settings.rows, settings.width))
        if count % 50 == 0 or count == settings.steps:
            print(f"step {count}/{settings.steps}  loss {loss:.4f}  {time.perf_counter() - begun:.0f} s", flush=True)
        if count % 200 == 0 or count == settings.steps:  # what is earned is kept, should the run be stopped
            save(config, state[0], folder, dtype="bfloat16", generation_config={"eos_token_id": tokenizer.stop_ids[0]})
    return folder
