"""`jaxrl-llm sample` on a tiny random model that a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrl_llm import cli
from jaxrl_llm import config as configs
from jaxrl_llm.evaluation.sample import sample
from tests.policies import save_character_model

BASE = Path(__file__).resolve().parents[2] / "configs" / "base.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_character_model(tmp_path_factory.mktemp("model"))


def settings(folder: Path, *overrides: str):
    short = ("sampling.max_tokens=8", "data.max_prompt_tokens=16")
    return configs.parse(configs.load(BASE, [f"model.source={folder}", *short, *overrides]))


def test_as_many_texts_as_asked_for_each_its_own_and_the_same_again_under_the_same_seed(folder):
    texts = sample(settings(folder), "12+34", samples=6)
    assert len(texts) == 6
    assert len(set(texts)) > 1
    assert sample(settings(folder), "12+34", samples=6) == texts
    assert sample(settings(folder, "seed=1"), "12+34", samples=6) != texts


def test_temperature_0_is_greedy(folder):
    assert len(set(sample(settings(folder, "sampling.temperature=0"), "12+34", samples=6))) == 1


def test_the_question_may_not_be_longer_than_the_limit(folder):
    with pytest.raises(ValueError, match=r"data\.max_prompt_tokens"):
        sample(settings(folder), "1+" * 20, samples=1)
    with pytest.raises(ValueError, match="--samples = 0"):
        sample(settings(folder), "1+1", samples=0)


def test_the_command_prints_every_text_under_its_number(folder, capsys):
    arguments = ["sample", "--config", str(BASE), f"--config.model.source={folder}", "--config.sampling.max_tokens=8"]
    assert cli.main([*arguments, "--config.data.max_prompt_tokens=16", "12+34", "--samples", "6"]) == 0
    printed = capsys.readouterr().out
    for number, text in enumerate(sample(settings(folder), "12+34", samples=6), start=1):
        assert f"[{number}] {text}\n" in printed
