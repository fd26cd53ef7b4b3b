import json

import gguf
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoTokenizer

from jaxrl_llm.data import tokens
from jaxrl_llm.data.tokens import CHARACTERS, character_tokenizer, load

TEMPLATE = (
    "{% for message in messages %}\n"
    "    {% if message.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}\n"
    "<{{ message['role'] }}>{{ message['content'] | tojson }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("characters")
    character_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A folder as the Hub has them: a start token of its own, a list of stop ids, a chat template in a file."""
    folder = tmp_path_factory.mktemp("words")
    vocabulary = {"<s>": 0, "</s>": 1, "<eot>": 2, "<unk>": 3, "Hello": 4, "world": 5}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.add_special_tokens(["<s>", "</s>", "<eot>"])
    backend.enable_padding(length=9)
    backend.enable_truncation(max_length=2)
    backend.save(str(folder / "tokenizer.json"))
    start = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "rstrip": False, "normalized": False}
    config = {"bos_token": start, "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1]}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def write_gguf(path, splitter="smollm"):
    """A byte-level BPE as llama.cpp stores it, of all bytes and three merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ĠĠ", "12", "hi"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(words) - 3))
    writer.add_token_merges(["Ġ Ġ", "1 2", "h i"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def bytelevel(tmp_path_factory):
    return load(write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf"))


@given(st.lists(st.sampled_from([*CHARACTERS, "####", "<|endoftext|>"])).map("".join))
@settings(max_examples=100, deadline=None)
def test_character_tokens_give_back_the_text(characters, text):
    tokenizer = load(characters)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, keep_special=True) == text
    assert len(ids) == len(text.replace("####", "#").replace("<|endoftext|>", "#"))


def test_transformers_reads_the_character_tokenizer_and_agrees(characters, tmp_path):
    text = "23+45-17=\n23+45=68\n(6/2)*1, 3: 4?.\n####51<|endoftext|>"
    theirs = AutoTokenizer.from_pretrained(characters)
    mine = load(characters)
    assert theirs(text).input_ids == mine.encode(text)
    assert theirs.decode(mine.encode(text)) == text
    assert (theirs.eos_token_id, theirs.pad_token_id) == (mine.stop_ids[0], mine.pad_id)
    theirs.save_pretrained(tmp_path)
    assert load(tmp_path).encode(text) == mine.encode(text)


def test_a_character_without_a_token_is_named(characters):
    with pytest.raises(ValueError, match=r"no token for the character 'x' of '2x'"):
        load(characters).encode("2x")


def test_the_pad_token_of_the_character_tokenizer_stops_nothing(characters):
    tokenizer = load(characters)
    assert tokenizer.pad_id not in tokenizer.stop_ids
    assert tokenizer.stop_ids == (tokenizer.token_id("<|endoftext|>"),)
    assert tokenizer.vocabulary_size == len(CHARACTERS) + 3


def test_special_tokens_stay_in_the_text_only_on_request(characters):
    tokenizer = load(characters)
    ids = tokenizer.encode("1+1=2<|endoftext|>")
    assert tokenizer.decode(ids) == "1+1=2"
    assert tokenizer.decode(ids, keep_special=True) == "1+1=2<|endoftext|>"


def test_stop_ids_come_from_all_files_that_declare_them(words):
    tokenizer = load(words)
    assert tokenizer.stop_ids == (2, 1)
    assert tokenizer.pad_id == 2  # the folder declares no pad token: any id will do, lengths tell what is padding


def test_encoding_adds_cuts_and_pads_nothing(words):
    tokenizer = load(words)
    assert tokenizer.encode("Hello world Hello") == [4, 5, 4]
    assert tokenizer.bos == "<s>"
    assert load(words).encode("<s> Hello") == [0, 4]


def test_a_text_that_is_not_one_token_is_refused_as_a_token(words):
    tokenizer = load(words)
    assert tokenizer.token_id("world") == 5
    with pytest.raises(ValueError, match=r"'Hello world' must be exactly one token, and it is 2"):
        tokenizer.token_id("Hello world")


def test_the_chat_template_gives_the_text_that_transformers_gives(words):
    messages = [{"role": "system", "content": 'Be "brief", né'}, {"role": "user", "content": "2 + 2?"}]
    theirs = AutoTokenizer.from_pretrained(words).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    assert load(words).chat(messages) == theirs
    assert theirs.startswith('<system>"Be \\"brief\\", né"</s>\n')


def test_a_template_that_refuses_the_messages_is_an_error_with_its_reason(words):
    with pytest.raises(ValueError, match="no robots"):
        load(words).chat([{"role": "robot", "content": ""}])


def test_a_tokenizer_without_a_chat_template_says_what_to_do(characters):
    with pytest.raises(ValueError, match=r"no chat template; give data\.template a text"):
        load(characters).chat([{"role": "user", "content": "1"}])


@pytest.mark.parametrize("name", ["words", "characters"])
def test_a_saved_tokenizer_loads_as_the_same(name, request, tmp_path):
    tokenizer = load(request.getfixturevalue(name))
    tokenizer.save(tmp_path)
    again = load(tmp_path)
    text = {"words": "Hello world <eot>", "characters": "12+3=15\n"}[name]
    assert again.encode(text) == tokenizer.encode(text)
    assert (again.chat_template, again.bos) == (tokenizer.chat_template, tokenizer.bos)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_tokens_of_a_gguf_file_give_back_the_text(bytelevel, text):
    assert bytelevel.decode(bytelevel.encode(text), keep_special=True) == text


def test_a_gguf_tokenizer_splits_digits_even_after_spaces(bytelevel):
    assert [bytelevel.decode([i]) for i in bytelevel.encode("hi   12")] == ["hi", "  ", " ", "1", "2"]


def test_a_gguf_file_brings_its_special_tokens_and_chat_template(bytelevel):
    assert bytelevel.encode("<|im_end|>") == [2]
    assert (bytelevel.stop_ids, bytelevel.pad_id, bytelevel.bos) == ((2,), 2, None)
    assert bytelevel.chat([{"role": "user", "content": "hi"}]) == '<user>"hi"<|im_end|>\n<assistant>'


def test_a_gguf_tokenizer_saves_as_a_folder_that_transformers_reads(bytelevel, tmp_path):
    bytelevel.save(tmp_path)
    text = "hi   12 é<|im_end|>"
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == bytelevel.encode(text)
    assert load(tmp_path).encode(text) == bytelevel.encode(text)


def test_unreadable_or_unsupported_sources_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not readable as a tokenizer"):
        load(tmp_path)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00")
    with pytest.raises(ValueError, match=r"cut\.gguf: not readable as GGUF"):
        load(tmp_path / "cut.gguf")
    with pytest.raises(ValueError, match="splitter 'qwen2' is not supported"):
        load(write_gguf(tmp_path / "other.gguf", splitter="qwen2"))


def test_a_tokenizer_that_nothing_ends_is_refused(words, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((words / "tokenizer.json").read_bytes())
    with pytest.raises(ValueError, match="no file declares an end-of-text token"):
        load(tmp_path)


def test_an_unreadable_configuration_is_named(words, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((words / "tokenizer.json").read_bytes())
    (tmp_path / "generation_config.json").write_text("{,}")
    with pytest.raises(ValueError, match=r"generation_config\.json: not readable as JSON"):
        tokens.load(tmp_path)
