"""Losses side by side on the same completions: their gradients, and what those have in common."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm import algorithm as algorithms
from jaxrl_llm import config
from jaxrl_llm.algorithm import Algorithm
from jaxrl_llm.microscope.statistics import Bins, Gram, Interval, affected, by_number
from jaxrl_llm.training.batch import Judged, Scored, make_batcher
from jaxrl_llm.training.rollouts import SavedRollout
from jaxrl_llm.types import Array, TrainBatch

Loss = Callable[[Array, Array, TrainBatch], Array]
# (prompts of a rollout) of pulling a gradient by log-probabilities and entropies back to the parameters
PullBack = Callable[[SavedRollout, np.ndarray, Array, Array], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A point in the product of knobs, and maybe a loss of one's own in place of its surrogate.

    Attributes:
      algorithm: says how advantages, filters and weights come about, and the loss if ``loss`` is None.
      loss: (log-probabilities [B, T], entropies [B, T], batch) -> scalar, a sum over ``batch.weights``.
    """

    algorithm: Algorithm
    loss: Loss | None = None

    def with_loss(self, loss: Loss) -> Recipe:
        return dataclasses.replace(self, loss=loss)


class Row(NamedTuple):
    """What is known of one recipe.

    Attributes:
      loss: mean over the rollouts.
      norm: of the gradient of that mean.
      noise: see :meth:`Gram.noise`; nan for gradients by the log-probabilities, where prompts have no entry in common
        and it is √(1 - 1/P) whatever the loss.
      cosine: with the gradient of the first recipe.
      with_gradient: share of the tokens that have one.
      affected: share of the tokens that are treated otherwise than by the first recipe, see :func:`affected`.
      by_position: the same by the token's place in its completion, counted from 1.
      by_length: the same by the length of its completion.
    """

    loss: float
    norm: float
    noise: float
    cosine: Interval
    with_gradient: float
    affected: float
    by_position: Bins
    by_length: Bins


class Comparison(NamedTuple):
    """The recipes by name, the first of them the reference of the others.

    Attributes:
      space: what the gradients are taken by: "log-probabilities" or "parameters".
      prompts, tokens: how many entered.
    """

    rows: dict[str, Row]
    space: str
    rollouts: int
    prompts: int
    tokens: int


class _OnRollout(NamedTuple):
    """One recipe on one rollout: the loss, its gradient by log-probabilities and entropies [B, T]."""

    loss: float
    by_logprobs: np.ndarray
    by_entropy: np.ndarray


_batcher = functools.cache(make_batcher)  # one program a recipe, whatever the number of rollouts


def batch_of(recipe: Recipe, saved: SavedRollout) -> TrainBatch:
    """What the recipe would have learned from in one optimizer step over the whole rollout.

    Raises:
      ValueError: the recipe reads what the rollout does not hold.
    """
    a, settings = recipe.algorithm, config.parse(saved.config)
    _check_can_read(a, saved)
    config.check(dataclasses.replace(settings, algorithm=a), devices=None)
    rollout = jax.tree.map(jnp.asarray, saved.rollout)
    judged = Judged(saved.rewards, saved.correct, saved.parseable)
    old = rollout.sampler_logprobs if a.old_logprobs == "sampler" else jnp.asarray(saved.old_logprobs)
    scored = Scored(old, ref_logprobs=saved.ref_logprobs)
    batcher = _batcher(a, settings.sampling.max_tokens, settings.log.loop)
    return batcher(rollout, judged, scored, algorithms.initial_controls(a))[0]


def _check_can_read(a: Algorithm, saved: SavedRollout) -> None:
    for needed, knob, what in (
        (a.baseline in ("critic", "greedy", "optimal_token"), "baseline", "what this baseline is made of"),
        (a.batch_statistics == "source", "batch_statistics", "the sources of its rows"),
        (a.kl_placement != "none" and saved.ref_logprobs is None, "kl_placement", "log-probabilities of a reference"),
        (algorithms.needs_exact_kl(a), "kl_estimator", "distributions over the whole vocabulary"),
    ):
        if needed:
            raise ValueError(f"algorithm.{knob} = {getattr(a, knob)!r}: a saved rollout does not hold {what}")


