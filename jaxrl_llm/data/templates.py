"""From a question to the tokens of its prompt."""

from __future__ import annotations

from collections.abc import Sequence

from jaxrl_llm.data.prompts import DataSettings, Problem, Problems, TaskProblems, first
from jaxrl_llm.data.tokens import Tokenizer

_TASK_ROWS_CHECKED = 256  # rows of a task whose length is checked before a run


def render(template: str, question: str, *, system: str, tokenizer: Tokenizer) -> str:
    """The text of a prompt.

    Args:
      template: ``chat`` for the tokenizer's chat template; else a text in which ``{question}`` is replaced.
      question: the question.
      system: system message of the chat template; empty for none.
      tokenizer: of the model.

    Raises:
      ValueError: where the tokenizer has no chat template.
    """
    if template != "chat":
        return template.replace("{question}", question)
    messages = [{"role": "system", "content": system}] if system else []
    return tokenizer.chat([*messages, {"role": "user", "content": question}])


def encode_prompt(problem: Problem, settings: DataSettings, tokenizer: Tokenizer) -> list[int]:
    """Tokens of a problem's prompt, of any length.

    A text template gets the token in front that the tokenizer puts before every text (Llama 3 does), unless the
    template begins with it; a chat template writes its own.

    Raises:
      ValueError: naming the row, where a character has no token or the prompt is empty.
    """
    text = render(settings.template, problem.question, system=settings.system, tokenizer=tokenizer)
    if settings.template != "chat" and tokenizer.bos is not None and not text.startswith(tokenizer.bos):
        text = tokenizer.bos + text
    try:
        return tokenizer.encode(text)
    except ValueError as error:
        raise ValueError(f"{problem.name}: {error}") from error


def encode_prompts(problems: Sequence[Problem], settings: DataSettings, tokenizer: Tokenizer) -> list[list[int]]:
    """Tokens of the prompts of a batch.

    Raises:
      ValueError: naming the row, where a prompt is longer than ``data.max_prompt_tokens``.
    """
    prompts = [encode_prompt(problem, settings, tokenizer) for problem in problems]
    for problem, prompt in zip(problems, prompts, strict=True):
        if len(prompt) > settings.max_prompt_tokens:
            raise ValueError(
                f"{problem.name}: the prompt has {len(prompt)} tokens, data.max_prompt_tokens is "
                f"{settings.max_prompt_tokens}; raise it, or set data.long_prompts = 'drop'"
            )
    return prompts


def keep_fitting(problems: Problems, settings: DataSettings, tokenizer: Tokenizer) -> tuple[Problems, int]:
    """Applies ``data.long_prompts`` before a run: the problems whose prompts fit, and how many were dropped.

    Of a task, whose rows have no end, the first few hundred are checked and none can be dropped.

    Raises:
      ValueError: where a prompt is too long and the policy is ``error``, or nothing fits, or a task should drop rows.
    """
    if isinstance(problems, TaskProblems):
        if settings.long_prompts == "drop":
            raise ValueError(f"data.long_prompts = 'drop' needs data with an end; {settings.source} has none")
        encode_prompts(first(problems, _TASK_ROWS_CHECKED), settings, tokenizer)
        return problems, 0
    if settings.long_prompts == "error":
        encode_prompts(problems, settings, tokenizer)
        return problems, 0
    kept = [row for row in problems if len(encode_prompt(row, settings, tokenizer)) <= settings.max_prompt_tokens]
    if not kept:
        raise ValueError(
            f"{settings.source}: all {len(problems)} prompts are longer than data.max_prompt_tokens = "
            f"{settings.max_prompt_tokens}"
        )
    return kept, len(problems) - len(kept)
