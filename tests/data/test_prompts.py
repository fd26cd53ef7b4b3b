import json

import datasets
import datasets.config
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl_llm.data.prompts import DataSettings, Problem, PromptStream, first, load_problems

KEYS = {"tier": "easy", "split": "train", "question_key": "question", "answer_key": "answer"}
FIELDS = {
    **KEYS,
    "source": "task:addition",
    "source_key": None,
    "template": "{question}",
    "system": "",
    "max_prompt_tokens": 8,
    "long_prompts": "error",
    "prompts_per_step": 2,
    "samples_per_prompt": 2,
}


def write_lines(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return f"jsonl:{path}"


def finite(count, text="q"):
    return [Problem(row, f"{text}{row}", str(row), "jsonl:made.jsonl") for row in range(count)]


def test_a_row_names_its_source_where_a_key_says_so(tmp_path):
    rows = [{"question": "a", "answer": 1, "set": "gsm8k"}, {"question": "b", "answer": 2, "set": 7}]
    source = write_lines(tmp_path / "mixed.jsonl", *rows)
    assert [p.origin for p in first(load_problems(source, **KEYS, source_key="set"), 9)] == ["gsm8k", "7"]
    assert [p.origin for p in first(load_problems(source, **KEYS), 9)] == [None, None]
    with pytest.raises(ValueError, match=r"mixed\.jsonl, line 1: no key 'origin'; the row has .*'set'"):
        load_problems(source, **KEYS, source_key="origin")
    blank = write_lines(tmp_path / "blank.jsonl", {"question": "a", "answer": 1, "set": " "})
    with pytest.raises(ValueError, match=r"blank\.jsonl, line 1: 'set' is ' ', expected a text"):
        load_problems(blank, **KEYS, source_key="set")


def test_rows_of_a_file_become_problems(tmp_path):
    source = write_lines(
        tmp_path / "some.jsonl",
        {"q": "How many? ", "a": 72, "level": 1},
        "",
        {"q": "Wie viele?\n", "a": "She sold 24.\n#### 1,024 "},
        {"q": "x", "a": 0.5},
    )
    problems = load_problems(source, **{**KEYS, "question_key": "q", "answer_key": "a"})
    assert [(p.question, p.answer, p.id) for p in first(problems, 9)] == [
        ("How many? ", "72", 0),
        ("Wie viele?\n", "1,024", 2),
        ("x", "0.5", 3),
    ]
    assert problems[1].name == f"{tmp_path}/some.jsonl, line 3"


def test_a_key_may_be_inside_an_object_and_an_answer_a_list(tmp_path):
    """Rows in the form of SimpleRL-Zoo-Data, and of OlympiadBench."""
    nested = {"extra_info": {"index": 0, "question": "How many?", "answer": "72"}, "prompt": []}
    source = write_lines(tmp_path / "nested.jsonl", nested)
    keys = {"question_key": "extra_info.question", "answer_key": "extra_info.answer"}
    assert load_problems(source, **{**KEYS, **keys})[0].answer == "72"
    with pytest.raises(ValueError, match=r"line 1, extra_info: no key 'gold'; the row has 'index', 'question'"):
        load_problems(source, **{**KEYS, **keys, "answer_key": "extra_info.gold"})
    lists = [{"question": "x?", "answer": answer} for answer in (["$2$"], ["1", 3])]
    assert [p.answer for p in first(load_problems(write_lines(tmp_path / "l.jsonl", *lists), **KEYS), 2)] == [
        "$2$",
        "1, 3",
    ]
    for answer in ([], [None], [["1"], {}]):
        with pytest.raises(ValueError, match=r"bad\.jsonl, line 1: 'answer' is .*expected a text"):
            load_problems(write_lines(tmp_path / "bad.jsonl", {"question": "x?", "answer": answer}), **KEYS)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("openai/gsm8k:main", ("openai/gsm8k", "main", None, None)),
        ("some/pool@abc123", ("some/pool", None, None, "abc123")),
        ("some/pool:en@abc", ("some/pool", "en", None, "abc")),
        ("some/pool/level1/train.parquet", ("some/pool", None, {"train": "level1/train.parquet"}, None)),
        ("gsm8k", ("gsm8k", None, None, None)),
    ],
)
def test_a_data_set_of_the_hub_is_named_with_file_configuration_and_revision(monkeypatch, source, expected):
    def load(name, configuration, *, data_files, split, revision):
        assert split == "train"
        asked.append((name, configuration, data_files, revision))
        return [{"question": "1", "answer": "1"}]

    asked: list[tuple] = []
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(first(load_problems(f"hub:{source}", **KEYS), 9)) == 1
    assert asked == [expected]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no rows"),
        (["", " "], "no rows"),
        ([{"question": "1", "answer": "2"}, '{"question": '], r"bad\.jsonl, line 2: not JSON"),
        ([[1]], r"bad\.jsonl, line 1: \[1\], expected an object with 'question' and 'answer'"),
        ([{"question": "1"}], r"bad\.jsonl, line 1: no key 'answer'; the row has 'question'"),
        (["", {"answer": "1", "quest": "?"}], r"bad\.jsonl, line 2: no key 'question'; the row has 'answer', 'quest'"),
        ([{"question": " ", "answer": "2"}], r"bad\.jsonl, line 1: 'question' is ' ', expected a text"),
        ([{"question": "1", "answer": "so #### "}], r"bad\.jsonl, line 1: 'answer' is 'so #### ', expected a text"),
        ([{"question": "1", "answer": None}], r"bad\.jsonl, line 1: 'answer' is None"),
        ([{"question": "1", "answer": True}], r"bad\.jsonl, line 1: 'answer' is True"),
        ([{"question": 1, "answer": "2"}], r"bad\.jsonl, line 1: 'question' is 1"),
    ],
)
def test_a_bad_row_is_an_error_that_names_file_and_line(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        load_problems(write_lines(tmp_path / "bad.jsonl", *lines), **KEYS)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl does not exist"):
        load_problems(f"jsonl:{tmp_path}/gone.jsonl", **KEYS)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.jsonl cannot be read"):
        load_problems(f"jsonl:{tmp_path}/binary.jsonl", **KEYS)


@pytest.mark.parametrize("source", ["chain_sum", "csv:x.csv", "jsonl:", "hub:", ""])
def test_an_unknown_kind_of_source_is_refused_with_those_that_exist(source):
    with pytest.raises(ValueError, match="expected task:NAME, jsonl:PATH or hub:NAME"):
        load_problems(source, **KEYS)


def test_an_unknown_task_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="the built-in tasks are chain_sum, digit_chain, addition"):
        load_problems("task:chess", **KEYS)


