"""The table of techniques is whole, its pages are what it generates, and its numbers can be computed again."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm import techniques
from jaxrl_llm.knobs import Algorithm, levels
from jaxrl_llm.techniques.__main__ import main
from jaxrl_llm.techniques.pages import defaults, pages

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "configs" / "base.py"
KNOBS = {field.name for field in dataclasses.fields(Algorithm)}


def test_every_knob_and_level_has_a_record_and_no_record_is_of_another():
    expected = {(knob, level) for knob in KNOBS for level in (None, *levels(knob))}
    assert techniques.TABLE.keys() == expected


def test_the_templates_name_knobs_and_what_follows_from_them_alone():
    for record in techniques.TABLE.values():
        assert techniques.names(record.formula + record.meaning) <= KNOBS | techniques.DERIVED.keys(), record.title


def test_every_record_has_a_title_a_formula_and_a_meaning_and_every_knob_a_unit():
    for record in techniques.TABLE.values():
        assert record.title
        assert record.formula
        assert record.meaning
        assert not record.meaning.endswith("."), record.meaning  # a sentence goes on after it
        assert record.unit or record.level, record.knob
        assert record.counts is None or record.level is None


def test_the_committed_pages_are_those_that_the_table_generates():
    folder = ROOT / "docs" / "techniques"
    committed = {path.name: path.read_text() for path in folder.iterdir()}
    assert committed == pages(BASE), "python -m jaxrl_llm.techniques docs/techniques"


def test_the_program_writes_the_pages_into_the_folder_it_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["techniques", str(tmp_path / "new" / "pages")])
    main()
    assert {path.name: path.read_text() for path in (tmp_path / "new" / "pages").iterdir()} == pages(BASE)
    assert f"{len(pages(BASE))} pages" in capsys.readouterr().out


def test_every_row_of_a_table_has_as_many_cells_as_its_head():
    for name, text in pages(BASE).items():
        for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            cells = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
            assert len(cells) == 1, f"{name}: {block}"


def test_defaults_are_read_from_the_base_config():
    from configs.base import get_config

    read = defaults(BASE)
    values = get_config().to_dict()["algorithm"]
    assert {knob: repr(value) for knob, value in values.items()} == {
        knob: repr(float(text)) if isinstance(values[knob], float) else text for knob, text in read.items()
    }


def test_a_knob_without_a_default_and_a_template_without_a_value_are_errors(tmp_path):
    (tmp_path / "base.py").write_text("c.algorithm.scale = 'none'\n")
    with pytest.raises(ValueError, match="sets no algorithm"):
        pages(tmp_path / "base.py")
    with pytest.raises(ValueError, match="no value for clip_low"):
        techniques.fill("{clip_low}", {})
    with pytest.raises(ValueError, match=r"algorithm\.scale, level grup"):
        techniques.get("scale", "grup")


def emitted() -> set[str]:
    """Knobs with an "effect/<knob>" in the sources; those of rewards.py are named in its list of columns."""
    folders = (ROOT / "jaxrl_llm" / "algorithm", ROOT / "jaxrl_llm" / "training")
    text = "\n".join(path.read_text() for folder in folders for path in sorted(folder.rglob("*.py")))
    return set(re.findall(r'"effect/(\w+)"', text)) | set(re.findall(r'columns\.append\(\s*\("(\w+)"', text))


def test_every_effect_metric_that_a_record_names_is_emitted_and_the_reverse():
    counted = {record.knob for record in techniques.TABLE.values() if record.counts}
    assert counted == emitted()


# What follows is the arithmetic behind the numbers that the records state.


def text_of(knob: str, level: str | None = None) -> str:
    record = techniques.get(knob, level)
    return " ".join((record.study, *record.peers, *record.defects, record.trap))


def slope(function, at: float, step: float = 1e-6) -> float:
    return (function(at + step) - function(at - step)) / (2 * step)


def clip(x, low, high):
    return np.minimum(np.maximum(x, low), high)


@pytest.mark.parametrize(("ratio", "ppo", "inverted"), [(0.5, 0, 1), (1.5, 1, 0)])
def test_easydels_clip_of_a_bad_token_is_the_wrong_way_round(ratio, ppo, inverted):
    advantage = -1.0
    assert slope(lambda r: -min(r * advantage, clip(r, 0.8, 1.2) * advantage), ratio) == pytest.approx(ppo)
    assert slope(lambda r: -advantage * min(r, clip(r, 0.8, 1.2)), ratio) == pytest.approx(inverted)
    assert f"ρ = {ratio}" in text_of("surrogate", "ppo_clip")


@pytest.mark.parametrize(("logprob", "leaking"), [(-2.0, 1.0), (-1.0, 0.0), (-0.5, -0.5)])
def test_cispo_with_a_gradient_through_its_weight_pushes_rare_good_tokens_down(logprob, leaking):
    assert slope(lambda new: -np.exp(new - logprob) * new, logprob) == pytest.approx(leaking, abs=1e-8)
    assert slope(lambda new: -1.0 * new, logprob) == pytest.approx(-1)  # the weight held fixed
    assert "log π = −2 it is +1" in text_of("surrogate", "cispo")


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def expected_gradients() -> dict[str, np.ndarray]:
    """E over sampled tokens of ∇ of each estimate used as a loss, by the 16 logits of π, and the KL's own gradient."""
    rng = np.random.default_rng(0)
    policy, reference = softmax(rng.normal(size=16)), softmax(rng.normal(size=16))
    x = np.log(policy / reference)
    score = np.eye(16) - policy  # row v: ∇ log π(v) by the logits
    true = policy * (x - policy @ x)
    return {
        "true": true,
        "k1": policy @ score,
        "k2": policy @ (x[:, None] * score),
        "k3": policy @ ((1 - np.exp(-x))[:, None] * score),
    }


