"""FLOPs by formula against the matrix products of the traced programs."""

from __future__ import annotations

import jax
import pytest

from jaxrl_llm import config, sharding
from jaxrl_llm.models.config import from_hf
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
]


def setting(recipe: str = "lite_ppo", *overrides: str) -> Settings:
    return config.parse(config.load(CONFIGS / f"{recipe}.py", [*SIZES, *overrides]))


def counted(name: str, settings: Settings, family: str = "qwen3") -> tuple[float, Work]:
    architecture = from_hf(CASES[family], family)
    mesh = make_mesh(MeshSettings(1, 1, 1, 1), jax.devices()[:1])
    work = work_of(settings, architecture, sharding.mesh_shape(settings.mesh, 1))
    abstract = Abstract(settings, architecture, mesh)
    trips = iter([steps for steps, _ in work.phases] if name == "rollout" else [])
    return product_flops(trace(name, abstract).jaxpr, trips), work


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_rollout_prefills_once_a_prompt_and_decodes_in_phases(family):
    found, work = counted("rollout", setting(), family)
    assert len(work.phases) == 3 and sum(steps for steps, _ in work.phases) == work.width - 1
    assert found == flops.rollout_flops(work)


@pytest.mark.parametrize("chunk", [1024, 24])
def test_scoring_is_a_forward_pass_with_filled_chunks(chunk):
    found, work = counted("score", setting("lite_ppo", f"training.score_chunk={chunk}"))
    assert (work.chunks > 1) == (chunk == 24)
    assert found == flops.score_flops(work)


@pytest.mark.parametrize("remat", ["none", "layer", "dots"])
@pytest.mark.parametrize("overrides", [[], ["training.micro_batch=2", "training.score_chunk=24"]])
def test_an_update_is_three_forward_passes_and_what_it_computes_again(remat, overrides):
    found, work = counted("update", setting("lite_ppo", f"model.remat={remat}", *overrides))
    assert found == flops.update_flops(work)


def test_a_policy_and_a_reference_are_scored_in_one_program_for_their_exact_kl():
    kl = ["algorithm.kl_placement=reward", "algorithm.kl_estimator=exact", "algorithm.kl_coefficient=0.1"]
    found, work = counted("score", setting("lite_ppo", *kl))
    assert (work.scores, work.score_passes) == (2, 2)
    assert found == flops.score_flops(work)


@pytest.mark.parametrize(("recipe", "scores"), [("grpo", 1), ("remax", 0), ("reinforce_pp", 1), ("topr", 0)])
def test_the_update_of_any_recipe_is_traced_with_the_arrays_that_it_asks_for(recipe, scores):
    found, work = counted("update", setting(recipe))
    assert (found, work.scores) == (flops.update_flops(work), scores)


def test_tokens_that_are_chosen_and_an_exact_kl_cost_forward_passes():
    chosen = ["algorithm.top_entropy_share=0.2", "training.micro_batch=2"]
    exact = ["algorithm.kl_placement=loss", "algorithm.kl_estimator=exact", "algorithm.kl_coefficient=0.1"]
    for overrides in (chosen, exact):
        found, work = counted("update", setting("lite_ppo", *overrides))
        assert work.choice or work.exact_kl
        assert found == flops.update_flops(work)


def test_useful_flops_leave_out_what_is_computed_again_or_fills_a_chunk():
    _, work = counted("score", setting("lite_ppo", "model.remat=layer", "training.score_chunk=24"))
    useful = flops.useful_flops(work)
    assert useful["rollout"] == flops.rollout_flops(work)
    assert useful["score"] < flops.score_flops(work)
    assert useful["update"] < flops.update_flops(work)
    assert 2 * useful["update"] == 3 * useful["score"]  # two updates see the rows that one scoring pass sees
