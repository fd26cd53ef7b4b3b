import dataclasses
import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from jaxrl_llm.data.prompts import DataSettings, Problem, load_problems
from jaxrl_llm.data.templates import encode_prompt, encode_prompts, keep_fitting, render
from jaxrl_llm.data.tokens import character_tokenizer, load

SETTINGS = DataSettings(
    source="jsonl:sums.jsonl",
    tier="easy",
    split="train",
    question_key="question",
    answer_key="answer",
    source_key=None,
    template="{question}=",
    system="",
    max_prompt_tokens=4,
    long_prompts="error",
    prompts_per_step=1,
    samples_per_prompt=1,
)
PROBLEMS = [Problem(row, text, "0", "jsonl:sums.jsonl") for row, text in enumerate(["1+1", "11+1", "1", "1+111"])]


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    return character_tokenizer(tmp_path_factory.mktemp("characters"))


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """One token a character, a start token before every text, and a chat template that writes it itself."""
    folder = tmp_path_factory.mktemp("chatty")
    words = ["<s>", "</s>", "<unk>", *"Be.Hi?SU:\n {q}"]
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), behavior="isolated")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    template = "{{ bos_token }}{% for m in messages %}{{ m.role[0] | upper }}: {{ m.content }}\n{% endfor %}"
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load(folder)


def test_a_text_template_holds_the_question_and_nothing_else_is_replaced(characters):
    template = "{a} 1 + 1 = 2\n{question} = {}"
    assert render(template, "{question}!", system="", tokenizer=characters) == "{a} 1 + 1 = 2\n{question}! = {}"


def test_the_chat_template_gets_the_system_message_only_where_there_is_one(chatty):
    assert render("chat", "Hi?", system="Be.", tokenizer=chatty) == "<s>S: Be.\nU: Hi?\n"
    assert render("chat", "Hi?", system="", tokenizer=chatty) == "<s>U: Hi?\n"


@pytest.mark.parametrize("template", ["{question}", "<s>{question}", "chat"])
def test_every_prompt_starts_with_the_start_token_once(chatty, template):
    settings = dataclasses.replace(SETTINGS, template=template)
    ids = encode_prompt(Problem(0, "Hi?", "0", "s"), settings, chatty)
    assert ids[0] == 0
    assert ids.count(0) == 1
    assert chatty.decode(ids).endswith("H i ?" if template != "chat" else "H i ? \n")


def test_prompts_within_the_limit_become_their_tokens(characters):
    prompts = encode_prompts([PROBLEMS[0], PROBLEMS[2]], SETTINGS, characters)
    assert [characters.decode(prompt) for prompt in prompts] == ["1+1=", "1="]


def test_a_prompt_over_the_limit_is_an_error_that_names_its_row(characters):
    message = r"sums\.jsonl, line 2: the prompt has 5 tokens, data\.max_prompt_tokens is 4"
    with pytest.raises(ValueError, match=message):
        encode_prompts(PROBLEMS, SETTINGS, characters)
    with pytest.raises(ValueError, match=message):
        keep_fitting(PROBLEMS, SETTINGS, characters)


def test_long_prompts_are_dropped_and_counted_on_request(characters):
    kept, dropped = keep_fitting(PROBLEMS, dataclasses.replace(SETTINGS, long_prompts="drop"), characters)
    assert [kept[row] for row in range(2)] == [PROBLEMS[0], PROBLEMS[2]]
    assert dropped == 2
    roomy = dataclasses.replace(SETTINGS, max_prompt_tokens=6)
    assert keep_fitting(PROBLEMS, roomy, characters) == (PROBLEMS, 0)


def test_data_of_which_nothing_fits_is_refused(characters):
    settings = dataclasses.replace(SETTINGS, long_prompts="drop", max_prompt_tokens=1)
    with pytest.raises(ValueError, match="all 4 prompts are longer than"):
        keep_fitting(PROBLEMS, settings, characters)


def test_a_task_is_checked_by_its_first_rows_and_cannot_drop_any(characters):
    task = load_problems("task:chain_sum", tier="easy", split="train", question_key="", answer_key="")
    settings = dataclasses.replace(SETTINGS, source="task:chain_sum", template="{question}", max_prompt_tokens=9)
    assert keep_fitting(task, settings, characters) == (task, 0)
    with pytest.raises(ValueError, match="task:chain_sum/easy/train, row"):
        keep_fitting(task, dataclasses.replace(settings, max_prompt_tokens=8), characters)
    with pytest.raises(ValueError, match="needs data with an end; task:chain_sum has none"):
        keep_fitting(task, dataclasses.replace(settings, long_prompts="drop"), characters)


def test_a_question_that_the_tokenizer_cannot_write_names_its_row(characters):
    with pytest.raises(ValueError, match=r"sums\.jsonl, line 8: .*no token for the character 'x'"):
        encode_prompts([Problem(7, "x+1", "0", "jsonl:sums.jsonl")], SETTINGS, characters)
