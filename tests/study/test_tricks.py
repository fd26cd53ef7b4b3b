"""Tricks: each is a legal difference between configs, does nothing where it says so, and something elsewhere."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.base import get_config
from jaxrl_llm import config as configs
from jaxrl_llm.algorithm import Algorithm, correct_gap, needs_critic, next_controls, value_loss
from jaxrl_llm.knobs import levels
from jaxrl_llm.rewards.combine import Judge, RewardSettings
from jaxrl_llm.sampling.support import Sampling, support_logits
from jaxrl_llm.study import tricks
from jaxrl_llm.study.catalogue import recipes
from jaxrl_llm.study.tricks import CATALOGUE, Share, Trick, changes_of, set_values
from jaxrl_llm.types import Metrics
from tests.policies import CONFIGS
from tests.strategies import ROWS, WIDTH, Result, Step, controls, differentiate, step

# The config that every trick is applied to: data that names the source of its rows, for statistics by source, and a
# limit of tokens whose fifth is a buffer that the short rows of a step reach.
BASE = set_values(
    get_config().to_dict(), {"data.source": "jsonl:rows", "data.source_key": "source", "sampling.max_tokens": 20}
)
# Tricks that are the base itself: what they undo.
UNDOES = {
    "no_normalization": "group_normalization",
    "token_loss": "sequence_loss",
    "token_ratio": "sequence_ratio",
    "ppo_clip_loss": "reinforce_loss",
    "sampler_logprobs": "trainer_logprobs",
    "statistics_of_step": "statistics_of_source",
    "summed_rewards": "separate_rewards",
    "no_length_penalty": "linear_length_penalty",
    "no_group_filter": "dynamic_sampling",
    "no_kl": "kl_loss",
    "no_importance": "truncated_importance",
    "no_rejection": "rejection_k1",
}
# Read by the optimizer of the critic, and by the loop over steps: no loss knows them.
OF_THE_RUN = ("critic_slow", "critic_warmup")
ALGORITHMIC = [
    trick
    for trick in CATALOGUE.values()
    if any(path.startswith("algorithm.") for path in trick.changes) and trick not in recipes.TRICKS
]


def plain(name: str) -> dict[str, Any]:
    """The config that a trick is compared on: the base with what it needs, or with what it undoes."""
    trick = CATALOGUE[name]
    before = [CATALOGUE[UNDOES[name]]] if name in UNDOES else []
    return set_values(BASE, {**changes_of(BASE, before), **trick.needs})


def algorithm(values: dict[str, Any]) -> Algorithm:
    return Algorithm(**values["algorithm"])


def with_trick(name: str) -> dict[str, Any]:
    return set_values(plain(name), changes_of(BASE, [CATALOGUE[name]]))


@functools.cache
def fixed_step(seed: int) -> Step:
    """Rows of all lengths, half of them truncated, good and bad, with ratios far from 1."""
    rng = np.random.default_rng(seed)
    drawn = step(seed, binary=True)
    logprobs = -rng.exponential(2.0, (ROWS, WIDTH)).astype(np.float32) - np.float32(0.01)

    def near(size: float) -> np.ndarray:
        return (logprobs + size * rng.normal(size=logprobs.shape)).astype(np.float32)

    return dataclasses.replace(
        drawn,
        prompt_id=np.array([11, 4, 11, 4, 11, 903], np.int32),
        rewards=np.array([2, -1, -1, 1, -2, 0], np.float32),
        correct=np.array([1, 0, 0, 1, 0, 0], bool),
        source=np.array([0, 1, 0, 1, 0, 0], np.int32),
        mask=np.arange(WIDTH) < np.array([[5], [3], [1], [5], [4], [2]]),
        truncated=np.array([1, 0, 0, 1, 1, 0], bool),
        logprobs=logprobs,
        old_logprobs=near(1.2),
        sampler_logprobs=near(1.2),
    )


@functools.cache
def computed(a: Algorithm, seed: int) -> tuple[list[np.ndarray], Metrics]:
    """(weights, advantages, losses, their gradients and the next coefficients; the metrics of the losses)."""
    s = step_of(a, seed)
    batch = s.batch(a)
    found: Result = differentiate(a, s.logprobs, s.entropy, batch, s.exact_kl)
    arrays = [batch.mask, batch.weights, batch.advantages, found.loss, found.by_logprobs, found.by_entropy]
    arrays.append(found.by_exact_kl)
    metrics = found.metrics
    if needs_critic(a):
        loss, of_critic = value_loss(a, jnp.asarray(s.values) + 1, batch)
        arrays, metrics = [*arrays, loss, batch.returns], metrics | of_critic
    after, of_controls = next_controls(a, controls(), kl=jnp.asarray(0.5), entropy=jnp.asarray(0.5), rows=ROWS)
    arrays += [after.kl_coefficient, after.entropy_coefficient]
    return [np.asarray(x) for x in arrays], metrics | of_controls


def step_of(a: Algorithm, seed: int) -> Step:
    s = fixed_step(seed)
    return s if a.old_logprobs == "trainer" else dataclasses.replace(s, old_logprobs=s.sampler_logprobs)


def counted(a: Algorithm, metric: str, seed: int) -> float:
    """An effect, of the losses, else of what comes before them; 0 where nothing counts it."""
    s, metrics = step_of(a, seed), computed(a, seed)[1]
    if metric not in metrics:
        advantages = s.advantages(a)
        metrics = advantages.metrics
        if a.old_logprobs == "trainer":
            mask = advantages.mask
            metrics = (
                metrics | correct_gap(a, jnp.asarray(s.old_logprobs), jnp.asarray(s.sampler_logprobs), mask).metrics
            )
    return float(metrics[metric].total) if metric in metrics else 0.0


def same(one: Algorithm, other: Algorithm, seed: int) -> bool:
    pairs = zip(computed(one, seed)[0], computed(other, seed)[0], strict=False)
    return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in pairs)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_trick_sets_keys_of_algorithm_sampling_and_reward_that_there_are_and_makes_a_config_that_can_run(name):
    trick = CATALOGUE[name]
    kinds = configs.key_types()
    for path in trick.sets:
        assert path in kinds
        assert path.split(".")[0] in ("algorithm", "sampling", "reward")
    before, after = plain(name), with_trick(name)
    assert before != after, "it changes nothing"
    for values in (before, after):
        configs.check(configs.parse(values), devices=None)
    assert trick.title, "a report shows it"
    assert "{" not in trick.title + trick.claim


@pytest.mark.parametrize("name", UNDOES)
def test_a_trick_that_undoes_another_gives_the_base_again(name):
    assert with_trick(name) == set_values(BASE, CATALOGUE[UNDOES[name]].needs)


@pytest.mark.parametrize("name", [trick.name for trick in CATALOGUE.values() if trick.neutral is not None])
def test_neutral_values_give_the_loss_and_the_gradient_of_the_base_bit_for_bit(name):
    neutral = set_values(plain(name), CATALOGUE[name].neutral or {})
    for seed in range(1):
        assert same(algorithm(plain(name)), algorithm(neutral), seed)


@pytest.mark.parametrize("name", [trick.name for trick in ALGORITHMIC if trick.name not in OF_THE_RUN])
def test_a_trick_moves_what_it_says(name):
    trick = CATALOGUE[name]
    before, after = algorithm(plain(name)), algorithm(with_trick(name))
    for seed in range(2):
        if not same(before, after, seed) and (not trick.moves or counted(after, trick.moves, seed) > 0):
            return
    pytest.fail(f"two steps with nothing in {trick.moves or 'the loss'}")


def test_every_metric_that_a_trick_names_is_counted_only_where_its_knob_is_on():
    for trick in ALGORITHMIC:
        knob = trick.moves.removeprefix("effect/")
        if trick.moves:
            assert f"algorithm.{knob}" in trick.sets, trick.name


def test_every_knob_of_an_algorithm_and_every_level_is_reached_by_a_trick():
    set_by = {(path, value) for trick in CATALOGUE.values() for path, value in trick.sets.items()}
    paths = {path for path, _ in set_by}
    for field in dataclasses.fields(Algorithm):
        path = f"algorithm.{field.name}"
        assert path in paths
        for level in levels(field.name):
            assert (path, level) in set_by, f"{path} = {level}"


def test_sampling_tricks_change_the_distribution_and_reward_tricks_the_reward():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 200)) * 2)
    base = np.asarray(support_logits(logits, Sampling(**BASE["sampling"])))
    for name in ("paper_sampling", "temperature_0_7", "temperature_1_2", "min_p"):
        assert np.any(np.asarray(support_logits(logits, Sampling(**with_trick(name)["sampling"]))) != base), name
    answers, truncated = ["#### 4", "#### 5", "no answer", "#### 4"], [False, False, False, True]
    rewards = {"reward_minus_one": [1, -1, -1, 1], "truncated_is_wrong": [1, 0, 0, 0]}
    for name, expected in rewards.items():
        with Judge(RewardSettings(**with_trick(name)["reward"])) as judge:
            assert judge.judge(answers, ["4"] * 4, truncated)[0].tolist() == expected


@pytest.mark.parametrize(
    ("name", "invariant"),
    [
        ("group_normalization", True),
        ("batch_normalization", True),
        ("mixed_normalization", True),
        ("mixed_normalization_centered", True),
        ("no_normalization", False),
        ("group_mean_only", False),
    ],
)
def test_rewards_of_1_and_minus_1_change_no_advantage_that_a_std_of_the_rewards_divides(name, invariant):
    """A std scales with the rewards and a mean shifts with them: the figure on reward scale is not in the formula.

    Exact up to epsilon, 1e-6 beside stds of at least 0.5, and float32.
    """
    a = algorithm(set_values(BASE, changes_of(BASE, [CATALOGUE[name]])))
    s = fixed_step(0)
    zero_one, minus_one_one = (
        np.asarray(dataclasses.replace(s, rewards=rewards).advantages(a).values)
        for rewards in (s.rewards, 2 * s.rewards - 1)
    )
    assert np.allclose(zero_one, minus_one_one, rtol=5e-6, atol=1e-6) == invariant


@pytest.mark.parametrize("trick", recipes.TRICKS, ids=lambda trick: trick.name)
def test_a_recipe_is_that_of_its_config_file(trick):
    file = configs.load(CONFIGS / f"{trick.name}.py").to_dict()
    of_trick = set_values(get_config().to_dict(), changes_of(file, [trick]))
    assert of_trick["algorithm"] == file["algorithm"]


def test_every_recipe_of_configs_is_a_trick():
    shipped = {"base", "gsm8k", "quickstart", "quickstart_real"}
    assert {path.stem for path in CONFIGS.glob("*.py")} - shipped == {trick.name for trick in recipes.TRICKS}


def test_apply_gives_a_copy_and_a_share_follows_the_size_of_the_run():
    config: Any = ConfigDict(BASE)
    applied: Any = tricks.apply(config, [CATALOGUE["overlong_penalty"], CATALOGUE["clip_high_0_28"]])
    assert (applied.algorithm.overlong_buffer, applied.algorithm.clip_high) == (4, 0.28)
    assert (config.algorithm.overlong_buffer, config.algorithm.clip_high) == (0, 0.2)
    longer = Trick("longer", {"sampling.max_tokens": 40})
    both: Any = tricks.apply(config, [CATALOGUE["overlong_penalty"], longer])
    assert both.algorithm.overlong_buffer == 8
    assert str(Share(0.2, "sampling.max_tokens")) == "0.2 × sampling.max_tokens"


CLIP = CATALOGUE["clip_high_0_28"]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ([Trick("typo", {"algorithm.clip_hihg": 0.3})], "trick typo: unknown config key algorithm.clip_hihg; nearest"),
        ([Trick("text", {"algorithm.clip_high": "high"})], "trick text: algorithm.clip_high = 'high': expected"),
        ([CLIP, CATALOGUE["clip_high_0_32"]], "clip_high_0_28 and clip_high_0_32 set algorithm.clip_high to 0.28 and"),
        ([CLIP, Trick("wide", {"steps": 3}, excludes=("clip_high_0_28",))], "tricks wide and clip_high_0_28 exclude"),
        (
            [Trick("one", {}, transform=lambda batch: batch), Trick("two", {}, transform=lambda batch: batch)],
            "tricks one, two each transform the batch",
        ),
        ([Trick("part", {"steps": Share(0.5, "sampling.tokens")})], "trick part: unknown config key sampling.tokens"),
    ],
)
def test_tricks_that_cannot_be_applied_are_refused_with_their_names(arm, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        changes_of(BASE, arm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Clip-Higher", {"steps": 3}), "snake_case"),
        (("nothing", {}), "expected changes, or a transform"),
    ],
)
def test_a_trick_without_a_name_or_a_change_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trick(*arguments)
    with pytest.raises(ValueError, match="expected the keys of changes"):
        Trick("other", {"steps": 3}, neutral={"seed": 0})


def test_a_trick_is_found_by_its_name_and_a_wrong_name_gives_those_that_are_near():
    mine = Trick("mine", {"steps": 3})
    assert tricks.get("lite_ppo") is CATALOGUE["lite_ppo"]
    assert tricks.get("mine", (mine,)) is mine and tricks.get(mine) is mine
    with pytest.raises(ValueError, match="unknown trick 'lite_pop'; nearest: lite_ppo"):
        tricks.get("lite_pop")
    with pytest.raises(ValueError, match="own trick dapo: a trick of the catalogue has this name"):
        tricks.get("mine", (mine, Trick("dapo", {"steps": 3})))