def test_a_task_with_an_unknown_tier_is_refused_before_its_first_row_is_needed():
    with pytest.raises(ValueError, match="no tier 'simple'"):
        load_problems("task:addition", **{**KEYS, "tier": "simple"})


def test_a_data_set_of_the_hub_loads_by_split_and_a_missing_split_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sums"  # the same loader as for a name on the Hub, without the network
    folder.mkdir()
    write_lines(folder / "train.jsonl", {"question": "1 + 1", "answer": "2"}, {"question": "1 + 2", "answer": "3"})
    problems = load_problems(f"hub:{folder}", **KEYS)
    assert [(p.question, p.answer) for p in first(problems, 5)] == [("1 + 1", "2"), ("1 + 2", "3")]
    assert problems[1].name == f"hub:{folder}, row 1 (from 0)"
    with pytest.raises(ValueError, match=r"sums', split 'validation', cannot be loaded"):
        load_problems(f"hub:{folder}", **{**KEYS, "split": "validation"})


def test_a_task_has_as_many_rows_as_one_asks_for():
    problems = load_problems("task:chain_sum", **{**KEYS, "split": "held_out"})
    rows = first(problems, 12)
    assert [row.id for row in rows] == list(range(12))
    assert rows[11] == problems[11]
    assert rows[0].source == "task:chain_sum/easy/held_out"


def test_an_epoch_holds_every_row_once_and_no_two_epochs_have_one_order():
    stream = PromptStream(finite(20), seed=0)
    epochs = [[problem.id for problem in stream.next(20)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [problem.id for problem in PromptStream(finite(20), seed=1).next(20)] != epochs[0]


def test_the_batch_size_does_not_change_the_order():
    one, other = PromptStream(finite(7), seed=5), PromptStream(finite(7), seed=5)
    assert [p for _ in range(10) for p in one.next(3)] == other.next(30)


def test_shuffling_moves_every_row_to_every_place():
    """Over 400 seeds each of 4 rows should stand 100 times at each place (standard deviation 8.7)."""
    places = [[0] * 4 for _ in range(4)]
    for seed in range(400):
        for place, problem in enumerate(PromptStream(finite(4), seed).next(4)):
            places[problem.id][place] += 1
    assert all(65 < count < 135 for row in places for count in row)


def test_a_task_is_read_row_by_row_from_a_start_that_the_seed_chooses():
    problems = load_problems("task:addition", **KEYS)
    ids = [[p.id for p in PromptStream(problems, seed).next(5)] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] == list(range(ids[0][0], ids[0][0] + 5))
    assert ids[2][0] != ids[0][0]
    assert max(ids[0] + ids[2]) < 2**30 + 5


@pytest.mark.parametrize("endless", [False, True])
@given(before=st.integers(0, 25), after=st.integers(1, 25), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_restored_stream_goes_on_exactly_where_the_saved_one_stood(endless, before, after, seed):
    problems = load_problems("task:chain_sum", **KEYS) if endless else finite(9)
    stream = PromptStream(problems, seed)
    stream.next(before)
    saved = json.loads(json.dumps(stream.state()))
    expected = stream.next(after)
    again = PromptStream(problems, seed)
    again.next(3)
    again.restore(saved)
    assert again.next(after) == expected
    assert again.state() == stream.state()


def test_a_place_in_other_data_or_of_another_seed_is_refused():
    saved = PromptStream(finite(9), seed=0).state()
    with pytest.raises(ValueError, match=r"belongs to other data.*made\.jsonl"):
        PromptStream(finite(9, text="p"), seed=0).restore(saved)
    with pytest.raises(ValueError, match="belongs to other data"):
        PromptStream(load_problems("task:addition", **KEYS), seed=0).restore(saved)
    with pytest.raises(ValueError, match="belongs to another seed: seed 0, and this run's is 1"):
        PromptStream(finite(9), seed=1).restore(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompts_per_step", 0),
        ("samples_per_prompt", -1),
        ("max_prompt_tokens", 0),
        ("long_prompts", "cut"),
        ("template", "Question:"),
        ("system", "Be brief."),  # no text template reads it
        ("source_key", "origin"),  # a built-in task has no rows to read it from
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(key, value):
    DataSettings(**FIELDS)
    with pytest.raises(ValueError, match=f"data\\.{key} = {value!r}"):
        DataSettings(**{**FIELDS, key: value})
