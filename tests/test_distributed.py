"""What processes say to each other: facts that must agree, errors that all raise, shares of rows, and deaths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import pytest

from jaxrl_llm import cli, distributed
from jaxrl_llm import config as configs
from jaxrl_llm.distributed import AgreedError, DistributedSettings
from jaxrl_llm.study import job
from tests.policies import CONFIGS
from tests.training.test_multihost import two_places

HEARTBEAT_SECONDS = 3


class Store(dict):
    """The key-value store of JAX's coordination service; what other processes say is there already."""

    def key_value_set(self, key: str, value: str) -> None:
        assert key not in self
        self[key] = value

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        return self[key]


@pytest.fixture
def act_as(monkeypatch):
    """Makes this process one of several, with a store."""

    def act(process: int, processes: int) -> Store:
        store = Store()
        state = SimpleNamespace(process_id=process, num_processes=processes, client=store)
        monkeypatch.setattr(distributed, "global_state", state)
        monkeypatch.setattr(distributed, "_calls", iter(range(9)))
        return store

    return act


def fail() -> None:
    raise FileExistsError("run_dir x holds another run")


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_shares_are_neighbours_that_cover_every_row_once(act_as, rows: int, processes: int):
    parts = []
    for process in range(processes):
        act_as(process, processes)
        parts.append(list(range(rows))[distributed.share(rows)])
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


OURS = {"versions": {"jax": "0.10.2"}, "config": {"seed": 0, "mesh": {"fsdp": -1}}, "data.source": "ab12"}


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (OURS, None),
        (OURS | {"versions": {"jax": "0.10.1"}}, 'versions.jax is "0.10.1", process 0 has "0.10.2"'),
        (OURS | {"data.source": "ff00"}, 'data.source is "ff00", process 0 has "ab12"'),
        (
            OURS | {"config": {"seed": 1, "mesh": {"fsdp": 4}}},
            "config.mesh.fsdp is 4, process 0 has -1, config.seed is 1, process 0 has 0",
        ),
        (OURS | {"more": 1}, 'more is 1, process 0 has "absent"'),
    ],
)
def test_facts_that_differ_are_told_with_process_host_and_both_values(act_as, theirs, told):
    store = act_as(0, 3)
    store["jaxrl_llm/0/1"] = json.dumps({"host": "east", "facts": OURS})
    store["jaxrl_llm/0/2"] = json.dumps({"host": "west", "facts": theirs})
    if told is None:
        distributed.agree(lambda: OURS)
        return
    with pytest.raises(AgreedError) as error:
        distributed.agree(lambda: OURS)
    assert str(error.value).startswith("process 2 on west differs from process 0 on ")
    assert str(error.value).endswith(f": {told}")
    assert json.loads(store["jaxrl_llm/1"]) == str(error.value), "what the other processes raise"


def test_the_others_raise_what_the_first_process_could_not_do(act_as):
    store = act_as(0, 2)
    with pytest.raises(AgreedError, match="run_dir x holds another run"):
        distributed.on_first(fail)
    told = store["jaxrl_llm/0"]
    act_as(1, 2)["jaxrl_llm/0"] = told
    with pytest.raises(AgreedError, match="run_dir x holds another run"):
        distributed.on_first(lambda: pytest.fail("only the first process acts"))


def test_a_process_alone_asks_nobody():
    assert distributed.is_first() and distributed.processes() == 1 and distributed.share(5) == slice(0, 5)
    assert distributed.gather({"a": [1]}) == [{"a": [1]}]
    distributed.agree(lambda: pytest.fail("there is nobody to agree with"))
    with pytest.raises(FileExistsError):
        distributed.on_first(fail)