def test_the_gradient_of_k1_is_zero_on_average_that_of_k2_is_right_and_that_of_k3_is_not():
    gradient = expected_gradients()
    true = gradient["true"]
    np.testing.assert_allclose(gradient["k1"], 0, atol=1e-15)  # sums of 16 numbers below 1
    np.testing.assert_allclose(gradient["k2"], true, atol=1e-15)
    off = np.linalg.norm(gradient["k3"] - true) / np.linalg.norm(true)
    cosine = gradient["k3"] @ true / np.linalg.norm(gradient["k3"]) / np.linalg.norm(true)
    assert f"off by {off:.0%}".replace("%", " percent") in text_of("kl_estimator", "k3")
    assert f"cosine of {cosine:.2f}" in text_of("kl_estimator", "k3")


def test_a_reward_in_a_buffer_of_integers_is_cut_to_zero():
    buffer = np.zeros(2, np.int32)
    buffer[:] = [0.9, -0.5]
    assert buffer.tolist() == [0, 0]
    assert "0.9 and −0.5 both become 0" in text_of("baseline", "critic")


def test_an_overlong_penalty_in_characters_is_seven_times_its_size():
    assert min(0.0, -(34 - (10 - 4)) / 4) == -7
    assert "34 characters" in text_of("overlong_buffer")
    assert "−7" in text_of("overlong_buffer")


def test_a_mean_of_means_and_a_second_division_by_the_batch_are_other_losses():
    short, long = np.ones(1), np.zeros(9)
    assert np.concatenate([short, long]).mean() == 0.1
    assert np.mean([short.mean(), long.mean()]) == 0.5
    assert 1 / 8 == 0.125
    for part in ("0.1 as one batch, 0.5 as the mean of two", "0.125"):
        assert part in text_of("aggregation", "token_mean")


def test_truncated_tokens_left_in_the_denominator_shrink_the_loss():
    assert np.ones(10).sum() / (10 + 30) == 0.25
    assert "gave 0.25" in text_of("overlong_filter")


def test_a_filter_that_reads_the_batchs_std_drops_no_group():
    groups = np.array([[1.0, 1.0], [0.0, 0.0]])
    assert groups.std(ddof=1) == pytest.approx(0.577, abs=5e-4)
    assert (groups.std(axis=1) == 0).sum() == 2
    assert "0.577, and 0 of 2 are dropped" in text_of("group_filter", "zero_variance")


