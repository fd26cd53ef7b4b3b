"""FLOPs by formula against the matrix products of the traced programs."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from jaxrl_llm import config
from jaxrl_llm.models.config import from_hf
from jaxrl_llm.models.decoder import REMAT_POLICIES
from jaxrl_llm.planning import flops
from jaxrl_llm.planning.programs import Abstract, trace
from jaxrl_llm.planning.work import Work, work_of
from jaxrl_llm.sharding import MeshSettings, make_mesh
from jaxrl_llm.training.settings import Settings
from tests.models.tiny import CASES
from tests.planning.counting import product_flops
from tests.policies import CONFIGS

SIZES = [
    "data.prompts_per_step=4",
    "data.samples_per_prompt=2",
    "data.max_prompt_tokens=6",
    "sampling.max_tokens=70",
    "training.mini_batches=2",
    "training.tokens_per_pass=4096",
    "training.score_chunk=1024",
]


def setting(recipe: str = "lite_ppo", *overrides: str) -> Settings:
    return config.parse(config.load(CONFIGS / f"{recipe}.py", [*SIZES, *overrides]))


def counted(name: str, settings: Settings, family: str = "qwen3", **changes: object) -> tuple[float, Work]:
    architecture = from_hf(CASES[family] | changes, family)
    mesh = make_mesh(MeshSettings(1, 1, 1, 1), jax.devices()[:1])
    abstract = Abstract(settings, architecture, mesh)
    trips = iter([steps for steps, _ in abstract.work.phases] if name == "rollout" else [])
    return product_flops(trace(name, abstract).jaxpr, trips), abstract.work


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_rollout_prefills_once_a_prompt_and_decodes_in_phases(family):
    found, work = counted("rollout", setting(), family)
    assert len(work.phases) == 3 and sum(steps for steps, _ in work.phases) == work.width - 1
    assert found == flops.rollout_flops(work)


@pytest.mark.parametrize(
    ("mesh", "prefills", "rows"),
    [
        ((1, 4, 2, 1), 1, 1),
        ((1, 2, 1, 2), 1, 1),
        ((1, 2, 1, 4), 2, 1),  # 4 prompts with 2 rows each: a row a device, and its prompt
        ((1, 2, 1, 3), 3, 3),  # the 3 devices along sequence do the same
        ((1, 3, 2, 1), 3, 3),
    ],
)
def test_a_rollout_counts_what_several_devices_compute(mesh, prefills, rows):
    work = work_of(setting(), from_hf(CASES["qwen3"], "qwen3"), mesh, platform="cpu")
    useful = flops.sampling_flops(work, work.prompts, work.rows)
    assert flops.useful_flops(work)["rollout"] == useful
    assert flops.rollout_flops(work) == flops.sampling_flops(work, prefills * work.prompts, rows * work.rows) >= useful


@pytest.mark.parametrize("chunk", [1024, 24])
def test_scoring_is_a_forward_pass_with_filled_chunks(chunk):
    found, work = counted("score", setting("lite_ppo", f"training.score_chunk={chunk}"))
    assert (work.chunks("score").count > 1) == (chunk == 24)
    assert found == flops.score_flops(work)


@pytest.mark.parametrize("remat", REMAT_POLICIES)
@pytest.mark.parametrize("overrides", [[], ["training.tokens_per_pass=80", "training.score_chunk=24"]])
def test_an_update_is_three_forward_passes_and_what_it_computes_again(remat, overrides):
    found, work = counted("update", setting("lite_ppo", f"model.remat={remat}", *overrides))
    assert (work.update.count > 1) == bool(overrides)
    assert found == flops.update_flops(work)


LORA = ["lora.rank=3", "lora.alpha=6", "lora.targets=all-linear", "lora.rank_stabilized=False"]


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_an_update_of_an_adapter_computes_no_gradient_of_a_weight(remat):
    found, work = counted("update", setting("lite_ppo", f"model.remat={remat}", *LORA))
    # what "mlp" and "layer" compute again of the adapter's thin products is counted as all of them
    assert found == pytest.approx(flops.update_flops(work), rel=0 if remat in ("none", "dots") else 0.02)
    assert flops.useful_flops(work)["update"] < found < flops.update_flops(dataclasses.replace(work, lora=None))


def test_scoring_with_an_adapter_adds_its_two_products():
    found, work = counted("score", setting("lite_ppo", *LORA))
    assert found == flops.score_flops(work) > flops.score_flops(dataclasses.replace(work, lora=None))


@pytest.mark.parametrize("remat", REMAT_POLICIES)
def test_experts_count_as_often_as_they_are_chosen(remat):
    found, work = counted("update", setting("lite_ppo", f"model.remat={remat}"), "qwen3_moe")
    assert (work.config.active_mlp_width, work.config.mlp_width) == (3 * 24, 24)
    assert found == flops.update_flops(work)


def test_lanes_share_a_prompt_and_attend_to_blocks():
    """Two lanes of 150 columns behind 6: blocks of queries end at columns 128 and 150."""
    wide = ["sampling.max_tokens=150", "data.prompts_per_step=2", "training.mini_batches=1"]
    found, work = counted("update", setting("lite_ppo", *wide))
    assert (work.update.packing.prompt, work.update.packing.lanes, work.update.lane) == (6, 2, 150)
    assert flops.computed_pairs(work.update) == 6 * 6 + 2 * (128 * 128 + 22 * 150 + 150 * 6)
    assert found == flops.update_flops(work)


def test_logits_that_are_not_kept_are_computed_again(monkeypatch):
    monkeypatch.setattr("jaxrl_llm.training.chunks.KEPT_LOGITS", 0)
    found, work = counted("update", setting("lite_ppo", "training.score_chunk=23"))
    assert not work.chunks("update").kept
    assert found == flops.update_flops(work)


@pytest.mark.parametrize("program", ["score", "update"])
def test_blocks_of_the_vocabulary_count_with_the_entries_that_the_last_one_has_again(program, monkeypatch):
    monkeypatch.setattr("jaxrl_llm.training.chunks.KEPT_LOGITS", 0)
    found, work = counted(program, setting("lite_ppo", "training.score_chunk=90"), vocab_size=1000)
    chunks = work.chunks(program)
    assert chunks.entries < 1000 < chunks.count * chunks.entries
    assert found == getattr(flops, f"{program}_flops")(work)


def test_a_policy_and_a_reference_are_scored_in_one_program_for_their_exact_kl():
    kl = ["algorithm.kl_placement=reward", "algorithm.kl_estimator=exact", "algorithm.kl_coefficient=0.1"]
    found, work = counted("score", setting("lite_ppo", *kl))
    assert (work.scores, work.score_passes) == (2, 2)
    assert found == flops.score_flops(work)


@pytest.mark.parametrize(("recipe", "scores"), [("grpo", 1), ("remax", 0), ("reinforce_pp", 1), ("topr", 0)])
def test_the_update_of_any_recipe_is_traced_with_the_arrays_that_it_asks_for(recipe, scores):
    found, work = counted("update", setting(recipe))
    assert (found, work.scores) == (flops.update_flops(work), scores)


def test_an_exact_kl_costs_a_forward_pass():
    exact = ["algorithm.kl_placement=loss", "algorithm.kl_estimator=exact", "algorithm.kl_coefficient=0.1"]
    found, work = counted("update", setting("lite_ppo", *exact))
    assert work.exact_kl
    assert found == flops.update_flops(work)


def test_tokens_that_are_chosen_among_all_passes_are_scored_once_more():
    chosen = ["algorithm.top_entropy_share=0.2", "training.tokens_per_pass=80"]
    of = work_of(setting("lite_ppo", *chosen), from_hf(CASES["qwen3"], "qwen3"), (1, 1, 1, 1), platform="cpu")
    assert of.before == 1 and of.update.count > 1
    assert of.runs("score") == of.runs("update") == of.updates * of.update.count


def test_experts_that_are_balanced_are_counted_before_and_the_gradient_is_traced_with_what_was_found():
    balanced = setting("lite_ppo", "training.balancing_coefficient=0.1", "training.tokens_per_pass=80")
    found, work = counted("update", balanced, "qwen3_moe")
    assert (work.before, found) == (1, flops.update_flops(work)) and work.update.count > 1
    with pytest.raises(ValueError, match=r"training\.balancing_coefficient = 0\.1 .* qwen3, which has no experts"):
        work_of(balanced, from_hf(CASES["qwen3"], "qwen3"), (1, 1, 1, 1), platform="cpu")


def test_the_optimizer_has_no_products():
    found, _ = counted("apply", setting())
    assert found == 0


def test_useful_flops_leave_out_what_is_computed_again_or_fills_a_row():
    _, work = counted("score", setting("lite_ppo", "model.remat=layer", "training.score_chunk=24"))
    useful = flops.useful_flops(work)
    assert useful["rollout"] == flops.rollout_flops(work)
    assert useful["score"] < flops.score_flops(work)
    assert useful["update"] < flops.update_flops(work)
    # Two updates see the rows that one scoring of all rows sees.
    score, update = (work.passes(name).count * useful[name] for name in ("score", "update"))
    assert 2 * update == pytest.approx(3 * score, rel=1e-12)


def test_useful_pairs_are_those_that_see_each_other_with_a_prompt_counted_once_a_group():
    """By brute force: a group of two completions of 70 behind a prompt of 6."""
    _, work = counted("score", setting())
    c, groups = work.config, work.prompts
    prompt = sum(1 for query in range(6) for key in range(query + 1))
    completion = sum(1 for query in range(6, 76) for key in range(query + 1))
    tokens, pairs = groups * (6 + 2 * 70), groups * (prompt + 2 * completion)
    expected = c.layers * flops.layer_flops(c, tokens, pairs) + flops.head_flops(c, groups * 2 * 70)
    assert work.score.count * flops.useful_forward_flops(work, work.score) == pytest.approx(expected, rel=1e-12)


def test_a_kernel_computes_the_scores_again_in_its_backward_pass():
    """Three more products a layer than XLA's backward pass, on TPU, of the pairs of one pass."""
    _, work = counted("update", setting())
    c, of = work.config, work.update
    more = flops.update_flops(dataclasses.replace(work, attention="splash")) - flops.update_flops(work)
    pairs = of.rows * flops.computed_pairs(of)
    assert more == pytest.approx(3 * c.layers * flops.product_flops(c, pairs), rel=1e-12)
