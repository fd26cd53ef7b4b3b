"""The embedded model: what it reads, that its making repeats, and that what is shipped is what the config says."""

from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import pytest

from jaxrl_llm import cli, config
from jaxrl_llm.data import tokens
from jaxrl_llm.models import hub, weights
from jaxrl_llm.training.pretrain import PretrainSettings, Sizes, documents, pack, pretrain
from tests.policies import CONFIGS


def settings(**changes) -> PretrainSettings:
    loaded = config.load(str(CONFIGS / "models" / "tiny_base.py"), [], PretrainSettings)
    return dataclasses.replace(config.parse(loaded, PretrainSettings), **changes)


def test_packed_rows_hold_whole_documents_each_a_segment_from_position_0():
    tokens, positions, segments = pack(iter([[5, 6, 7], [8, 9], [1, 2, 3, 4], [3, 3]]), rows=2, width=6)
    assert tokens.tolist() == [[5, 6, 7, 8, 9, 0], [3, 3, 0, 0, 0, 0]]
    assert positions.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0]]
    assert segments.tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize("documents", [[[1] * 7, [2] * 8], [[5, 6, 7], [1] * 7, [8, 9]]])
def test_a_document_that_fits_no_row_is_refused_and_never_left_out(documents):
    with pytest.raises(ValueError, match="width = 6: a text has 7 tokens; expected room for the longest"):
        pack(iter(documents), rows=2, width=6)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("steps=0", "steps = 0: expected at least 1"),
        ("rows=0", "rows = 0: expected at least 1"),
        ("width=0", "width = 0: expected at least 1"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate = -1.0: expected above 0"),
        ("optimizer.beta2=1", "optimizer.beta2 = 1.0: expected 0 or more and below 1"),
    ],
)
def test_a_value_out_of_its_range_is_refused_before_anything_is_written(override, told, tmp_path, capsys):
    file = str(CONFIGS / "models" / "tiny_base.py")
    changes = [f"--config.folder={tmp_path / 'model'}", "--config.steps=1", f"--config.{override}"]
    assert cli.main(["pretrain", "--config", file, *changes]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_every_document_fits_a_row_and_ends_with_the_stop_token():
    tokenizer = tokens.load(hub.resolve("embedded:tiny"))
    texts = list(islice(documents(settings(), tokenizer), 300))
    assert max(map(len, texts)) <= settings().width
    assert all(text[-1] in tokenizer.stop_ids and not set(text[:-1]) & set(tokenizer.stop_ids) for text in texts)


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(tmp_path):
    sizes = Sizes(width=16, layers=1, heads=2, kv_heads=1, head_size=8, mlp_width=16)
    small = settings(model=sizes, steps=2, rows=2)
    small = dataclasses.replace(small, optimizer=dataclasses.replace(small.optimizer, warmup_steps=0))

    def weights_of(name: str, seed: int) -> bytes:
        folder = pretrain(dataclasses.replace(small, folder=str(tmp_path / name), seed=seed))
        return (folder / "model.safetensors").read_bytes()

    assert weights_of("a", 0) == weights_of("b", 0) != weights_of("c", 1)


def test_the_shipped_model_is_the_one_of_the_config_and_small():
    folder = hub.resolve("embedded:tiny")
    model = hub.load_config(folder)
    assert model == settings().model.config(model.vocab_size)
    assert 1e6 <= weights.parameter_count(model) <= 3e6
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * 2**20
    assert all(np.isfinite(x).all() for x in hub.load("embedded:tiny").params["embed"].values())


@pytest.mark.parametrize("name", ["lab_base", "lab_aligned"])
def test_the_models_of_the_lab_are_those_of_their_configs_and_small(name):
    loaded = config.parse(config.load(str(CONFIGS / "models" / f"{name}.py"), [], PretrainSettings), PretrainSettings)
    folder = hub.resolve(f"embedded:{name}")
    model = hub.load_config(folder)
    assert model == loaded.model.config(model.vocab_size)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 300_000


def test_pretraining_goes_on_only_from_a_model_of_the_same_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"start = 'embedded:lab_base' holds .* expected the sizes of"):
        pretrain(settings(folder=str(tmp_path), start="embedded:lab_base"))


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task = 'sums': the built-in tasks are chain_sum"):
        settings(task="sums")