def _loss_of(recipe: Recipe) -> Loss:
    if recipe.loss is not None:
        return recipe.loss
    a, controls = recipe.algorithm, algorithms.initial_controls(recipe.algorithm)

    def loss(logprobs: Array, entropy: Array, batch: TrainBatch) -> Array:
        return algorithms.policy_loss(a, logprobs, entropy, batch, controls=controls)[0]

    return loss


def _on_rollout(recipe: Recipe, saved: SavedRollout) -> _OnRollout:
    batch = batch_of(recipe, saved)
    logprobs, entropy = jnp.asarray(saved.logprobs), jnp.asarray(saved.entropy)
    if algorithms.needs_choice(recipe.algorithm):
        choice = algorithms.choose_tokens(recipe.algorithm, logprobs, entropy, batch)
        batch = dataclasses.replace(batch, choice=choice)
    loss, gradients = jax.value_and_grad(_loss_of(recipe), argnums=(0, 1))(logprobs, entropy, batch)
    mask = np.asarray(saved.rollout.mask)
    by_logprobs, by_entropy = (np.where(mask, np.asarray(gradient), 0.0) for gradient in gradients)
    if not (np.isfinite(by_logprobs).all() and np.isfinite(by_entropy).all() and np.isfinite(float(loss))):
        raise ValueError(f"step {saved.step}: the loss or its gradient is not finite")
    return _OnRollout(float(loss), by_logprobs, by_entropy)


def compare(
    recipes: Mapping[str, Recipe], rollouts: Sequence[SavedRollout], *, pull_back: PullBack | None = None
) -> Comparison:
    """What each recipe would have done with the rollouts, one optimizer step a rollout, beside the first recipe.

    The gradient is taken at the policy of the rollouts' ``logprobs``: those after the update of their step, so that
    ratios are not 1 and clips have something to do. Advantages and weights are those of the whole rollout; intervals
    and noise are over its prompts, with these held.

    Args:
      recipes: by name; the first is the reference.
      rollouts: of :func:`jaxrl_llm.training.rollouts.load`.
      pull_back: from the gradient by log-probabilities to that by parameters, see ``microscope.parameters``; None:
        the former is compared.

    Raises:
      ValueError: no recipe, no rollout, or a recipe that reads what a rollout does not hold.
    """
    if not recipes or not rollouts:
        raise ValueError(f"{len(recipes)} recipes and {len(rollouts)} rollouts: expected at least one of each")
    names = list(recipes)
    found = [[_on_rollout(recipe, saved) for recipe in recipes.values()] for saved in rollouts]
    gram = _gram(found, rollouts, pull_back)
    norms, noise, cosines = gram.norms() / len(rollouts), gram.noise(), gram.cosines()
    masks = [np.asarray(saved.rollout.mask) for saved in rollouts]
    rows = {}
    for index, name in enumerate(names):
        mine, first = [results[index] for results in found], [results[0] for results in found]
        differ = [
            affected(one.by_logprobs, other.by_logprobs, mask) | affected(one.by_entropy, other.by_entropy, mask)
            for one, other, mask in zip(mine, first, masks, strict=True)
        ]
        moved = [(one.by_logprobs != 0) | (one.by_entropy != 0) for one in mine]
        rows[name] = Row(
            loss=float(np.mean([one.loss for one in mine])),
            norm=float(norms[index]),
            noise=float(noise[index]) if pull_back is not None else math.nan,
            cosine=cosines[index],
            with_gradient=_share(moved, masks),
            affected=_share(differ, masks),
            by_position=_binned(differ, [np.cumsum(mask, axis=1) for mask in masks], masks),
            by_length=_binned(differ, [np.repeat(m.sum(1)[:, None], m.shape[1], 1) for m in masks], masks),
        )
    prompts = sum(len(np.unique(np.asarray(saved.rollout.prompt_id))) for saved in rollouts)
    space = "log-probabilities" if pull_back is None else "parameters"
    return Comparison(rows, space, len(rollouts), prompts, int(sum(mask.sum() for mask in masks)))


