"""Advice: a recipe that runs for every situation, evidence that is found and counted, and mistakes that are told."""

from __future__ import annotations

import itertools

import pytest
from ml_collections import ConfigDict

from jaxrl_llm import cli
from jaxrl_llm import config as configs
from jaxrl_llm.study import takeaways
from jaxrl_llm.study.advise import EVIDENCE, Advice, advise, changes, strength, text
from jaxrl_llm.study.paper import LITE_PPO
from jaxrl_llm.study.rules import MODEL_KINDS, RULES, TIERS, Situation
from jaxrl_llm.study.tricks import set_values
from tests.study.evidence import ROOT, study

SIZES = (None, 4.0, 8.0)
LENGTHS = (512, 8192, 20480)
SITUATIONS = [Situation(*values) for values in itertools.product(MODEL_KINDS, TIERS, LENGTHS, SIZES)]


def of(rule: str, situation: Situation, *summaries: dict) -> Advice:
    (advice,) = [advice for advice in advise(situation, summaries) if advice.rule == rule]
    return advice


def test_the_advice_for_every_situation_is_a_config_that_passes_every_check_and_every_choice_is_given_somewhere():
    base, given, parsed = configs.load(ROOT / "configs" / "base.py").to_dict(), [], {}
    for situation in SITUATIONS:
        advices = advise(situation, [])
        given += [advice.choice for advice in advices]
        values = changes(situation, advices)
        parsed.setdefault(tuple(values.items()), configs.parse(ConfigDict(set_values(base, values))))
        assert [advice.rule for advice in advices] == list(RULES)
        assert all(advice.strength == advice.choice.strength and not advice.ours for advice in advices)
    for settings in parsed.values():
        configs.check(settings, devices=None)
    assert all(choice in given for choices in RULES.values() for choice in choices)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        # the paper's guideline: Lite PPO and the symmetric clip for base models
        (Situation("base", "hard", 20480, 8), ("batch", "token_mean", 0.2, False)),
        (Situation("base", "easy", 8192, 4), ("batch", "token_mean", 0.2, True)),
        (Situation("aligned", "medium", 8192, 4), ("batch", "sequence_mean", 0.32, True)),
        (Situation("aligned", "medium", 20480, 8), ("batch", "sequence_mean", 0.28, False)),
        (Situation("aligned", "medium", 8193), ("batch", "sequence_mean", 0.28, False)),
    ],
    ids=str,
)
def test_without_studies_of_ours_the_recipe_is_the_paper_s(situation, expected):
    values = changes(situation, advise(situation, []))
    knobs = ("scale", "aggregation", "clip_high", "overlong_filter")
    assert tuple(values[f"algorithm.{knob}"] for knob in knobs) == expected
    assert values["algorithm.baseline"] == "group"
    assert values["sampling.max_tokens"] == situation.max_length


AGGREGATION = "Aggregation"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({}, "moderate"),
        ({"base_medium": "undecided", "base_hard": "undecided"}, "moderate"),
        ({"base_medium": "helps", "base_hard": "undecided"}, "strong"),
        ({"base_medium": "helps", "base_hard": "no_difference"}, "moderate"),
        ({"base_medium": "no_difference", "base_hard": "undecided"}, "weak"),
        ({"base_medium": "helps", "base_hard": "hurts"}, "contradictory"),
        ({"aligned_medium": "helps"}, "moderate"),  # of another kind of model
    ],
    ids=str,
)
def test_our_verdicts_on_models_of_that_kind_make_advice_stronger_or_weaker(verdicts, expected):
    ours = study("e09_aggregation", "token", "sequence", verdicts)
    assert of(AGGREGATION, Situation("base", "easy", 8192), ours).strength == expected


def test_what_follows_from_a_formula_is_strong_until_a_verdict_contradicts_it():
    (choice,) = RULES["Scale of the reward"]
    for verdict, expected in (("undecided", "strong"), ("no_difference", "strong"), ("helps", "contradictory")):
        ours = study("e02_reward_scale", "minus_one_one", "zero_one", {"base_easy": verdict})
        assert strength(choice, takeaways.findings(choice.checks[0], [ours])) == expected


