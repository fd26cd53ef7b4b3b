import re

import pytest

from jaxrl_llm.data.tasks import TASKS, Mix, pretraining_text, split_of

ROWS = 200
EVERY_TIER = [(name, tier) for name, task in TASKS.items() for tier in task.tiers]
CHAIN_SUM = TASKS["chain_sum"]


def results(solution: str) -> list[tuple[int, int]]:
    """What each line of a worked solution says, and what is true: (claimed, right)."""
    lines = solution.split("\n")[:-1]
    return [(int(line.split("=")[1]), eval(line.split("=")[0])) for line in lines]


@pytest.mark.parametrize(("name", "tier"), EVERY_TIER)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_answer_is_what_python_computes_from_the_question(name, tier, split):
    for index in range(ROWS):
        example = TASKS[name].generate(tier, split, index)
        question = example.question.rstrip("=")
        right = sum(map(int, question)) % 10 if name == "digit_chain" else eval(question)
        assert example.answer == str(right)


@pytest.mark.parametrize(("name", "tier"), EVERY_TIER)
def test_no_question_is_in_both_splits(name, tier):
    questions = {
        split: {TASKS[name].generate(tier, split, index).question for index in range(ROWS)}
        for split in ("train", "held_out")
    }
    assert not questions["train"] & questions["held_out"]
    assert {split_of(question) for question in questions["held_out"]} == {"held_out"}


def test_about_one_question_in_eight_is_held_out():
    every_sum = [f"{a} + {b}" for a in range(100) for b in range(100)]
    share = sum(split_of(question) == "held_out" for question in every_sum) / len(every_sum)
    assert abs(share - 1 / 8) < 0.01  # three standard errors


def test_rows_are_the_same_on_every_machine_and_in_every_order():
    # Written down once: an embedded model and every recorded accuracy rest on these rows.
    assert CHAIN_SUM.generate("medium", "train", 0).question == "69-60+18-23="
    assert CHAIN_SUM.generate("medium", "held_out", 7).question == "43+91+15+61="
    assert TASKS["addition"].generate("medium", "held_out", 3).question == "41 + 49"
    forwards = [CHAIN_SUM.generate("easy", "train", index) for index in range(20)]
    backwards = [CHAIN_SUM.generate("easy", "train", index) for index in reversed(range(20))]
    assert forwards == backwards[::-1]


def test_questions_of_the_medium_tier_almost_never_repeat():
    questions = {CHAIN_SUM.generate("medium", "train", index).question for index in range(2000)}
    assert len(questions) >= 1999


@pytest.mark.parametrize(("tier", "numbers", "largest"), [("easy", 3, 49), ("medium", 4, 99), ("hard", 6, 99)])
def test_a_tier_has_its_count_and_size_of_numbers_and_no_total_below_zero(tier, numbers, largest):
    seen = set()
    for index in range(ROWS):
        example = CHAIN_SUM.generate(tier, "train", index)
        values = [int(number) for number in re.findall(r"\d+", example.question)]
        assert len(values) == numbers
        seen.update(values)
        assert all(claimed == right >= 0 for claimed, right in results(example.solution))
        assert example.solution.endswith(f"\n####{example.answer}")
    assert min(seen) == 1
    assert max(seen) == largest


def test_the_worked_solution_reads_as_documented():
    example = CHAIN_SUM.generate("medium", "train", 0)
    assert example == ("69-60+18-23=", "4", "69-60=9\n9+18=27\n27-23=4\n####4")


def test_a_chain_of_digits_is_solved_by_its_running_totals_modulo_ten():
    task = TASKS["digit_chain"]
    for tier, largest in {"easy": 3, "medium": 6, "hard": 9}.items():
        examples = [task.generate(tier, "train", index) for index in range(ROWS)]
        assert {int(digit) for example in examples for digit in example.question[:-1]} == set(range(largest + 1))
        for index, example in enumerate(examples):
            digits = [int(digit) for digit in example.question[:-1]]
            totals = [sum(digits[: count + 1]) % 10 for count in range(5)]
            assert example.solution == "".join(map(str, totals)) + f"####{totals[-1]}"
            careless = pretraining_text(task, tier, index, Mix(0, 0, 1, 0), seed=0)
            steps = [int(digit) for digit in careless.partition("####")[0]]
            slips = [
                (after - before - digit) % 10
                for before, after, digit in zip(steps[:-1], steps[1:], digits[1:], strict=True)
            ]
            assert sum(slip != 0 for slip in slips) == 1
            assert careless.partition("####")[2] == str(steps[-1]) != example.answer


