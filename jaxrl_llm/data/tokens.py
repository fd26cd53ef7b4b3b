"""Text to token ids and back: one wrapper for every source of a tokenizer.

A tokenizer is read from a Hugging Face folder (``tokenizer.json`` with its configuration files beside it) or from the
lists inside a GGUF file, and runs on the ``tokenizers`` library. The pad id fills arrays and says nothing: in some
checkpoints it is also a stop token, so whoever needs to know where a row ends keeps its length.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

CHARACTERS = "0123456789+-*/=().,:? \n"  # of the character tokenizer, beside "####" and its two special tokens
END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"


class Tokenizer:
    """Encodes, decodes and fills chat templates.

    Attributes:
      pad_id: fills the right side of arrays; may equal a stop id.
      stop_ids: tokens that end a completion, most specific source first: generation config, model config, tokenizer.
      bos: text of the token that a raw text starts with, or None where the tokenizer adds none.
      vocabulary_size: ids are 0 .. vocabulary_size - 1.
      chat_template: in jinja, or None.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], *, stop_ids: Sequence[int], name: str):
        """Wraps a tokenizer.

        Args:
          backend: of the ``tokenizers`` library.
          config: content of a ``tokenizer_config.json``, ``chat_template`` included.
          stop_ids: that other files declare, beside the eos token of ``config``.
          name: of the source, for error messages.
        """
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._config = dict(config)
        self._name = name
        self._unknown = _single_characters(backend)
        self.chat_template: str | None = _template_text(config.get("chat_template"))
        eos, pad = self._special("eos_token"), self._special("pad_token")
        declared = [*stop_ids, *([] if eos is None else [self.token_id(eos)])]
        if not declared:
            raise ValueError(f"{name}: no file declares an end-of-text token (eos_token_id or eos_token)")
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(declared))
        self.pad_id: int = self.stop_ids[0] if pad is None else self.token_id(pad)
        self.vocabulary_size: int = max(self.vocabulary.values()) + 1
        added = backend.encode("").ids  # what the tokenizer's own post-processor puts around a text
        bos = self._special("bos_token")
        self.bos: str | None = bos if bos is not None and added and added[0] == self.token_id(bos) else None

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id, special tokens included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def _special(self, key: str) -> str | None:
        value = self._config.get(key)
        return value["content"] if isinstance(value, Mapping) else value

    def encode(self, text: str) -> list[int]:
        """Token ids of exactly this text: nothing is added in front or behind; special tokens in it are recognized.

        Raises:
          ValueError: where a character has no token.
        """
        if self._unknown is not None:
            _check_characters(text, self._unknown, self._name)
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """The text of ids, without special tokens unless ``keep_special``; bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=not keep_special)

    def token_id(self, text: str) -> int:
        """The id of a text that is one token.

        Raises:
          ValueError: where it is not exactly one.
        """
        known = self._backend.token_to_id(text)
        ids = [known] if known is not None else self.encode(text)
        if len(ids) != 1:
            raise ValueError(f"{self._name}: {text!r} must be exactly one token, and it is {len(ids)}: {ids}")
        return ids[0]

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that asks for the next turn of a conversation, by the tokenizer's chat template.

        Args:
          messages: ``{"role": ..., "content": ...}`` each.

        Raises:
          ValueError: where the tokenizer has no chat template, or its template refuses the messages.
        """
        if self.chat_template is None:
            raise ValueError(f"{self._name}: no chat template; give data.template a text with {{question}} in it")
        import jinja2
        import jinja2.ext
        import jinja2.sandbox

        def refuse(message: str):
            raise jinja2.TemplateError(message)

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )  # the settings that chat templates are written for, as in transformers
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = refuse
        special = {key: self._special(key) or "" for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        try:
            template = environment.from_string(self.chat_template)
            return template.render(messages=list(messages), add_generation_prompt=True, **special)
        except jinja2.TemplateError as error:
            raise ValueError(f"{self._name}: the chat template failed: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Writes ``tokenizer.json``, ``tokenizer_config.json`` and, if there is one, ``chat_template.jinja``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / "tokenizer.json"))
        config = {key: value for key, value in self._config.items() if key != "chat_template"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template)


def load(path: str | Path) -> Tokenizer:
    """Reads the tokenizer of a Hugging Face folder or of a ``.gguf`` file.

    Raises:
      FileNotFoundError: where the path or its ``tokenizer.json`` is missing.
      ValueError: where a file cannot be read, or the kind of tokenizer is not supported.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"tokenizer: {path} does not exist")
    return _load_gguf(path) if path.suffix == ".gguf" else _load_folder(path)


def character_tokenizer(folder: str | Path) -> Tokenizer:
    """Writes the tokenizer of the embedded model to a folder, and returns it.

    One token a character for ``CHARACTERS``, one for ``####``, and the special tokens for end of text and padding.
    """
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    words = [END_OF_TEXT, PAD, "####", *CHARACTERS]
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unknown|>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([END_OF_TEXT, PAD])
    backend.add_tokens([AddedToken("####", normalized=False)])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
    }
    tokenizer = Tokenizer(backend, config, stop_ids=(), name=str(folder))
    tokenizer.save(folder)
    return tokenizer


def _single_characters(backend: tokenizers.Tokenizer) -> Mapping[str, int] | None:
    """The vocabulary of a tokenizer that has no token for the unknown, or None where every text has an encoding."""
    model = backend.model
    lacks_unknown = type(model).__name__ == "WordLevel" and backend.token_to_id(model.unk_token) is None
    return backend.get_vocab(with_added_tokens=True) if lacks_unknown else None


def _check_characters(text: str, vocabulary: Mapping[str, int], name: str) -> None:
    longer = [word for word in vocabulary if len(word) > 1]
    rest = text
    for word in longer:
        rest = rest.replace(word, "")
    for character in rest:
        if character not in vocabulary:
            raise ValueError(f"{name}: no token for the character {character!r} of {text[:80]!r}")


def _template_text(template: Any) -> str | None:
    """The default template; a configuration may hold several, each with a name."""
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, {} where it is missing."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from error


def _load_folder(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: no tokenizer.json, the one tokenizer format that is read from a folder")
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # the Rust library raises bare Exception
        raise ValueError(f"{file}: not readable as a tokenizer: {error}") from error
    config = _read_json(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    stop_ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        declared = _read_json(folder / name).get("eos_token_id")
        stop_ids += declared if isinstance(declared, list) else [] if declared is None else [declared]
    return Tokenizer(backend, config, stop_ids=stop_ids, name=str(folder))


def _load_gguf(path: Path) -> Tokenizer:
    """Builds the byte-level BPE of a GGUF file, digits split one by one as the model ``smollm`` was trained with.

    The decoder gets no prefix space. transformers' own conversion lacks the digit splitter, which shows where several
    spaces stand before a digit.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    try:
        import gguf
    except ImportError as error:
        raise ImportError(f"{path}: needs the package gguf: pip install 'jaxrl-llm[gguf]'") from error
    try:
        fields = gguf.GGUFReader(str(path)).fields
    except Exception as error:  # the reader raises ValueError, IndexError or struct errors on a damaged file
        raise ValueError(f"{path}: not readable as GGUF: {error}") from error
    read = {key.removeprefix("tokenizer."): field.contents() for key, field in fields.items() if "tokenizer." in key}
    kind, splitter = read.get("ggml.model"), read.get("ggml.pre")
    if (kind, splitter) != ("gpt2", "smollm"):
        raise ValueError(
            f"{path}: tokenizer {kind!r} with the splitter {splitter!r} is not supported, only 'gpt2' with 'smollm'; "
            "use a Hugging Face folder with a tokenizer.json"
        )
    words: list[str] = read["ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in read["ggml.merges"]]
    backend = Backend(models.BPE({word: i for i, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    control = [
        word for word, type_ in zip(words, read["ggml.token_type"], strict=True) if type_ == gguf.TokenType.CONTROL
    ]
    backend.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in control])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": read.get("chat_template"),
        "clean_up_tokenization_spaces": False,
    }
    for key, name in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        if f"ggml.{name}_token_id" in read:
            config[key] = words[read[f"ggml.{name}_token_id"]]
    return Tokenizer(backend, config, stop_ids=(), name=str(path))
