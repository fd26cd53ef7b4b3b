"""What theory says of the estimators, on a problem that is enumerated; the figures are those of docs/estimators.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm.algorithm import kl as kl_table
from jaxrl_llm.core import kl
from tests.oracles import estimators, exact
from tests.oracles.estimators import IN_LOSS, LOO, ONE, results
from tests.oracles.exact import POLICY, Estimator, Policy, moments

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "estimators.md"
UNBIASED = {
    "Baselines": [
        "baseline none",
        "baseline leave_one_out",
        "baseline greedy",
        "critic, right, λ = 1",
        "critic, right, λ = 0.5",
        "critic, wrong, λ = 1",
    ],
    "The best of a group": ["baseline pass_at_k"],
    "Scales, and what else moves an advantage": [],
    "Aggregations": ["aggregation sequence_sum"],
    "Filters": [],
    "Surrogates at ratio 1": [
        "surrogate reinforce",
        "surrogate ppo_clip",
        "surrogate cispo",
        "surrogate sapo",
        "surrogate gmpo",
        "surrogate kimi",
        "surrogate vespo",
        "surrogate dppo",
        "surrogate kl_cov",
        "surrogate topr, weights 1 and 1",
        "ratio sequence",
        "ratio sequence_token",
        "sequence_product, sequence_mean",
    ],
    "Another policy sampled": ["ppo, sequence_product, sequence_mean, no clip", "cispo, sequence_product, no clip"],
    "A gap between sampler and trainer": ["sequence, no bound"],
    "A KL in the loss": ["k2", "exact", "k1, importance", "k3, importance"],
    "A KL in the loss, another policy sampled": ["exact", "k1, importance", "k3, importance"],
    "A KL in the reward": ["k1 in the reward"],
}


@pytest.mark.parametrize("section", [section.title for section in estimators.SECTIONS])
def test_the_estimators_that_theory_calls_unbiased_are_so_and_no_others(section: str):
    exactly = [name for name, found in results()[section].items() if found.bias < 1e-9]
    assert exactly == [name for name in results()[section] if name in UNBIASED[section]]
    assert set(UNBIASED[section]) <= set(exactly)


def test_the_committed_page_is_what_the_library_expects_now():
    assert DOCUMENT.read_text() == estimators.page(), "run: python -m tests.oracles.estimators docs/estimators.md"


def test_the_targets_are_the_slopes_of_what_they_are_gradients_of():
    def differences(function) -> np.ndarray:
        point, step = POLICY.logits.ravel(), 1e-5
        slopes = [function(point + step * e) - function(point - step * e) for e in np.eye(point.size)]
        return np.array(slopes) / (2 * step)

    def reward(logits: np.ndarray) -> float:
        chance = Policy(logits.reshape(POLICY.logits.shape)).of_completions
        return float((chance * exact.REWARDS).sum() / exact.PROMPTS)

    def whole_kl(logits: np.ndarray) -> float:
        policy = Policy(logits.reshape(POLICY.logits.shape))
        return (
            float((policy.of_completions * (policy.of_tokens - exact.REFERENCE.of_tokens).sum(-1)).sum())
            / exact.PROMPTS
        )

    def best(logits: np.ndarray) -> float:
        chance = Policy(logits.reshape(POLICY.logits.shape)).of_completions
        pairs = [np.maximum(r[:, None], r[None, :]) for r in exact.REWARDS]
        return float(sum(c @ pair @ c for c, pair in zip(chance, pairs, strict=True))) / exact.PROMPTS

    np.testing.assert_allclose(exact.gradient_of_reward(), differences(reward), atol=1e-9)
    np.testing.assert_allclose(exact.gradient_of_whole_kl(), differences(whole_kl), atol=1e-9)
    np.testing.assert_allclose(exact.gradient_of_best(2), differences(best), atol=1e-9)


def test_the_group_mean_is_leave_one_out_times_one_less_than_the_samples_over_the_samples():
    group, others = (moments(Estimator("", {"baseline": name})) for name in ("group", "leave_one_out"))
    np.testing.assert_allclose(group.mean, others.mean * 2 / 3, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(group.variance, others.variance * 4 / 9, rtol=1e-9)
    batch = moments(Estimator("", {"baseline": "batch"}))
    np.testing.assert_allclose(batch.mean, others.mean * 5 / 6, rtol=1e-9, atol=1e-12)


def test_a_filter_of_equal_groups_changes_nothing_where_nothing_in_the_data_moves_the_denominator():
    plain, filtered = (
        moments(Estimator("", LOO | {"aggregation": "constant", "group_filter": name}))
        for name in ("none", "zero_variance")
    )
    np.testing.assert_allclose(filtered.mean, plain.mean, rtol=1e-12)
    np.testing.assert_allclose(filtered.variance, plain.variance, rtol=1e-12)


def test_k1_as_a_term_of_the_loss_moves_nothing_on_average_and_is_noise(monkeypatch):
    monkeypatch.setitem(kl_table.KL_ESTIMATORS, "k2", kl.k1)  # the knobs refuse k1 itself
    found = moments(Estimator("", IN_LOSS | {"kl_estimator": "k2"}, **ONE))
    np.testing.assert_allclose(found.mean, 0, atol=1e-12)
    assert found.variance > 0.1


@pytest.mark.parametrize("estimator", ["k2", "k3", "absolute", "exact"])
def test_a_kl_in_the_loss_pulls_to_the_reference(estimator: str):
    found = moments(Estimator("", IN_LOSS | {"kl_estimator": estimator}, **ONE))
    figures = exact.figures(found, -exact.gradient_of_kl())
    assert figures.cosine > 0.8 and figures.length > 0.5


def test_the_weight_of_the_whole_row_takes_the_gap_away():
    weighted = estimators.WEIGHTED | {"correction_level": "sequence"}
    found = moments(Estimator("", weighted, **estimators.GAP))
    np.testing.assert_allclose(found.mean, exact.gradient_of_reward(), rtol=1e-9, atol=1e-12)


def test_a_kl_in_the_reward_weighs_as_its_coefficient_says():
    placed = estimators.KL | {"kl_placement": "reward", "kl_estimator": "k1", "kl_coefficient": 0.25}
    found = moments(Estimator("", placed, **ONE))
    np.testing.assert_allclose(found.mean, -0.25 * exact.gradient_of_whole_kl(), rtol=1e-9, atol=1e-12)