def test_a_task_without_worked_solutions_has_no_pretraining_text():
    with pytest.raises(ValueError, match=r"task:addition has no worked solutions .* chain_sum, digit_chain"):
        pretraining_text(TASKS["addition"], "easy", 0, Mix(1, 0, 0, 0), seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny", "train", 0), "no tier 'tiny'; its tiers are easy, medium, hard"),
        (("easy", "test", 0), "no split 'test'; its splits are train, held_out"),
        (("easy", "train", -1), "row -1"),
    ],
)
def test_an_unknown_tier_split_or_row_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CHAIN_SUM.generate(*arguments)


def test_pretraining_text_of_one_quality_only():
    for index in range(ROWS):
        example = CHAIN_SUM.generate("hard", "train", index)
        assert pretraining_text(CHAIN_SUM, "hard", index, Mix(1, 0, 0, 0), seed=0) == example.solution
        assert pretraining_text(CHAIN_SUM, "hard", index, Mix(0, 1, 0, 0), seed=0) == f"####{example.answer}"


def test_a_careless_text_has_one_wrong_result_and_carries_it_to_a_wrong_answer():
    errors, places = set(), set()
    for index in range(ROWS):
        text = pretraining_text(CHAIN_SUM, "medium", index, Mix(0, 0, 1, 0), seed=0)
        lines = results(text)
        wrong = [(place, claimed - right) for place, (claimed, right) in enumerate(lines) if claimed != right]
        assert len(wrong) == 1
        places.add(wrong[0][0])
        errors.add(wrong[0][1])
        starts = [int(re.split(r"[-+]", line)[0]) for line in text.split("\n")[:-1]]
        assert starts[1:] == [claimed for claimed, _ in lines[:-1]]  # each line goes on from the one before
        assert min(claimed for claimed, _ in lines) >= 0
        answer = int(text.rpartition("####")[2])
        assert answer == lines[-1][0] != int(CHAIN_SUM.generate("medium", "train", index).answer)
    assert errors == {-10, -1, 1, 10}
    assert places == {0, 1, 2}


def test_a_rambling_text_goes_on_with_one_other_question_of_the_train_split():
    for index in range(50):
        question, _, text = CHAIN_SUM.generate("easy", "train", index)
        whole = pretraining_text(CHAIN_SUM, "easy", index, Mix(1, 0, 0, 1), seed=0)
        assert whole.startswith(f"{text}\n")
        other, _, solution = whole.removeprefix(f"{text}\n").partition("=")
        assert f"{other}=" != question
        assert split_of(f"{other}=") == "train"
        assert solution.endswith(f"####{eval(other)}")


def test_the_qualities_come_as_often_as_the_mix_says():
    mix, count = Mix(steps=0.5, direct=0.2, careless=0.3, rambling=0.25), 4000
    seen = dict.fromkeys(("steps", "direct", "careless", "rambling"), 0)
    for index in range(count):
        text = pretraining_text(CHAIN_SUM, "easy", index, mix, seed=3)
        answer, _, more = text.partition("####")[2].partition("\n")
        right = answer == CHAIN_SUM.generate("easy", "train", index).answer
        seen["rambling"] += bool(more)
        seen["direct" if text.startswith("####") else "steps" if right else "careless"] += 1
    for quality, times in seen.items():
        assert abs(times / count - getattr(mix, quality)) < 0.03  # four standard errors


def test_another_seed_gives_other_texts_to_the_same_questions():
    mix = Mix(0.5, 0.5, 0, 0)
    texts = [[pretraining_text(CHAIN_SUM, "easy", index, mix, seed=seed) for index in range(50)] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("values", [(0.5, 0.6, 0, 0), (0.3, 0.3, 0.3, 0), (1.5, -0.5, 0, 0), (1, 0, 0, 2)])
def test_probabilities_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match=r"sum to 1|no probability"):
        Mix(*values)
