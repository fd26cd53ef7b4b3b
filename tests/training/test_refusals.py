"""What a machine cannot run is refused before the run claims its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrl_llm import config
from jaxrl_llm.training.loop import train
from tests.policies import CONFIGS


def test_an_attention_kernel_of_another_machine_leaves_no_folder(tmp_path: Path):
    changes = ["model.attention=splash", f"run_dir={tmp_path / 'run'}"]
    loaded = config.load(CONFIGS / "quickstart.py", changes)
    with pytest.raises(ValueError, match=r"model\.attention = 'splash' .* on cpu"):
        train(config.parse(loaded), config=loaded.to_dict())
    assert not (tmp_path / "run").exists()
