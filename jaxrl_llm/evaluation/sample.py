"""Completions of one question, for a person to read."""

from __future__ import annotations

import jax
import numpy as np

from jaxrl_llm.data.prompts import Problem
from jaxrl_llm.data.templates import encode_prompts
from jaxrl_llm.sampling.keys import EVALUATION, step_key
from jaxrl_llm.training.parts import sample_on
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
    with jax.set_mesh(session.mesh):
        prepared = session.prepare(session.params)
    rollout = sample_on(
        session.mesh,
        session.model,
        prepared,
        np.array([prompt], np.int32),
        np.array([len(prompt)], np.int32),
        np.zeros(1, np.int32),
        step_key(settings.seed, EVALUATION, 0),
        samples=samples,
        sampling=settings.sampling,
        stop_ids=session.stop_ids,
        pad_id=session.tokenizer.pad_id,
    )
    return [session.tokenizer.decode(row[mask]) for row, mask in zip(rollout.tokens, rollout.mask, strict=True)]
