"""The paper's experiments as studies at three scales, and its takeaways beside our verdicts."""

from __future__ import annotations

import ast
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm import algorithm
from jaxrl_llm.study import plan, takeaways
from jaxrl_llm.study.paper import LITE_PPO, TAKEAWAYS
from tests.study.evidence import ROOT, study
from tests.test_model_configs import has_shapes, model_of

FILES = sorted((ROOT / "configs" / "paper").glob("e[0-9][0-9]_*.py"))
SCALES = ("paper", "small", "lab")
GRID = {  # experiment -> cells and arms of the scale `paper`: the grid of the paper
    "e00": ("base_4b base_8b aligned_4b aligned_8b on easy medium hard", "baseline"),
    "e01": ("base_4b base_8b on easy hard; aligned_4b aligned_8b on medium", "none batch group"),
    "e02": ("base_8b on easy medium", "zero_one minus_one_one"),
    "e03": ("base_4b on easy hard", "group_std group_mean batch_std batch_mean"),
    "e04": ("base_4b base_8b on easy hard", "group_std batch_std"),
    "e05": ("base_4b base_8b aligned_4b aligned_8b on medium; aligned_4b aligned_8b on easy", "clip_20 clip_28"),
    "e06": ("base_4b base_8b aligned_4b aligned_8b on medium", "clip_20 clip_28"),
    "e07": ("aligned_4b aligned_8b on medium", "clip_20 clip_28"),
    "e08": ("aligned_4b aligned_8b on medium", "clip_20 clip_24 clip_28 clip_32"),
    "e09": ("base_8b aligned_8b on medium hard", "sequence token"),
    "e10": ("base_8b on medium_short medium_middle medium_long; aligned_8b on medium_short", "without filter"),
    "e11": ("base_8b on medium_short medium_long; aligned_8b on medium_short", "without filter"),
    "e12": ("base_4b base_8b on easy hard", "grpo dapo lite_ppo"),
    "e13": ("aligned_8b on easy hard; aligned_llama3_8b on easy", "grpo dapo lite_ppo"),
}
_NORMALIZATION = "algorithm.baseline algorithm.scale"
_RECIPES = (
    "algorithm.scale algorithm.aggregation algorithm.clip_high algorithm.group_filter algorithm.resample_rounds "
    "algorithm.overlong_buffer algorithm.overlong_penalty algorithm.kl_placement algorithm.kl_estimator "
    "algorithm.kl_coefficient"
)
ABOUT = {  # experiment -> keys in which its arms differ
    "e00": "",
    "e01": _NORMALIZATION,
    "e02": f"{_NORMALIZATION} reward.wrong reward.unparseable reward.timeout",
    "e03": _NORMALIZATION,
    "e04": "algorithm.scale",
    **dict.fromkeys(("e05", "e06", "e07", "e08"), "algorithm.clip_high"),
    "e09": "algorithm.aggregation",
    **dict.fromkeys(("e10", "e11"), "algorithm.overlong_filter"),
    **dict.fromkeys(("e12", "e13"), _RECIPES),
}


@functools.cache
def load(name: str, scale: str) -> plan.Study:
    (path,) = [path for path in FILES if path.stem.startswith(name)]
    return plan.load(f"{path}:{scale}")


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    pairs = ((prefix + name, value) for name, value in values.items())
    return {
        path: value
        for key, inner in pairs
        for path, value in (flat(inner, f"{key}.") if isinstance(inner, dict) else {key: inner}).items()
    }


def cells_of(text: str) -> set[str]:
    found = set()
    for part in text.split("; "):
        models, _, tiers = part.partition(" on ")
        found |= {f"{model}_{tier}" for model in models.split() for tier in tiers.split()}
    return found


