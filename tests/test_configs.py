"""Every file in configs/ loads, the recipes are what their papers say, and docs/recipes.md is what they are."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm import diff, explain, techniques
from jaxrl_llm.training.pretrain import PretrainSettings
from jaxrl_llm.training.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
STUDIES = [*(ROOT / "configs" / "paper").glob("*.py"), ROOT / "configs" / "studies" / "try.py"]  # tests/study has them
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py") if path not in STUDIES)
# Of `jaxrl-llm pretrain`.
PRETRAINED_HERE = tuple(f"configs/models/{name}.py" for name in ("tiny_base", "lab_base", "lab_aligned"))

NO_CLIP = {"clip_low": None, "clip_high": None}
REINFORCE = {"surrogate": "reinforce", **NO_CLIP}
GROUP = {"baseline": "group", "scale": "group"}
# Recipe -> every knob in which it differs from configs/base.py.
RECIPES: dict[str, dict[str, object]] = {
    "reinforce": REINFORCE,
    "rloo": {
        **REINFORCE,
        "baseline": "leave_one_out",
        "aggregation": "sequence_sum",
        "kl_placement": "reward",
        "kl_estimator": "k1",
        "kl_coefficient": 0.03,
    },
    "remax": {**REINFORCE, "baseline": "greedy", "aggregation": "sequence_sum"},
    "reinforce_pp": {"whiten": True, "kl_placement": "reward", "kl_estimator": "k1", "kl_coefficient": 0.001},
    "reinforce_pp_baseline": {
        "baseline": "group",
        "whiten": True,
        "kl_placement": "loss",
        "kl_estimator": "k2",
        "kl_coefficient": 0.001,
    },
    "grpo": {
        **GROUP,
        "aggregation": "sequence_mean",
        "kl_placement": "loss",
        "kl_estimator": "k3",
        "kl_coefficient": 0.04,
    },
    "dr_grpo": {"baseline": "group", "aggregation": "constant"},
    "dapo": {
        **GROUP,
        "clip_high": 0.28,
        "overlong_buffer": 9,
        "overlong_penalty": 1.0,
        "group_filter": "zero_variance",
        "resample_rounds": 10,
    },
    "lite_ppo": {"baseline": "group", "scale": "batch"},
    "gspo": {**GROUP, "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "sequence_mean"},
    "cispo": {**GROUP, "surrogate": "cispo", "clip_low": 1.0, "clip_high": 4.0},
    "sapo": {
        **GROUP,
        **NO_CLIP,
        "surrogate": "sapo",
        "sapo_temperature_positive": 1.0,
        "sapo_temperature_negative": 1.05,
        "aggregation": "sequence_mean",
    },
    "gmpo": {**GROUP, "surrogate": "gmpo", "clip_low": 0.4, "clip_high": 0.4, "aggregation": "sequence_mean"},
    "topr": {
        **NO_CLIP,
        "surrogate": "topr",
        "ratio": "sequence_product",
        "topr_weight_positive": 1.0,
        "topr_weight_negative": 1.0,
        "aggregation": "sequence_sum",
    },
    "opo": {**REINFORCE, "baseline": "length_weighted", "aggregation": "sequence_sum"},
    "gpg": {**REINFORCE, "baseline": "group", "scale": "nonzero_share"},
    "ppo": {
        "baseline": "critic",
        "gae_lambda": 0.95,
        "gae_lambda_returns": 0.95,
        "critic_learning_rate": 1e-4,
        "critic_warmup": 0,
        "value_clip": 0.2,
        "whiten": True,
    },
    "vapo": {
        "baseline": "critic",
        "gae_length_alpha": 0.05,
        "gae_lambda_returns": 1.0,
        "critic_learning_rate": 1e-4,
        "critic_warmup": 10,
        "clip_high": 0.28,
        "positive_nll_coefficient": 0.1,
    },
}
SHIPPED_RUNS = ("gsm8k", "quickstart", "quickstart_real")


def settings(name: str) -> Settings:
    return configs.parse(configs.load(ROOT / "configs" / f"{name}.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_config_loads_and_has_a_header(path):
    assert ast.get_docstring(ast.parse((ROOT / path).read_text())), f"{path} has no docstring"
    section = PretrainSettings if str(path) in PRETRAINED_HERE else Settings
    parsed = configs.parse(configs.load(ROOT / path, (), section), section)
    if isinstance(parsed, Settings):
        configs.check(parsed, devices=1)
        assert "Token loss" in dict(explain.rows(parsed))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_header_names_a_command_that_runs_this_file(path):
    header = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    if path.stem in ("base", "paper"):  # what the others start from
        assert "Command:" not in header
    else:
        assert f"--config {path}" in header
        assert "Hardware:" in header


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_under_25_lines_with_source_and_expectation(name):
    lines = (ROOT / "configs" / f"{name}.py").read_text().splitlines()
    assert len(lines) < 25
    for part in ("Source:", "Command:", "Hardware:", "Expected:"):
        assert any(part in line for line in lines), part


def test_no_two_configs_write_to_the_same_folder():
    folders = [settings(str(path.relative_to("configs").with_suffix(""))).run_dir for path in FILES if is_run(path)]
    assert len(set(folders)) == len(folders)


def is_run(path: Path) -> bool:
    return str(path) not in PRETRAINED_HERE and path.stem != "paper"


def test_every_config_beside_the_base_and_the_shipped_runs_is_a_recipe():
    names = {path.stem for path in FILES if path.parent.name == "configs"}
    assert names - {"base", *SHIPPED_RUNS} == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_its_paper_says_and_nothing_else(name):
    base, algorithm = dataclasses.asdict(settings("base").algorithm), dataclasses.asdict(settings(name).algorithm)
    assert {knob: value for knob, value in algorithm.items() if value != base[knob]} == RECIPES[name]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_with_a_ratio_takes_several_steps_a_rollout_so_that_it_is_not_one(name):
    s = settings(name)
    assert (s.training.epochs * s.training.mini_batches > 1) == (s.algorithm.surrogate != "reinforce")


@pytest.mark.parametrize("name", RECIPES)
def test_no_two_recipes_have_the_same_objective(name):
    for other in RECIPES.keys() - {name}:
        assert settings(other).algorithm != settings(name).algorithm, other


@pytest.mark.parametrize("name", ["quickstart", "quickstart_real", "gsm8k", "models/paper"])
def test_the_shipped_runs_are_lite_ppo(name):
    assert settings(name).algorithm == settings("lite_ppo").algorithm


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("qwen3_4b_base", "Qwen/Qwen3-4B-Base"),
        ("qwen3_8b_base", "Qwen/Qwen3-8B-Base"),
        ("qwen3_4b", "Qwen/Qwen3-4B"),
        ("qwen3_8b", "Qwen/Qwen3-8B"),
        ("llama3_8b", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_the_models_of_the_study_have_its_hyperparameters(name, source):
    s = settings(f"models/{name}")
    assert s.model.source == source
    assert (s.data.prompts_per_step, s.data.samples_per_prompt, s.data.max_prompt_tokens) == (128, 8, 1024)
    assert (s.sampling.max_tokens, s.sampling.temperature) == (8192, 0.99)
    assert (s.sampling.top_p, s.sampling.top_k) == (0.99, 100)
    assert (s.optimizer.learning_rate, s.optimizer.warmup_steps, s.optimizer.weight_decay) == (1e-6, 50, 0.0)
    assert (s.optimizer.clip_norm, s.training.epochs) == (1.0, 1)
    assert s.data.template == "chat"
    assert s.data.system == r"Please reason step by step, and put your final answer within \boxed{}."
    assert (s.reward.correct, s.reward.wrong, s.reward.verifier, s.reward.answer_format) == (1.0, 0.0, "math", "boxed")


# docs/recipes.md

COLUMNS = {
    "advantage": ("Baseline", "Scale, discount, whitening", "Critic"),
    "policy loss": ("Policy loss", "Ratio, clips and token masks", "Sampler and trainer"),
    "KL, entropy": ("KL and entropy",),
    "what counts": ("Aggregation and filters",),
    "beside": ("Rewards",),
}


def table() -> str:
    """The recipes, one a row, with every key in which they differ from the base."""
    column_of = {record.knob: column for column, families in COLUMNS.items()
                 for family in families for record in techniques.FAMILIES[family]}  # fmt: skip
    lines = ["| recipe | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in RECIPES:
        cells: dict[str, list[str]] = {column: [] for column in COLUMNS}
        for difference in diff.differences(settings("base"), settings(name)):
            section, _, key = difference.path.rpartition(".")
            shown = f"{difference.path if section != 'algorithm' else key} {difference.values[1]}"
            cells[column_of[key] if section == "algorithm" else "beside"].append(shown)
        lines.append(f"| `{name}` | " + " | ".join(", ".join(cell) for cell in cells.values()) + " |")
    return "\n".join(lines)


def headers() -> str:
    """Of each recipe what it is, its source, and where others differ, as its file says."""
    parts = []
    for name in RECIPES:
        text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text())) or ""
        title, _, rest = text.partition("\n\n")
        words = " ".join(rest.partition("Command:")[0].split())
        source, _, differs = words.partition(" Differs: ")
        lines = [f"**`{name}`** {title}", source]
        parts.append("  \n".join([*lines, *([f"Differs: {differs}"] if differs else [])]))
    return "\n\n".join(parts)


@pytest.mark.parametrize("generated", [table, headers])
def test_the_page_of_recipes_is_what_the_files_say(generated):
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert generated() in page, f"docs/recipes.md should hold:\n{generated()}"


def test_the_page_of_recipes_names_no_recipe_that_does_not_exist():
    rows = [line for line in (ROOT / "docs" / "recipes.md").read_text().splitlines() if line.startswith("| `")]
    assert {line.split("`")[1] for line in rows} == RECIPES.keys()


def further_algorithms() -> list[tuple[str, list[str]]]:
    """(recipe, overrides) of each row of the table."""
    section = (ROOT / "docs" / "recipes.md").read_text().partition("## Further algorithms")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([^`]+)`", line) for line in section.splitlines() if line.startswith("| ")]
    return [(recipe, [f"algorithm.{change}" for change in changes.split()]) for recipe, changes in rows[1:]]


@pytest.mark.parametrize(("recipe", "overrides"), further_algorithms(), ids=str)
def test_every_further_algorithm_of_the_page_parses_and_has_an_objective_of_its_own(recipe, overrides):
    changed = diff.read(ROOT / "configs" / f"{recipe}.py", overrides)
    paths = [difference.path for difference in diff.differences(settings(recipe), changed)]
    assert sorted(paths) == sorted(override.partition("=")[0] for override in overrides)
    assert explain.rows(changed) != explain.rows(settings(recipe))