def _share(where: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    tokens = sum(int(mask.sum()) for mask in masks)
    return sum(int(np.sum(one & mask)) for one, mask in zip(where, masks, strict=True)) / max(1, tokens)


def _binned(where: Sequence[np.ndarray], numbers: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Bins:
    """Over all rollouts, which may differ in width."""
    pairs = zip(where, masks, strict=True), zip(numbers, masks, strict=True)
    of_tokens, number = (np.concatenate([x[mask] for x, mask in pair])[None] for pair in pairs)
    return by_number(of_tokens, number, np.ones_like(of_tokens, bool))


def _gram(found: Sequence[Sequence[_OnRollout]], rollouts: Sequence[SavedRollout], pull_back: PullBack | None) -> Gram:
    """Inner products over the prompts of all rollouts."""
    vectors, blocks = [], []
    for results, saved in zip(found, rollouts, strict=True):
        prompt_id = np.asarray(saved.rollout.prompt_id)
        for prompt in np.unique(prompt_id):
            rows = np.flatnonzero(prompt_id == prompt)
            pair = [np.stack([getattr(one, name)[rows] for one in results]) for name in ("by_logprobs", "by_entropy")]
            if pull_back is None:
                flat = np.concatenate([part.reshape(len(results), -1) for part in pair], axis=1).astype(np.float64)
                blocks.append(flat @ flat.T)
            else:
                vectors.append(pull_back(saved, rows, jnp.asarray(pair[0]), jnp.asarray(pair[1])))
    if pull_back is not None:
        return Gram.of(np.stack(vectors, axis=1))
    losses, prompts = blocks[0].shape[0], len(blocks)
    products = np.zeros((losses, prompts, losses, prompts))  # prompts have no token in common
    for index, block in enumerate(blocks):
        products[:, index, :, index] = block
    return Gram(products)


def table(comparison: Comparison) -> str:
    """The comparison as text for a terminal."""
    c = comparison
    head = ("recipe", "loss", "gradient norm", "noise/signal", "cosine to first [95 %]", "with gradient", "affected")
    lines: list[tuple[str, ...]] = [head]
    for name, row in c.rows.items():
        noise = "-" if math.isnan(row.noise) else f"{row.noise:.3f}"
        cosine = f"{row.cosine.value:.4f} [{row.cosine.low:.4f}, {row.cosine.high:.4f}]"
        shares = (f"{100 * row.with_gradient:.1f} %", f"{100 * row.affected:.2f} %")
        lines.append((name, f"{row.loss:.5f}", f"{row.norm:.4g}", noise, cosine, *shares))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        f"{c.rollouts} rollouts, {c.prompts} prompts, {c.tokens} tokens; gradients by the {c.space}",
        *("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines),
    ]
    for title, field in (("position", "by_position"), ("length of the completion", "by_length")):
        text += ["", f"affected tokens by {title}, in tokens"]
        for name, row in list(c.rows.items())[1:]:
            bins: Bins = getattr(row, field)
            cells = [
                f"{low:.0f}-{high:.0f}: {100 * value:.1f} %"
                for low, high, value in zip(bins.edges, bins.edges[1:], bins.values, strict=False)
            ]
            text.append(f"{name}: {', '.join(cells)}")
    return "\n".join(text)


def load_recipe(name: str) -> Recipe:
    """The recipe of a config file, or of a name in the folder configs.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the config is wrong, as `config.load` and `config.parse` say.
    """
    path = Path(name) if name.endswith(".py") else Path("configs") / f"{name}.py"
    if not path.is_file() and not name.endswith(".py"):
        path = Path(__file__).resolve().parents[2] / "configs" / f"{name}.py"
    return Recipe(config.parse(config.load(path)).algorithm)