def test_a_filter_by_the_mean_keeps_a_group_without_spread():
    group = np.full(4, 0.5)
    assert 0 < group.mean() < 1
    assert group.std() == 0
    assert "four rewards of 0.5" in text_of("group_filter", "zero_variance")


def test_a_dual_clip_tied_to_the_clip_stops_bad_tokens_that_a_bound_of_three_does_not():
    tied = 1 + 2 * 0.2
    assert f"{tied:g} at a clip of 0.2" in text_of("dual_clip")
    assert slope(lambda r: min(max(r, clip(r, 0.8, 1.2)), tied), 1.5) == pytest.approx(0)  # A = -1
    assert slope(lambda r: min(max(r, clip(r, 0.8, 1.2)), 3), 1.5) == pytest.approx(1)


def test_the_group_stds_of_eight_samples_are_those_stated():
    def advantages(right: int) -> np.ndarray:
        rewards = np.array([1.0] * right + [0.0] * (8 - right))
        return (rewards - rewards.mean()) / rewards.std(ddof=1)

    one, half = advantages(1), advantages(4)
    for number in (one[0], half[0]):
        assert f"{number:.3f}" in text_of("scale", "group")
    assert f"−{-one[-1]:.3f}" in text_of("scale", "group")
    assert one[0] > 2  # what ROLL's advantage clip takes
    assert np.sqrt(2) == pytest.approx(np.std([0, 1], ddof=1) / np.std([0, 1]))


def test_the_two_readings_of_mixed_normalization_are_those_stated():
    rewards = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], float)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    raw, of_centred = rewards.std(ddof=1), np.sqrt((centred**2).sum() / (rewards.size - 1))
    assert f"{centred[0, 0] / of_centred:.3f} against {centred[0, 0] / raw:.3f}" in text_of("scale", "batch_centered")


def test_normalized_advantages_do_not_know_the_scale_of_the_reward():
    rewards = np.random.default_rng(0).integers(0, 2, (16, 8)).astype(float)

    def normalized(r: np.ndarray) -> list[np.ndarray]:
        group = r - r.mean(axis=1, keepdims=True)
        spread = r.std(axis=1, keepdims=True)
        return [
            (r - r.mean()) / r.std(ddof=1),
            group / r.std(ddof=1),
            np.divide(group, spread, out=np.zeros_like(r), where=spread > 0),
        ]

    for here, there in zip(normalized(rewards), normalized(2 * rewards - 1), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-14)
    assert "invariant to affine maps" in text_of("baseline", "batch")


def test_whitening_undoes_a_batchs_std():
    advantages = np.random.default_rng(0).normal(size=50)

    def whiten(x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / x.std(ddof=1)

    np.testing.assert_allclose(whiten(advantages / 0.37), whiten(advantages), atol=1e-14)


def test_gpgs_factor_depends_on_which_rows_are_counted():
    groups = np.array([[1.0, 0.0], [1.0, 1.0]])
    in_paper = groups.size / (2 * (groups.std(axis=1) > 0).sum())
    in_verl = groups.size / np.count_nonzero(groups)
    assert f"4 / 2 = {in_paper:g} against 4 / 3 = {in_verl:.3f}" in text_of("scale", "nonzero_share")


def test_the_remaining_numbers_are_what_the_formulas_give():
    def gate(ratio: float) -> float:
        return slope(lambda r: 4 / (1 + np.exp(-(r - 1))), ratio)

    assert f"{gate(2) / gate(1):.2f}" in text_of("surrogate", "sapo")
    assert f"{np.exp(1000 * 0.01):.0f}" in text_of("surrogate", "vespo")
    assert f"between {np.exp(-0.4):.2f} and {np.exp(0.4):.2f}" in text_of("surrogate", "gmpo")
    assert f"{8 / 7:.3f} at 8 samples" in text_of("baseline", "leave_one_out")
    assert f"{0.95**100:.3f}" in text_of("gae_lambda")
    assert f"{0.99**1000:.0e}".replace("e-0", "e-") in text_of("discount")
