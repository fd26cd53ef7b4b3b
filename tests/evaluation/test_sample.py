"""`jaxrl-llm sample` on a tiny random model that a folder holds, and what it and `evaluate` do not read of a config."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm import cli, cli_unread
from jaxrl_llm import config as configs
from jaxrl_llm.evaluation.evaluate import evaluate_source
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


def watched(monkeypatch: pytest.MonkeyPatch, section: Any, found: set[str], prefix: str = "") -> None:
    """Notes the dotted path of every key that is read from now on."""
    names = {field.name for field in dataclasses.fields(section)}

    def read(self: Any, name: str) -> Any:
        if name in names:
            found.add(prefix + name)
        return object.__getattribute__(self, name)

    for name in names:
        if dataclasses.is_dataclass(value := getattr(section, name)):
            watched(monkeypatch, value, found, f"{prefix}{name}.")
    monkeypatch.setattr(type(section), "__getattribute__", read)


FEW = ("evaluation.problems=2", "evaluation.samples=3", "data.prompts_per_step=2", "data.samples_per_prompt=3")
# Keys that `evaluate` reads all the same: into a distribution that it replaces, and for rewards and texts that only the
# files of a run hold.
CHANGED = ("sampling.temperature=2", "sampling.top_k=3", "sampling.top_p=0.5", "sampling.min_p=0.9")
CHANGED += ("evaluation.texts=1", "reward.correct=0.5", "reward.wrong=-1", "reward.unparseable=0.25")
CHANGED += ("reward.timeout=0.25", "reward.truncated=-0.25")


@pytest.mark.parametrize(
    ("command", "run", "changed"),
    [
        ("sample", lambda s: sample(s, "12+34", samples=6), ("evaluation.texts=1", "steps=3")),
        ("evaluate", lambda s: evaluate_source(s)[0]._replace(samples=[]), CHANGED),
    ],
)
def test_no_key_that_a_command_is_said_to_leave_out_changes_what_it_says(command, run, changed, folder, monkeypatch):
    whole, read = settings(folder, *FEW), set[str]()
    watched(monkeypatch, whole, read)
    said = run(whole)
    monkeypatch.undo()
    keys, unread = configs.key_types().keys(), cli_unread.UNREAD[command].split()
    assert all(any(f"{key}.".startswith(f"{of}.") for key in keys) for of in unread), "a key that there is not"
    assert {"sampling.max_tokens", "model.source", "seed"} <= read
    # no model may contradict the first two, and that is all
    harmless = {"algorithm.baseline", "training.balancing_coefficient", *(x.partition("=")[0] for x in changed)}
    assert {key for key in read & keys for of in unread if f"{key}.".startswith(f"{of}.")} <= harmless
    assert run(settings(folder, *FEW, *changed)) == said


LORA = ("lora.rank=2", "lora.alpha=4", "lora.targets=all-linear", "lora.rank_stabilized=false")


@pytest.mark.parametrize(
    ("command", "overrides", "lines"),
    [
        ("sample", ("seed=1", "sampling.top_p=0.9"), []),
        ("sample", ("evaluation.top_p=0.9", "steps=3"), ["evaluation.top_p (but sampling.top_p), steps"]),
        ("sample", ("data.samples_per_prompt=2",), ["data.samples_per_prompt (but --samples)"]),
        ("evaluate", ("evaluation.top_p=0.9", "sampling.max_tokens=9", "reward.verifier=math"), []),
        (
            "evaluate",
            ("sampling.min_p=0.1", "sampling.top_k=3"),
            ["sampling.min_p, sampling.top_k (but evaluation.top_k)"],
        ),
        ("evaluate", ("log.loop.window=8", "reward.truncated=0"), ["log.loop.window, reward.truncated"]),
    ],
)
def test_what_the_command_line_changes_and_the_command_does_not_read_is_said(command, overrides, lines, folder):
    notes = list(cli_unread.notes(command, settings(folder, *overrides), overrides))
    assert notes == [f"{command} does not read {line}" for line in lines]


def test_a_config_with_an_adapter_is_sampled_without_and_that_is_said(folder, capsys):
    keys = [
        f"--config.{key}" for key in (f"model.source={folder}", "sampling.max_tokens=8", "data.max_prompt_tokens=16")
    ]
    texts = []
    for more in ([], [f"--config.{key}" for key in LORA]):
        assert cli.main(["sample", "--config", str(BASE), *keys, "12+34", "--samples", "6", *more]) == 0
        texts.append(capsys.readouterr())
    assert texts[0].out == texts[1].out
    assert not texts[0].err
    assert f"lora.rank = 2: sample takes model.source = '{folder}' as it is, without an adapter" in texts[1].err