def test_there_is_one_file_for_each_experiment_of_the_paper_of_at_most_45_lines_with_a_header():
    assert [path.stem[:3] for path in FILES] == sorted(GRID)
    for path in FILES:
        lines, header = path.read_text().splitlines(), ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(lines) <= 45, path.name
        assert header.startswith(f"E{int(path.stem[1:3])}: ")
        assert f"jaxrl-llm study run --config configs/paper/{path.name}:lab" in header
        assert "Source: arXiv 2508.08221, " in header


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", GRID)
def test_an_experiment_loads_and_its_arms_differ_only_in_what_it_is_about(name, scale):
    s = load(name, scale)
    assert s.settings.name.startswith(name)
    assert s.settings.engine == ("lab" if scale == "lab" else "train")
    assert str(s.folder).endswith(f"runs/studies/{s.settings.name}/{scale}")
    assert len(s.seeds) >= {"paper": 1, "small": 3, "lab": 16}[scale]
    differing = set()
    for cell in s.cells:
        configs = [flat(s.config(cell.name, arm.name, s.seeds[0]).to_dict()) for arm in s.arms]
        differing |= {key for key in configs[0] for config in configs if config[key] != configs[0][key]}
        assert all(s.run_settings(cell.name, arm.name, s.seeds[0]).training.mini_batches > 1 for arm in s.arms)
    about = set(ABOUT[name].split())
    if (name, scale) == ("e02", "paper"):  # without the control
        about -= set(_NORMALIZATION.split())
    assert differing - {"run_dir"} == about
    if scale == "lab":
        assert len(s.cells) * len(s.arms) <= 12


@pytest.mark.parametrize("name", GRID)
def test_the_scale_of_the_paper_has_the_cells_and_arms_of_its_grid(name):
    s, (cells, arms) = load(name, "paper"), GRID[name]
    assert {cell.name for cell in s.cells} == cells_of(cells)
    assert [arm.name for arm in s.arms] == arms.split()


SOURCES = {
    "base_4b": "Qwen/Qwen3-4B-Base",
    "base_8b": "Qwen/Qwen3-8B-Base",
    "aligned_4b": "Qwen/Qwen3-4B",
    "aligned_8b": "Qwen/Qwen3-8B",
    "aligned_llama3_8b": "meta-llama/Llama-3.1-8B-Instruct",
}
LENGTHS = {"short": 8192, "middle": 16384, "long": 20480}


@pytest.mark.parametrize("name", GRID)
def test_the_scale_of_the_paper_has_its_hyperparameters(name):
    """arXiv 2508.08221, sections 3 and A.1."""
    study = load(name, "paper")
    for cell in study.cells:
        model, tier, length = re.fullmatch(r"(.*)_(easy|medium|hard)_?(.*)", cell.name).groups()  # type: ignore[union-attr]
        for arm in study.arms:
            s = study.run_settings(cell.name, arm.name, 42)
            assert (s.seed, s.steps) == (42, 500)
            assert (s.model.source, s.data.source) == (SOURCES[model], f"jsonl:data/paper/{tier}.jsonl")
            assert (s.data.prompts_per_step, s.data.samples_per_prompt) == (128, 8)
            assert (s.data.max_prompt_tokens, s.sampling.max_tokens) == (1024, LENGTHS[length or "short"])
            assert s.training.tokens_per_pass >= 1024 + s.sampling.max_tokens
            assert (s.sampling.temperature, s.sampling.top_p, s.sampling.top_k) == (0.99, 0.99, 100)
            assert (s.optimizer.learning_rate, s.optimizer.warmup_steps, s.optimizer.weight_decay) == (1e-6, 50, 0.0)
            assert (s.training.epochs, s.training.mini_batches) == (1, 4)
            knobs = s.algorithm
            assert (knobs.clip_low, knobs.baseline == "critic", knobs.discount) == (0.2, False, 1.0)
            if not arm.tricks:
                assert (knobs.clip_high, knobs.baseline, knobs.scale, knobs.aggregation) == (
                    *(0.2, "group", "group"),
                    "sequence_mean",
                )
                assert (knobs.kl_placement, knobs.overlong_filter, knobs.whiten) == ("none", False, False)
            if not name.startswith("e02"):
                assert (s.reward.correct, s.reward.wrong, s.reward.verifier) == (1.0, 0.0, "math")


def test_an_update_of_an_arm_has_shapes_at_full_size_without_a_byte_of_weights():
    """One arm; those of Lite PPO, at five models: tests/test_model_configs.py."""
    has_shapes(load("e12", "paper").run_settings("base_4b_hard", "dapo", 42), model_of("qwen3_4b_base"))