def test_findings_on_the_tier_and_length_that_was_asked_for_stand_alone_where_there_are_some():
    ours = study("e09_aggregation", "token", "sequence", {"base_medium": "helps", "base_hard": "hurts"})
    cells = {tier: [f.cell for f in of(AGGREGATION, Situation("base", tier, 8192), ours).ours] for tier in TIERS}
    assert cells == {"easy": ["base_medium", "base_hard"], "medium": ["base_medium"], "hard": ["base_hard"]}
    verdicts = {f"base_medium_{length}": "no_difference" for length in ("short", "middle", "long")}
    ours = study("e10_overlong_filter", "filter", "without", verdicts)
    for length, cell in ((8192, "base_medium_short"), (20480, "base_medium_long")):
        assert [f.cell for f in of("Truncated answers", Situation("base", "medium", length), ours).ours] == [cell]


def test_the_text_shows_each_value_with_its_reason_the_paper_ours_and_the_line_of_a_config():
    situation = Situation("base", "medium", 8192, 4)
    ours = study("e09_aggregation", "token", "sequence", {"base_medium": "helps"})
    shown = text(situation, advise(situation, [ours]))
    one_line = " ".join(shown.split())
    for part in (
        "a base model of 4 B parameters on medium data, answers of up to 8,192 tokens",
        'Aggregation [strong] set algorithm.aggregation = "token_mean" why',
        "Takeaway 7",
        "E9 lab, base_medium: token against sequence +3.0 [+1.0, +5.0], helps, 16 seeds (agrees)",
        "ours nothing yet",
        "c.algorithm.clip_high = 0.2",
        'c.algorithm.baseline = "group"',
        "c.sampling.max_tokens = 8192",
    ):
        assert part in one_line, part
    assert max(map(len, shown.splitlines())) <= 120


def test_a_comparison_of_whole_recipes_is_no_evidence_on_a_single_knob():
    for title, choices in RULES.items():
        for choice in choices:
            assert len(choice.values) > 1 or not {*choice.checks} & {*LITE_PPO.checks}, title


@pytest.mark.parametrize(
    ("verdict", "ending"),
    [
        ("helps", "helps, 16 seeds (agrees)"),
        ("hurts", "hurts, 16 seeds (disagrees)"),
        ("no_difference", "no difference, 16 seeds (the paper sees one)"),
        ("undecided", "undecided, 16 seeds"),
    ],
)
def test_a_finding_says_once_what_was_found_and_how_it_stands_to_the_paper(verdict, ending):
    situation = Situation("base", "medium", 8192)
    shown = text(
        situation, advise(situation, [study("e09_aggregation", "token", "sequence", {"base_medium": verdict})])
    )
    (after,) = [part.split("\n\n")[0] for part in shown.split("token against sequence")[1:]]
    assert " ".join(after.split()).endswith(ending)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (("instruct", "easy", 8192), "--model-kind = 'instruct': expected one of base, aligned"),
        (("base", "trivial", 8192), "--data = 'trivial': expected one of easy, medium, hard"),
        (("base", "easy", 0), "--max-length = 0: expected at least 1 token"),
        (("base", "easy", 8192, 0.0), "--model-size = 0.0: expected billions of parameters, above 0"),
        (("base", "easy", 8192, float("nan")), "--model-size = nan"),
    ],
)
def test_a_situation_that_there_is_not_is_refused(values, part):
    with pytest.raises(ValueError, match=r"^--") as caught:
        Situation(*values)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--model-size", "4"], 0, "For a base model of 4 B parameters on easy data, answers of up to 8,192 tokens."),
        (["--model-size", "-4"], 2, "error: --model-size = -4.0: expected billions of parameters, above 0"),
        (["--data", "harder"], 2, "error: --data = 'harder': expected one of easy, medium, hard"),
        (["--config.seed=1"], 2, "error: --config.seed=1: advise prints the lines of a config and takes none"),
    ],
)
def test_the_command_prints_the_advice_or_one_line_about_the_mistake(capsys, arguments, code, part):
    plain = ["advise", "--model-kind", "base", "--data", "easy", "--max-length", "8192"]
    assert cli.main([*plain, *arguments]) == code
    printed = capsys.readouterr()
    assert part in (printed.err if code else printed.out).splitlines()


def test_the_evidence_of_an_installed_package_is_the_folder_of_the_results():
    assert EVIDENCE.resolve() == ROOT / "docs" / "paper"
