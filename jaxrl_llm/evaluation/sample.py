"""Completions of one question, for a person to read."""

from __future__ import annotations

import jax
import numpy as np

from jaxrl_llm.data.prompts import Problem
from jaxrl_llm.data.templates import encode_prompts
from jaxrl_llm.sampling.generate import generate
from jaxrl_llm.sampling.keys import EVALUATION, step_key
from jaxrl_llm.sharding import shard_rows
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.training.setup import open_session


def sample(settings: Settings, question: str, *, samples: int) -> list[str]:
    """Texts under ``settings.sampling``, without special tokens, for ``question`` in the template of ``settings.data``.

    Raises:
      FileNotFoundError, ValueError: as :func:`~jaxrl_llm.training.setup.open_session` says; the prompt is too long.
    """
    if samples < 1:
        raise ValueError(f"--samples = {samples}: expected at least 1")
    session = open_session(settings)
    problem = Problem(0, question, "", "the command line")
    (prompt,) = encode_prompts([problem], settings.data, session.tokenizer)
    inputs = (np.array([prompt], np.int32), np.array([len(prompt)], np.int32), np.zeros(1, np.int32))
    with jax.set_mesh(session.mesh):
        rollout = generate(
            session.model,
            session.prepare(session.params),
            *shard_rows(inputs, session.mesh),
            step_key(settings.seed, EVALUATION, 0),
            samples=samples,
            sampling=settings.sampling,
            stop_ids=session.stop_ids,
            pad_id=session.tokenizer.pad_id,
        )
    tokens, mask = jax.device_get((rollout.tokens, rollout.mask))
    return [session.tokenizer.decode(row[kept]) for row, kept in zip(tokens, mask, strict=True)]