@pytest.mark.parametrize("pair", [("zero_one", "minus_one_one"), ("none_zero_one", "none_minus_one_one")], ids=str)
def test_the_reward_scale_moves_no_bit_of_normalized_advantages_and_all_of_the_others(pair):
    """2r - 1 has the mean 2m - 1 and the std 2s, all exact in binary: A is r's, to the bit, without an epsilon."""
    study = load("e02", "lab")
    one, other = (study.run_settings("base_easy", arm, 0) for arm in pair)
    assert one.algorithm == other.algorithm
    for s in (one, other):  # an affine map of every reward
        assert (s.reward.correct, s.reward.unparseable, s.reward.timeout) == (1.0, s.reward.wrong, s.reward.wrong)
        assert s.reward.truncated is None

    @jax.jit
    def advantages_of(rewards):
        return algorithm.advantages(
            one.algorithm,
            rewards,
            prompt_id=jnp.repeat(jnp.arange(8), 8),
            mask=jnp.ones((64, 1), bool),
            truncated=jnp.zeros(64, bool),
        ).values[:, 0]

    right = np.random.default_rng(0).random(64) < np.repeat(np.linspace(0.1, 0.9, 8), 8)
    values = [np.asarray(advantages_of(jnp.where(right, 1.0, s.reward.wrong))) for s in (one, other)]
    if pair[0] == "zero_one":
        np.testing.assert_array_equal(values[0], values[1])
        assert values[0].std() > 0.9
    else:  # wrong answers had no gradient, and have one
        np.testing.assert_array_equal(values[0], right)
        np.testing.assert_array_equal(values[1], np.where(right, 1, -1))


# the takeaways


def test_there_are_eight_takeaways_whose_checks_are_comparisons_of_the_experiments():
    assert [takeaway.name for takeaway in TAKEAWAYS] == [f"takeaway {number}" for number in range(1, 9)]
    for takeaway in (*TAKEAWAYS, LITE_PPO):
        for check in takeaway.checks:
            for scale in ("paper", "lab"):
                s = load(check.experiment, scale)
                assert s.settings.name == check.experiment
                cells = [cell.name for cell in s.cells if check.is_about(cell.name)]
                assert (check.arm, check.reference) in s.comparisons
                assert cells or (scale, check.cells) == ("lab", "aligned_8b_medium"), (takeaway.name, check)


@pytest.mark.parametrize(
    ("expected", "agreements"),
    [
        ("helps", ("agrees", "disagrees", "no difference", "undecided")),
        ("hurts", ("disagrees", "agrees", "no difference", "undecided")),
        ("no_difference", ("disagrees", "disagrees", "agrees", "undecided")),
        ("no_gain", ("disagrees", "agrees", "agrees", "undecided")),
    ],
)
def test_a_verdict_agrees_where_it_is_the_paper_s(expected, agreements):
    verdicts = ("helps", "hurts", "no_difference", "undecided")
    assert tuple(takeaways.agreement(expected, verdict) for verdict in verdicts) == agreements


def test_the_table_sets_every_comparison_beside_the_paper_and_says_what_was_not_run():
    verdicts = {
        "base_medium": "helps",
        "base_hard": "undecided",
        "aligned_medium": "no_difference",
        "aligned_hard": "helps",
    }
    shown = takeaways.table([study("e09_aggregation", "token", "sequence", verdicts)])
    (seven,) = [line for line in shown.splitlines() if line.startswith("| takeaway 7 |")]
    assert seven.endswith("| 1 agrees, 1 disagrees, 1 no difference, 1 undecided |")
    for row in (
        "| E9 lab, base_medium | token against sequence | higher | +3.0 [+1.0, +5.0], helps, 16 seeds | agrees |",
        "| E9 lab, base_hard | token against sequence | higher | +1.0 [−2.0, +4.0], undecided, 16 seeds | undecided |",
        "| E9 lab, aligned_medium | token against sequence | lower | +0.2 [−0.8, +1.2], no difference, 16 seeds "
        "| no difference |",
        "| E9 lab, aligned_hard | token against sequence | lower | +3.0 [+1.0, +5.0], helps, 16 seeds | disagrees |",
        "| E4, `base*` | batch_std against group_std | higher |  | not run |",
    ):
        assert row in shown.splitlines(), row
    alike = study("e02_reward_scale", "minus_one_one", "zero_one", {"base_easy": "no_difference"})
    alike["cells"]["base_easy"]["comparisons"][0]["identical"] = True
    row = "| E2 lab, base_easy | minus_one_one against zero_one | higher | no difference: the same answers, 16 seeds "
    assert f"{row}| no difference |" in takeaways.table([alike]).splitlines()
    (five,) = [line for line in shown.splitlines() if line.startswith("| takeaway 5 |")]
    assert five.endswith("| not run: no comparison of accuracies can show it here |")


def test_the_page_of_results_is_what_the_summaries_beside_it_say():
    folder = ROOT / "docs" / "paper"
    assert (folder / "README.md").read_text() == takeaways.page(folder), (
        "python -m jaxrl_llm.study.takeaways docs/paper"
    )
