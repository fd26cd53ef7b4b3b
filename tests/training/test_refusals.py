"""What cannot run is refused before the run claims its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrl_llm import config
from jaxrl_llm.training.loop import train
from tests.policies import CONFIGS, save_character_model

LORA = ["lora.rank=2", "lora.alpha=4", "lora.rank_stabilized=False"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.attention=splash"], r"model\.attention = 'splash' .* on cpu"),
        (["model.param_dtype=bfloat16"], r"param_dtype = 'bfloat16' with lora\.rank = None: expected float32"),
        ([*LORA, r"lora.targets=self_attn\.qkv"], r"lora\.targets = .* no matrix.* self_attn\.q_proj"),
    ],
    ids=["another machine's kernel", "rounded parameters", "an adapter of nothing"],
)
def test_a_run_that_the_machine_or_the_model_cannot_do_leaves_no_folder(tmp_path: Path, changes, message):
    loaded = config.load(CONFIGS / "quickstart.py", [*changes, f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(ValueError, match=message):
        train(config.parse(loaded), config=loaded.to_dict())
    assert not (tmp_path / "run").exists()


def swap_two_tokens(folder: Path) -> None:
    file = folder / "tokenizer.json"
    text = file.read_text()
    assert '"1": 4' in text and '"2": 5' in text
    file.write_text(text.replace('"1": 4', '"1": 5').replace('"2": 5', '"2": 4'))


@pytest.mark.parametrize(
    ("changes", "spoil", "message"),
    [
        ({}, swap_two_tokens, r"2 tokens .* another id than in model\.source = 'embedded:tiny', '1' first"),
        ({"max_positions": 16}, None, r"need 80 positions; .*critic has 16"),
        (None, None, r"model\.critic_source = '.*critic': no folder or file"),
    ],
    ids=["another tokenizer", "a short context", "nothing there"],
)
def test_a_critic_that_does_not_fit_the_policy_leaves_no_folder(tmp_path: Path, changes, spoil, message):
    critic = tmp_path / "critic"
    if changes is not None:
        save_character_model(critic, **changes)
    if spoil is not None:
        spoil(critic)
    loaded = config.load(CONFIGS / "ppo.py", [f"model.critic_source={critic}", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(config.parse(loaded), config=loaded.to_dict())
    assert not (tmp_path / "run").exists()
