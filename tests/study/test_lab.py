"""The engine lab: the numbers of `train`, lanes that do not disturb each other, traced numbers, and records."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_llm import config
from jaxrl_llm.evaluation import evaluate
from jaxrl_llm.study import plan, records
from jaxrl_llm.study.lab import LAB_IGNORES, NUMERIC, engine, lanes, program
from jaxrl_llm.training.settings import Settings
from tests.study.lab_runs import lines_of_train, planned, settings


def run_lanes(*runs: Settings) -> list[lanes.Seen]:
    """The runs as lanes of one program."""
    host, of_lanes = engine.Host(), [planned(run) for run in runs]
    assert len({host.key_of(run) for run in of_lanes}) == 1
    seen = jax.device_get(program.make_program(host.setup(of_lanes[0]))(engine.stack([host.lane(run) for run in runs])))
    return [jax.tree.map(lambda x, index=index: x[index], seen) for index in range(len(runs))]


OTHER = settings(
    seed=1,
    algorithm__clip_high=0.001,
    algorithm__kl_coefficient=0.2,
    algorithm__overlong_penalty=0.9,
    algorithm__scale_epsilon=0.1,
    reward__correct=2.0,
    reward__wrong=-1.0,
    reward__unparseable=-2.0,
    reward__truncated=-3.0,
    optimizer__learning_rate=3e-3,
    optimizer__weight_decay=0.1,
    optimizer__clip_norm=0.5,
    data__tier="hard",
    evaluation__tier="hard",
)


@pytest.fixture(scope="module")
def three() -> list[lanes.Seen]:
    return run_lanes(settings(seed=3), OTHER, settings(seed=0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[list[dict[str, float]], list[np.ndarray]]:
    """Lines of metrics.jsonl of `train` with the config of the last lane, and what was right at each evaluation."""
    right = []
    summary = evaluate._summary

    def watched(session, completions, run):
        right.append(completions.correct.reshape(-1, run.evaluation.samples))
        return summary(session, completions, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "_summary", watched)
        return lines_of_train(settings(seed=0), tmp_path_factory.mktemp("train")), right


def test_a_lane_has_the_metrics_of_train_with_the_same_config(three, trained):
    lines = [line for line in trained[0] if "loss" in line]
    lane = three[2]
    assert len(lines) == 3
    exact = {name for name in lane.curves if name.startswith(("outcome/", "groups_"))} | {"reward", "length", "rounds"}
    assert lane.curves["rounds"].max() > 1, "the batch was refilled"
    for step, line in enumerate(lines):
        assert set(lane.curves) == {name for name in line if name != "step" and not name.startswith("saved/")}
        for name, values in lane.curves.items():
            if line[name] is None:
                assert np.isnan(values[step]), name
            elif name in exact:
                assert values[step] == pytest.approx(line[name], abs=1e-6), (name, step)
            elif name == "effect/kl_placement":  # counts tokens whose KL is not exactly 0, which rounding decides
                assert values[step] == pytest.approx(line[name], abs=0.2)
            else:  # other shapes sum in another order, and each optimizer step carries that on
                assert values[step] == pytest.approx(line[name], rel=2e-3, abs=2e-5), (name, step)


def test_a_lane_answers_the_held_out_problems_as_train_does(three, trained):
    accuracies = np.stack([correct.mean(axis=1) for correct in trained[1]])
    np.testing.assert_allclose(three[2].accuracy, accuracies, atol=1e-6)
    assert 0 < accuracies.mean() < 1


def test_a_lane_gives_the_same_numbers_alone_with_its_numbers_static_as_traced_among_others(three, monkeypatch):
    monkeypatch.setattr(lanes, "NUMERIC", ())
    (alone,) = run_lanes(OTHER)
    among = three[1]
    np.testing.assert_array_equal(alone.texts, among.texts)
    np.testing.assert_array_equal(alone.accuracy, among.accuracy)
    for name in alone.curves.keys() - {"effect/kl_placement"}:  # counts tokens whose KL is not exactly 0
        # products of several lanes sum in another order, and a traced number is rounded to float32 before its use
        values = alone.curves[name]
        np.testing.assert_allclose(among.curves[name], values, rtol=2e-3, atol=2e-5, err_msg=name)
    for name in ("probability", "clipped", "tokens"):
        np.testing.assert_allclose(getattr(among, name), getattr(alone, name), atol=2, err_msg=name)
    assert three[1].curves["reward"].min() < -1, "its rewards are its own"


def test_the_counts_are_of_the_tokens_that_were_sampled(three):
    for lane in three:
        sampled = (lane.curves["length"] * 8).sum()
        assert lane.tokens.sum() == pytest.approx(sampled)
        assert lane.probability.sum() == pytest.approx(sampled)
        assert 0 < lane.clipped.sum() < sampled


@pytest.mark.parametrize("path", NUMERIC)
def test_a_traced_number_is_a_key_of_the_config_and_none_is_a_structure_of_its_own(path):
    assert path in config.key_types()
    base = settings()
    number = lanes.with_values(base, {path: 0.125})
    nothing = lanes.with_values(base, {path: None})
    assert lanes.numbers_of(number)[path] == 0.125
    assert path not in lanes.numbers_of(nothing)
    assert lanes.structure_of(number) != lanes.structure_of(nothing)
    assert lanes.structure_of(number) == lanes.structure_of(lanes.with_values(base, {path: 0.25}))


def test_what_the_lab_ignores_is_named_as_the_config_names_it():
    for ignored in LAB_IGNORES:
        assert any(key == ignored or key.startswith(f"{ignored}.") for key in config.key_types()), ignored


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"reward__verifier": "math"}, "reward.verifier = 'math': expected 'exact'"),
        ({"reward__answer_format": "boxed"}, "reward.answer_format = 'boxed': expected 'hash'"),
        ({"data__source": "jsonl:x"}, "data.source = 'jsonl:x': expected 'task:NAME'"),
        ({"model__param_dtype": "bfloat16"}, "model.param_dtype = 'bfloat16': expected 'float32'"),
        ({"evaluation__every": 0}, "evaluation.every = 0: expected 1 or more"),
    ],
)
def test_what_the_lab_does_not_do_is_refused_by_name(keys, message):
    with pytest.raises(ValueError, match=message):
        lanes.refuse(settings(**keys))


def test_a_critic_is_refused():
    critic = dataclasses.replace(
        settings().algorithm, baseline="critic", scale="none", gae_lambda=1.0, gae_lambda_returns=1.0,
        critic_learning_rate=1e-3, critic_warmup=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"algorithm\.baseline = 'critic': expected any but critic"):
        lanes.refuse(dataclasses.replace(settings(), algorithm=critic))


STUDY = """
import jax.numpy as jnp
from ml_collections import ConfigDict
from configs.studies import lab
from jaxrl_llm.study import Trick

