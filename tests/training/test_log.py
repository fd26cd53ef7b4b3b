"""The files of a run: whose folder it is, what a line looks like, and what is left after a rewind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxrl_llm.training.log import RunLog, claim, read

CONFIG = {"seed": 1, "run_dir": "here", "sampling": {"stop": ("a",), "top_p": 0.9}, "optimizer": {"clip_norm": None}}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_is_claimed_once_and_again_by_the_same_config(tmp_path):
    claim(tmp_path / "a" / "run", CONFIG)
    first = (tmp_path / "a" / "run" / "config.json").read_bytes()
    claim(tmp_path / "a" / "run", json.loads(json.dumps(CONFIG)))
    assert (tmp_path / "a" / "run" / "config.json").read_bytes() == first
    assert json.loads(first) == json.loads(json.dumps(CONFIG))


def test_a_folder_of_another_config_is_refused_with_the_keys_that_differ(tmp_path):
    claim(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    other = CONFIG | {"seed": 2, "sampling": {"stop": ("a",), "top_p": 1.0}, "new": 3}
    with pytest.raises(FileExistsError) as error:
        claim(tmp_path, other)
    for part in ("seed (1 -> 2)", "sampling.top_p (0.9 -> 1.0)", 'new ("absent" -> 3)', str(tmp_path)):
        assert part in str(error.value)
    assert "stop" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_run_may_be_moved_to_another_folder(tmp_path):
    claim(tmp_path, CONFIG)
    claim(tmp_path, CONFIG | {"run_dir": "elsewhere"})


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints"])
def test_a_folder_with_traces_of_a_run_but_no_config_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=name):
        claim(tmp_path, CONFIG)


def test_a_file_in_place_of_the_folder_and_a_damaged_config_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"run_dir .*file is a file"):
        claim(tmp_path / "file", CONFIG)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        claim(tmp_path, CONFIG)


def test_a_folder_with_other_things_in_it_is_claimed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path, CONFIG)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_metrics_are_sorted_floats_and_what_json_cannot_say_is_null(tmp_path):
    with RunLog(tmp_path, CONFIG, tensorboard=False) as log:
        log.metrics(3, {"b": np.float32(0.5), "a": 2, "c": math.nan, "d": np.inf})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "a": 2.0, "b": 0.5, "c": null, "d": null}\n'


def test_a_line_is_in_the_file_when_its_call_returns(tmp_path):
    log = RunLog(tmp_path, CONFIG, tensorboard=False)
    log.metrics(1, {"a": 1})
    log.speed(1, {"seconds": 0.5})
    log.evaluation(1, [7, 9], [0.25, 1.0])
    log.evaluation(2, [7, 9], [0.25, 1.0], ["amc23", "aime24"])
    log.samples(1, [{"completion": "β\n<b>"}, {"completion": ""}])
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]
    assert lines(tmp_path / "speed.jsonl") == [{"step": 1, "seconds": 0.5}]
    first = {"step": 1, "problems": [7, 9], "accuracy": [0.25, 1.0]}
    assert lines(tmp_path / "evaluations.jsonl") == [first, first | {"step": 2, "benchmarks": ["amc23", "aime24"]}]
    assert lines(tmp_path / "samples.jsonl") == [{"step": 1, "completion": "β\n<b>"}, {"step": 1, "completion": ""}]
    log.close()


def test_a_text_with_any_line_break_of_unicode_is_read_back_in_one_row(tmp_path):
    text = "a\nb\r\nc\x85d\u2028e\u2029f"
    with RunLog(tmp_path, CONFIG, tensorboard=False) as log:
        log.samples(1, [{"completion": text}])
    assert read(tmp_path / "samples.jsonl") == [{"step": 1, "completion": text}]


def write_steps(log: RunLog, steps: range) -> None:
    for step in steps:
        log.metrics(step, {"reward": step / 3})
        log.speed(step, {"seconds": 1})
        log.evaluation(step, [0, 1], [step / 8, 0.5])
        log.samples(step, [{"completion": f"text of step {step} ≥"}])


def test_a_rewound_run_that_goes_on_has_the_bytes_of_one_that_never_stopped(tmp_path):
    with RunLog(tmp_path / "whole", CONFIG, tensorboard=False) as log:
        write_steps(log, range(1, 7))
    stopped = RunLog(tmp_path / "stopped", CONFIG, tensorboard=False)
    write_steps(stopped, range(1, 4))
    position = json.loads(json.dumps(stopped.position()))
    write_steps(stopped, range(4, 6))
    (tmp_path / "stopped" / "metrics.jsonl").open("a").write('{"step": 6, "rew')  # killed in the middle of a line
    with RunLog(tmp_path / "stopped", CONFIG, tensorboard=False) as log:
        log.rewind(position)
        write_steps(log, range(4, 7))
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "speed.jsonl"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_rewind_to_the_start_empties_the_files(tmp_path):
    with RunLog(tmp_path, CONFIG, tensorboard=False) as log:
        write_steps(log, range(2))
        log.rewind({})
        assert set(log.position().values()) == {0}


def test_a_file_that_lost_lines_since_the_checkpoint_is_an_error(tmp_path):
    with RunLog(tmp_path, CONFIG, tensorboard=False) as log:
        write_steps(log, range(2))
        position = log.position()
        (tmp_path / "samples.jsonl").write_text("")
        with pytest.raises(ValueError, match=r"samples\.jsonl has 0 bytes, but had \d+"):
            log.rewind(position)


def test_every_start_leaves_its_command_and_versions(tmp_path):
    for _ in range(2):
        RunLog(tmp_path, CONFIG, tensorboard=False).close()
    starts = lines(tmp_path / "starts.jsonl")
    assert len(starts) == 2
    assert {"time", "command", "versions", "platform", "devices"} == starts[0].keys()
    assert starts[0]["versions"]["jax"]


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """What the event files of a folder hold, read back record by record."""
    from tensorboardX.proto import event_pb2

    parse = getattr(event_pb2, "Event").FromString  # noqa: B009 - made at import, so no checker knows it
    found = []
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length uint64, its checksum, the record, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = parse(data[at + 12 : at + 12 + size])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + size
    return found


def test_tensorboard_gets_every_number_under_its_name(tmp_path):
    with RunLog(tmp_path, CONFIG, tensorboard=True) as log:
        log.metrics(1, {"eval/avg": 0.5, "bad": math.nan})
        log.speed(1, {"seconds": 2})
    assert scalars(tmp_path / "tensorboard") == [("eval/avg", 1, 0.5), ("speed/seconds", 1, 2.0)]
    with RunLog(tmp_path / "without", CONFIG, tensorboard=False) as log:
        log.metrics(1, {"a": 1})
    assert not (tmp_path / "without" / "tensorboard").exists()
