"""From gradients by log-probabilities to gradients by the parameters of a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm import config as configs
from jaxrl_llm.microscope.compare import PullBack
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.training.export import last_policy
from jaxrl_llm.training.rollouts import SavedRollout
from jaxrl_llm.training.score import Scores, score
from jaxrl_llm.types import Array, Model, Params, Rollout, join_policy, split_policy

LARGEST = 8 * 2**30  # bytes of gradients that may be held, one a recipe and prompt


def at_policy(
    model: Model, params: Params, sampling: Sampling, rollouts: Sequence[SavedRollout], *, recipes: int
) -> tuple[list[SavedRollout], PullBack]:
    """The rollouts with log-probabilities and entropies of the policy, and its pull-back for ``compare``.

    Args:
      params: tree of the policy at which gradients are taken, by all of it, or by its adapter if it has one.
      sampling: temperature and filters of the rollouts.
      recipes: how many gradients of a prompt will be held.

    Raises:
      ValueError: the gradients would not fit into memory.
    """
    size = sum(x.size for x in jax.tree.leaves(split_policy(params)[0]))
    prompts = sum(len(np.unique(np.asarray(saved.rollout.prompt_id))) for saved in rollouts)
    if (needed := 4 * size * recipes * prompts) > LARGEST:
        raise ValueError(
            f"{recipes} recipes × {prompts} prompts × {size:,} parameters are {needed / 2**30:.1f} GiB of gradients: "
            f"expected at most {LARGEST / 2**30:.0f}; take fewer rollouts, or gradients by log-probabilities"
        )

    def scores(params: Params, rollout: Rollout) -> Scores:
        return score(model, params, rollout, sampling, chunk=1024)

    @jax.jit
    def pull(params: Params, rollout: Rollout, by_logprobs: Array, by_entropy: Array) -> Array:
        """[R, N] from [R, rows, T] each."""
        trained, frozen = split_policy(params)
        like, back = jax.vjp(lambda p: scores(join_policy(p, frozen), rollout), trained)

        def flat(pair: tuple[Array, Array]) -> Array:
            cotangent = jax.tree.map(jnp.zeros_like, like)
            cotangent = cotangent._replace(logprobs=pair[0], entropy=pair[1])
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(back(cotangent))])

        return jax.lax.map(flat, (by_logprobs, by_entropy))

    def pull_back(saved: SavedRollout, rows: np.ndarray, by_logprobs: Array, by_entropy: Array) -> np.ndarray:
        part = jax.tree.map(lambda x: jnp.asarray(x)[rows], saved.rollout)
        return np.asarray(pull(params, part, by_logprobs.astype(jnp.float32), by_entropy.astype(jnp.float32)))

    scorer = jax.jit(scores)
    moved = []
    for saved in rollouts:
        found = scorer(params, jax.tree.map(jnp.asarray, saved.rollout))
        arrays = {"logprobs": np.asarray(found.logprobs), "entropy": np.asarray(found.entropy)}
        moved.append(dataclasses.replace(saved, **arrays))
    return moved, pull_back


def of_run(run: Path, rollouts: Sequence[SavedRollout], *, recipes: int) -> tuple[list[SavedRollout], PullBack]:
    """:func:`at_policy` for the last checkpoint of a run, the rollouts' own.

    Raises:
      FileNotFoundError, ValueError: as `jaxrl_llm.training.export.last_policy` says.
    """
    policy = last_policy(run).policy
    settings = configs.parse(rollouts[0].config)
    return at_policy(policy.model, policy.params, settings.sampling, rollouts, recipes=recipes)