def only_praise(batch):
    return batch.__class__(**{**batch.__dict__, "advantages": jnp.maximum(batch.advantages, 0)})

PRAISE = Trick("praise", {}, transform=only_praise)
BURST = Trick("burst", {"reward.correct": -2e38, "reward.wrong": -3e38})  # the sum of two is infinite

def get_config():
    c = ConfigDict()
    c.name, c.question, c.claim, c.source, c.engine = "try", "?", "", "", "lab"
    c.run = lab.get_config()
    c.run.steps = 2
    c.run.optimizer.warmup_steps = 0
    c.run.data.prompts_per_step, c.run.data.samples_per_prompt, c.run.training.mini_batches = 2, 4, 2
    c.run.evaluation.problems, c.run.evaluation.samples, c.run.evaluation.every = 4, 2, 1
    c.cells = ConfigDict({"easy": {"data": {"tier": "easy"}}, "hard": {"data": {"tier": "hard"}}})
    c.mode, c.own, c.reference = "arms", (PRAISE, BURST), "praise"
    c.arms = ConfigDict({"praise": ("praise",), "both": ("praise", "burst")})
    c.seeds = 1
    c.run_dir = "RUN_DIR"
    return c
"""


class Programs:
    """The program of the study, compiled once a device, and the devices that it ran on."""

    def __init__(self):
        self.compiled, self.devices = [], set()

    def make(self, setup: program.Setup):
        self.compiled = self.compiled or [program.make_program(setup)]
        return self.run

    def run(self, lane: lanes.Lane) -> lanes.Seen:
        self.devices |= lane.seed.devices()
        return self.compiled[0](lane)


def run_study(folder: Path, devices: list[Any], programs: Programs) -> tuple[plan.Study, list[str]]:
    """The study run in blocks of two lanes, a block on each device at a time."""
    file, said = folder / "study.py", []
    file.write_text(STUDY.replace("RUN_DIR", str(folder / "out")))
    study = plan.load(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "make_program", programs.make)
        patch.setattr(engine, "_slots", lambda: devices)
        engine.run(study, say=said.append, limit_lanes=2)
    return study, said


@pytest.fixture(scope="module")
def of_two_devices(tmp_path_factory) -> tuple[plan.Study, list[str], Programs]:
    programs = Programs()
    return *run_study(tmp_path_factory.mktemp("two"), jax.local_devices()[:2], programs), programs


def test_a_study_leaves_a_record_of_each_run_and_of_each_failure_and_goes_on_where_it_stopped(of_two_devices):
    study, said, _ = of_two_devices
    found = {(record.cell, record.arm): record for record in records.load_all(study.folder)}
    assert set(found) == {(cell, arm) for cell in ("easy", "hard") for arm in ("praise", "both")}
    for cell in ("easy", "hard"):
        assert "not finite in step" in found[cell, "both"].failed
        record = found[cell, "praise"]
        assert not record.failed
        assert record.eval_steps.tolist() == [0, 1, 2]
        assert record.accuracy.shape == (3, 4)
        assert record.config_hash == study.hash_of(cell, "praise", 0)
        np.testing.assert_array_equal(record.curves["advantage"], record.curves["advantage_size"])  # transformed
        assert {sample["step"] for sample in record.samples} == {0, 2}
        assert all(sample["question"].endswith("=") for sample in record.samples)
        assert record.vocabulary[2] == "####"
    assert "1 programs" in said[0]
    assert [job.arm for job in study.missing()] == ["both", "both"]  # only those that failed are run again


def test_runs_on_two_devices_have_the_bits_of_runs_on_one(of_two_devices, tmp_path):
    study, _, programs = of_two_devices
    assert programs.devices == set(jax.local_devices()[:2])
    of_one, _ = run_study(tmp_path, jax.local_devices()[:1], programs)
    found, expected = ({(r.cell, r.arm): r for r in records.load_all(each.folder)} for each in (study, of_one))
    assert found.keys() == expected.keys()
    for job, record in found.items():
        assert record.failed == expected[job].failed
        jax.tree.map(
            np.testing.assert_array_equal,
            (record.curves, record.accuracy, record.counts),
            (expected[job].curves, expected[job].accuracy, expected[job].counts),
        )


def test_on_eight_devices_as_many_blocks_run_at_a_time_each_on_its_own_and_each_run_has_its_own_record(
    tmp_path, monkeypatch
):
    """The steps of a run are left out; what each lane leaves is its seed."""
    devices, all_at_work, seen_on = jax.local_devices(), threading.Barrier(8), []

    def program_of(setup: program.Setup):
        @jax.jit
        def seeds(lane: lanes.Lane) -> lanes.Seen:
            curve, problems = jnp.ones((len(lane.seed), setup.settings.steps)), setup.settings.evaluation.problems
            evaluations = len(program.eval_steps(setup.settings))
            accuracy = jnp.broadcast_to(lane.seed[:, None, None] / 16, (len(lane.seed), evaluations, problems))
            counts = jnp.zeros((len(lane.seed), len(setup.kinds)))
            texts = jnp.zeros((len(lane.seed), evaluations, 0, 1), jnp.int32)
            return lanes.Seen({"gradient_norm": curve}, accuracy, texts, texts[..., 0] > 0, counts, counts, counts)

        def run(lane: lanes.Lane) -> lanes.Seen:
            seen = seeds(lane)
            all_at_work.wait(timeout=60)  # or this test fails
            seen_on.append(seen.accuracy.devices())
            return seen

        return run

    monkeypatch.setattr(engine, "make_program", program_of)
    monkeypatch.setattr(engine, "_slots", lambda: devices)
    text = STUDY.replace("RUN_DIR", str(tmp_path / "out")).replace("c.seeds = 1", "c.seeds = 4")
    (tmp_path / "study.py").write_text(text.replace("c.run.steps = 2", "c.run.steps, c.run.evaluation.texts = 2, 0"))
    study = plan.load(tmp_path / "study.py")
    engine.run(study, say=lambda line: None, limit_lanes=2)
    assert sorted(device.id for on in seen_on for device in on) == list(range(8))
    found = records.load_all(study.folder)
    assert len(found) == 16
    for record in found:
        np.testing.assert_array_equal(record.accuracy, record.seed / 16)