@pytest.mark.parametrize("place", ["10.0.0.1:8476", "10.0.0.1,0/2", "10.0.0.1:8476,2/2", "10.0.0.1:8476,0/0", "x"])
def test_a_place_of_another_form_is_refused_before_anything_is_awaited(place, capsys):
    config = str(CONFIGS / "lite_ppo.py")
    assert cli.main(["train", "--config", config, f"--distributed={place}"]) == 2
    told = capsys.readouterr().err
    assert f"--distributed={place}: expected HOST:PORT,PROCESS/PROCESSES" in told


COMPUTE_ALONE = {
    "sample": ["sample", "--config", str(CONFIGS / "lite_ppo.py"), "1+1"],
    "pretrain": ["pretrain", "--config", str(CONFIGS / "models" / "tiny_base.py"), "--config.steps=1"],
    "microscope": ["microscope", "--rollouts", "nowhere", "--recipes", "grpo"],
    "convert": ["convert", "nowhere", "--to", "nowhere"],
}


@pytest.mark.parametrize("command", COMPUTE_ALONE)
def test_a_command_that_computes_alone_refuses_to_be_one_of_several_processes(command, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 16)
    assert cli.main(COMPUTE_ALONE[command]) == 2
    assert capsys.readouterr().err.startswith(f"error: this is one of 16 processes, and {command} computes in one")


def test_a_run_of_a_study_refuses_to_be_one_of_several_processes(monkeypatch, tmp_path):
    config = configs.load(CONFIGS / "lite_ppo.py")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    monkeypatch.setattr(jax, "process_count", lambda: 16)
    monkeypatch.setattr(job, "_end_with_parent", lambda: None)
    with pytest.raises(ValueError, match="this is one of 16 processes, and a run of a study computes in one"):
        job._main(tmp_path)


def test_a_limit_below_a_second_is_refused(capsys):
    config = str(CONFIGS / "lite_ppo.py")
    assert cli.main(["train", "--config", config, "--config.distributed.heartbeat_seconds=0"]) == 2
    assert "distributed.heartbeat_seconds = 0: expected at least 1" in capsys.readouterr().err


def member(place: str, fate: str) -> None:
    """What a process of the tests below does: wait in Python, which no broken connection ends, or meet its fate."""
    settings = DistributedSettings(heartbeat_seconds=HEARTBEAT_SECONDS, start_seconds=60)
    with distributed.joined(place, settings, lambda error: f"error: {error}"):
        distributed.on_first(lambda: None)
        print("joined", flush=True)
        if fate == "stops" and not distributed.is_first():
            os.kill(os.getpid(), signal.SIGSTOP)
        if fate == "fails" and not distributed.is_first():
            raise ValueError("only here")
        time.sleep(60)


@pytest.mark.parametrize("fate", ["stops", "fails"])
def test_a_process_that_stops_or_fails_ends_the_others_within_the_stated_time(fate):
    command = [sys.executable, "-m", "tests.test_distributed"]
    first, second = both = [
        subprocess.Popen([*command, place, fate], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for place in two_places()
    ]
    try:
        for process in both:
            assert process.stdout is not None and process.stdout.readline() == "joined\n"
        begun = time.monotonic()
        _, told = first.communicate(timeout=60)
        # the coordinator looks once a second, and the machine may be busy; without a heartbeat it would be 60 s
        assert time.monotonic() - begun < HEARTBEAT_SECONDS + 15
        assert first.returncode == -signal.SIGABRT and "stopped sending heartbeats" in told
        if fate == "fails":
            _, told = second.communicate(timeout=60)
            assert second.returncode == 1 and "error: only here" in told and "process 1 of 2" in told
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_the_code_of_another_commit_has_another_hash(tmp_path, monkeypatch):
    def hash_of(text: str) -> str:
        (tmp_path / "loop.py").write_text(text)
        monkeypatch.setattr(distributed, "__file__", str(tmp_path / "distributed.py"))
        return distributed.source_hash()

    assert hash_of("a = 1") != hash_of("a = 2") and hash_of("a = 1") == hash_of("a = 1")


if __name__ == "__main__":
    member(*sys.argv[1:])
