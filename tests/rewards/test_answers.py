import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrl_llm.rewards.answers import extract, normalize, same


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}} dollars", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{1}", r"\{1"),  # an escaped brace opens nothing
        (r"\boxed {7}", "7"),
        (r"{\boxed{3}} }", "3"),
        (r"\boxed{4} but \boxed{5", "4"),  # cut off at the limit
        (r"\boxed{\text{see \boxed{6}}}", "6"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        ("boxed{8}", None),
        ("#### 9", None),
        ("", None),
    ],
)
def test_boxed_reads_the_last_box_whose_braces_balance(text, answer):
    assert extract(text, "boxed") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2+3=5\n####5", "5"),
        ("#### 1,024 \nNext: #### 7", "1,024"),  # a model that rambles on has answered already
        ("5\n####\n7", None),
        ("### 5", None),
        ("##### 5", "# 5"),
    ],
)
def test_hash_reads_the_first_marker_to_the_end_of_its_line(text, answer):
    assert extract(text, "hash") == answer


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        (" 37\n40 + 18 = 58", "37", "58"),
        ("5-3", "5", "3"),  # a minus between numbers is an operator
        ("(4)-3", "4", "3"),
        ("x = -3.", "-3", "-3"),
        ("from -3 to 1,234.50.", "-3", "1,234.50"),
        ("1,2 and 12,3456", "1", "3456"),
        ("−7 or .5", "−7", ".5"),
        ("none", None, None),
    ],
)
def test_the_first_and_the_last_number_of_a_text(text, first, last):
    assert extract(text, "first_number") == first
    assert extract(text, "last_number") == last


@pytest.mark.parametrize(
    ("text", "answer"),
    [(r"1 \boxed{2} #### 3\n4", "2"), (r"1 \boxed{} #### 3", "3"), ("1 and 4.", "4"), ("no answer", None)],
)
def test_any_prefers_a_box_to_a_marker_to_a_number(text, answer):
    assert extract(text, "any") == answer


def test_an_unknown_format_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'box' is none of boxed, hash, first_number, last_number, any"):
        extract("1", "box")  # pyright: ignore[reportArgumentType]


def test_a_hostile_text_takes_no_longer_than_its_length():
    start = time.monotonic()
    assert extract("\\boxed{" * 50_000, "any") is None
    assert extract("1," * 50_000, "any") == "1"
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("59.0", "59"),
        ("059", "59"),
        ("+59", "59"),
        (" 59. ", "59"),
        ("$59$", r"\$59"),
        ("1,234", "1234"),
        ("1,234,567.50", "1234567.5"),
        ("-0", "0"),
        (".5", "0.50"),
        ("−7", "-7"),
        (r"\text{Evelyn}.", "Evelyn"),
        (r"5 \text{ cm}", "5 cm"),
        ("x  =\n1", "x = 1"),
    ],
)
def test_answers_that_differ_in_writing_only_are_the_same(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1/2", "0.5"), ("10%", "10"), ("12,34", "1234"), ("59", "5 9"), ("-5", "5"), ("x", "X"), ("1e2", "100")],
)
def test_answers_that_need_algebra_or_luck_are_not_the_same_text(one, other):
    assert not same(one, other)


@given(st.integers(), st.integers(0, 3), st.booleans())
def test_a_whole_number_is_one_answer_however_it_is_written(number, zeros, commas):
    written = f"{number:,}" if commas else f"{number}"
    assert normalize(written + ("." + "0" * zeros if zeros else "")) == str(number)


@given(st.text(alphabet="0123456789.,+-$ \\text{}ab"))
def test_normalizing_twice_changes_nothing_more_for_numbers(text):
    if normalize(text).replace("-", "").replace(".", "").isdigit():
        assert normalize(normalize(text)) == normalize(text)
