"""Loading, overriding, parsing and checking of configs, and the errors of each."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jaxrl_llm import config as configs
from jaxrl_llm.training.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "configs" / "base.py"
LORA = ["lora.rank=8", "lora.alpha=16", "lora.targets=all-linear", "lora.rank_stabilized=False"]


def settings(*overrides: str, file: Path = BASE) -> Settings:
    return configs.parse(configs.load(file, overrides))


def write(path: Path, body: str, start: str = "from configs import base") -> Path:
    path.write_text(f"{start}\ndef get_config():\n    c = base.get_config()\n    {body}\n    return c\n")
    return path


def test_every_key_of_the_base_config_is_read_by_a_field_and_every_field_has_a_key():
    base = configs.load(BASE)

    def leaves(part, prefix=""):
        for name, value in part.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    assert sorted(leaves(base.to_dict())) == sorted(configs.key_types())


def test_settings_have_no_defaults_of_their_own():
    def fields(section):
        for field in dataclasses.fields(section):
            yield section, field
            kind = configs.schema.fields(section)[field.name]
            if dataclasses.is_dataclass(kind):
                yield from fields(kind)

    for section, field in fields(Settings):
        assert field.default is dataclasses.MISSING, f"{section.__name__}.{field.name}"
        assert field.default_factory is dataclasses.MISSING, f"{section.__name__}.{field.name}"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("steps=7", "steps", 7),
        ("optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("optimizer.learning_rate=3e-5", "optimizer.learning_rate", 3e-5),
        ("optimizer.clip_norm=2", "optimizer.clip_norm", 2.0),
        ("log.tensorboard=False", "log.tensorboard", False),
        ("algorithm.whiten=true", "algorithm.whiten", True),
        ("algorithm.scale=batch", "algorithm.scale", "batch"),
        ("sampling.stop=('a', 'b')", "sampling.stop", ("a", "b")),
        ("sampling.stop=['a']", "sampling.stop", ("a",)),
        ("data.template={question} = ?", "data.template", "{question} = ?"),
        ("run_dir=", "run_dir", ""),
    ],
)
def test_an_override_becomes_a_value_of_its_fields_type(override, path, value):
    got = settings(override)
    for part in path.split("."):
        got = getattr(got, part)
    assert got == value
    assert type(got) is type(value)


def test_none_empties_an_optional_key_and_the_last_override_wins():
    got = settings("optimizer.clip_norm=1.0", "optimizer.clip_norm=None", "steps=1", "steps=2")
    assert got.optimizer.clip_norm is None
    assert got.steps == 2


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("algorithm.clip_hi=0.3", ["algorithm.clip_hi", "nearest: algorithm.clip_high"]),
        ("clip_high=0.3", ["clip_high", "nearest: algorithm.clip_high"]),
        ("eval.source=x", ["eval.source", "nearest: evaluation.source"]),
        ("temprature=1", ["temprature", "sampling.temperature", "evaluation.temperature"]),
        ("algorithm.baseline=grop", ["algorithm.baseline = 'grop'", "one of none, group", "nearest: group"]),
        ("algorithm=3", ["algorithm is a section", "algorithm.clip_high"]),
        ("steps=1.5", ["steps = '1.5'", "an integer"]),
        ("steps=many", ["steps = 'many'", "an integer"]),
        ("seed=None", ["seed = None", "an integer"]),
        ("seed=True", ["seed = 'True'", "an integer"]),
        ("optimizer.learning_rate=fast", ["optimizer.learning_rate = 'fast'", "a finite number"]),
        ("optimizer.learning_rate=nan", ["optimizer.learning_rate = 'nan'", "a finite number"]),
        ("optimizer.clip_norm=x", ["optimizer.clip_norm = 'x'", "a finite number, or None"]),
        ("log.tensorboard=1", ["log.tensorboard = '1'", "true or false"]),
        ("data.system=None", ["data.system = None", "a text"]),
        ("sampling.stop=a", ["sampling.stop = 'a'", "a tuple of texts"]),
        ("sampling.stop=(1,)", ["sampling.stop", "a tuple of texts"]),
        ("steps", ["'steps'", "dotted.path=value"]),
        ("zzzz=1", ["unknown config key zzzz", "configs/base.py"]),
    ],
)
def test_a_wrong_override_is_an_error_with_path_value_and_what_was_expected(override, parts):
    with pytest.raises(ValueError, match=re.escape(parts[0])) as error:
        configs.load(BASE, [override])
    for part in parts[1:]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("c.algorithm.clip_hihg = 0.3", ["unknown config key algorithm.clip_hihg", "nearest: algorithm.clip_high"]),
        ("c.algoritm = base.get_config().algorithm", ["unknown config key algoritm", "nearest: algorithm"]),
        ("c.seed = 'a'", ["recipe.py, line 4", "c.seed = 'a'", "int"]),
        ("c.steps = True", ["steps = True", "an integer"]),
        ("c.steps = None", ["steps = None", "an integer"]),
        ("c.algorithm.scale = 'rank'", ["algorithm.scale = 'rank'", "one of none, group, batch"]),
        ("c.sampling.stop = ('a', 3)", ["sampling.stop", "a tuple of texts"]),
        ("c.modle.source = 'x'", ["recipe.py, line 4", "modle"]),
        ("del c.mesh", ["config key mesh is missing", "a section with keys"]),
        ("del c.mesh.fsdp", ["config key mesh.fsdp is missing", "an integer"]),
        ("1 / 0", ["recipe.py, line 4", "ZeroDivisionError"]),
        ("import nowhere", ["recipe.py, line 4", "nowhere"]),
    ],
)
def test_a_wrong_config_file_is_an_error_with_the_key_or_the_line(tmp_path, body, parts):
    with pytest.raises(ValueError, match=re.escape(parts[0])) as error:
        settings(file=write(tmp_path / "recipe.py", body))
    for part in parts[1:]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x = 1\n", "defines get_config()"),
        ("def get_config(size):\n    return size\n", "without arguments"),
        ("def get_config():\n    return {}\n", "returned dict"),
        ("def get_config(:\n", "line 1"),
    ],
)
def test_a_file_that_is_no_config_says_what_it_lacks(tmp_path, text, part):
    path = tmp_path / "recipe.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.py") as error:
        configs.load(path)
    assert part in str(error.value)


def test_a_file_of_several_scales_is_loaded_as_file_and_scale(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(
        "from configs import base\ndef get_config(scale='small'):\n    c = base.get_config()\n"
        "    c.steps = {'small': 3, 'large': 300}[scale]\n    return c\n"
    )
    for name, scale, steps in ((path, "small", 3), (f"{path}:large", "large", 300)):
        config, found = configs.load_scaled(name)
        assert (config.to_dict()["steps"], found) == (steps, scale)
        assert configs.load(name) == config
    with pytest.raises(ValueError, match=r"recipe\.py, line 4.*KeyError: 'huge'"):
        configs.load(f"{path}:huge")
    with pytest.raises(ValueError, match=r"base\.py:large: get_config\(\) of this file takes no argument"):
        configs.load(f"{BASE}:large")
    assert configs.load_scaled(BASE)[1] is None


@dataclasses.dataclass(frozen=True)
class Free:
    """A section whose reader judges a value itself."""

    anything: Any


def test_a_key_of_any_kind_takes_any_python_value(tmp_path):
    path = tmp_path / "free.py"
    path.write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'anything': (1, 'a')})\n"
    )
    assert configs.parse(configs.load(path, (), Free), Free).anything == (1, "a")
    assert configs.parse(configs.load(path, ["anything=('b', 2)"], Free), Free).anything == ("b", 2)
    with pytest.raises(ValueError, match="anything = 'b c': expected a Python value"):
        configs.load(path, ["anything=b c"], Free)


def test_a_config_file_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match=r"configs/nope\.py"):
        configs.load("configs/nope.py")


def test_a_config_outside_the_repository_finds_base_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings(file=write(tmp_path / "recipe.py", "c.steps = 3")).steps == 3
    assert settings(file=ROOT / "configs" / "models" / "qwen3_4b.py").model.source == "Qwen/Qwen3-4B"


def test_a_config_finds_the_base_of_its_own_folder_first(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.py").write_text(
        BASE.read_text()
        + "\n_get = get_config\n\n\ndef get_config():\n    c = _get()\n    c.steps = 101\n    return c\n"
    )
    own = write(tmp_path / "configs" / "recipe.py", "c.seed = 1")
    assert settings(file=own).steps == 101
    assert settings(file=ROOT / "configs" / "base.py").steps != 101


def test_a_loaded_config_is_locked_and_survives_a_round_trip_through_json():
    config = configs.load(ROOT / "configs" / "quickstart_real.py")
    assert config.is_locked
    assert configs.parse(json.loads(json.dumps(config.to_dict()))) == configs.parse(config)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["training.mini_batches=3"], ["training.mini_batches = 3", "128 rows", "prompts_per_step 16"]),
        (["training.tokens_per_pass=-1"], ["training.tokens_per_pass = -1", "0 or more"]),
        (["data.prompts_per_step=3", "data.samples_per_prompt=2"], ["rows 4 ways", "mesh.fsdp 4", "6 rows"]),
        (["mesh.data=3"], ["mesh", "does not fit 4 devices"]),
        (["mesh.data=-1"], ["mesh.data and mesh.fsdp are both -1"]),
        (["algorithm.baseline=group", "data.samples_per_prompt=1"], ["samples_per_prompt = 1", "baseline = 'group'"]),
        (
            ["algorithm.overlong_buffer=65", "algorithm.overlong_penalty=1.0"],
            ["overlong_buffer = 65", "max_tokens = 48"],
        ),
        (["steps=0"], ["steps = 0", "at least 1"]),
        (["evaluation.samples=0"], ["evaluation.samples = 0", "at least 1"]),
        (["evaluation.source_key=set"], ["evaluation.source_key = 'set'", "built-in task", "expected None"]),
        (["evaluation.source_key="], ["evaluation.source_key = ''", "not empty"]),
        (["evaluation.top_p=1.5"], ["evaluation.top_p = 1.5", "at most 1"]),
        (["sampling.temperature=0"], ["sampling.temperature = 0.0", "above 0"]),
        (["optimizer.learning_rate=0"], ["optimizer.learning_rate = 0.0", "above 0"]),
        (["optimizer.clip_norm=0"], ["optimizer.clip_norm = 0.0", "above 0"]),
        (["optimizer.beta2=1"], ["optimizer.beta2 = 1.0", "below 1"]),
        (["training.offload_reference=True"], ["offload_reference = True", "kl_placement = 'none'"]),
        (["lora.rank=8"], ["lora.alpha = None with lora.rank = 8", "all keys of lora, or none"]),
        (["lora.rank=0"], ["lora.rank = 0", "at least 1"]),
        ([*LORA, "lora.alpha=0"], ["lora.alpha = 0.0", "above 0"]),
        ([*LORA, "lora.targets="], ["lora.targets = ''", "not empty"]),
        (
            [*LORA, "training.offload_reference=True"],
            ["offload_reference = True with lora.rank = 8", "the policy without its adapter"],
        ),
        (["model.critic_source=x"], ["critic_source = 'x'", "baseline = 'none'", "expected critic"]),
        (["checkpoint.keep=0"], ["checkpoint.keep = 0", "at least 1"]),
        (["log.rollouts_every=-1"], ["log.rollouts_every = -1", "0 or more"]),
        (["log.loop.repeats=1"], ["log.loop.repeats = 1", "at least 2"]),
        (
            ["algorithm.baseline=batch", "algorithm.batch_statistics=source"],
            ["batch_statistics = 'source'", "data.source_key = None"],
        ),
        (
            [
                "steps=3",
                "algorithm.baseline=critic",
                "algorithm.gae_lambda=0.9",
                "algorithm.gae_lambda_returns=1",
                "algorithm.critic_learning_rate=1e-4",
                "algorithm.critic_warmup=3",
            ],
            ["critic_warmup = 3 with steps = 3", "never learns"],
        ),
        (["run_dir="], ["run_dir = ''", "not empty"]),
    ],
)
def test_what_cannot_run_is_refused_with_the_keys_and_their_values(overrides, parts):
    with pytest.raises(ValueError, match=re.escape(parts[0])) as error:
        configs.check(settings(*overrides), devices=4)
    for part in parts[1:]:
        assert part in str(error.value)


def test_a_section_refuses_its_own_contradictions_while_parsing():
    with pytest.raises(ValueError, match=r"sampling\.top_p"):
        settings("sampling.top_p=0")
    with pytest.raises(ValueError, match="kl_coefficient"):
        settings("algorithm.kl_placement=loss", "algorithm.kl_estimator=k3")


def test_the_mesh_is_not_looked_at_where_nothing_will_run():
    pod = settings("mesh.fsdp=256", "data.prompts_per_step=512")
    configs.check(pod, devices=None)
    configs.check(pod, devices=256)
    with pytest.raises(ValueError, match="does not fit 2 devices"):
        configs.check(pod, devices=2)
