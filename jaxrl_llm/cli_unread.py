"""What `evaluate` and `sample` leave out of a config, which is a run's: a line for what one may expect of them.

A key that stands in a config file may be for another command. One that is changed on the command line is for this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxrl_llm.training.settings import Settings

_OF_TRAINING = "steps run_dir algorithm optimizer training checkpoint log evaluation.every evaluation.texts"
_OF_TRAINING += " data.source data.tier data.split data.question_key data.answer_key data.source_key data.long_prompts"
# Keys, and sections as a whole, on which nothing depends that the command prints or writes.
UNREAD = {
    "evaluate": _OF_TRAINING + " sampling.temperature sampling.top_k sampling.top_p sampling.min_p reward.correct"
    " reward.wrong reward.unparseable reward.timeout reward.truncated",
    "sample": _OF_TRAINING + " data.prompts_per_step data.samples_per_prompt reward evaluation distributed",
}
# Of a key that has a namesake which is read: what to change in its place.
_INSTEAD = {
    "evaluate": {f"sampling.{name}": f"evaluation.{name}" for name in ("temperature", "top_k", "top_p")},
    "sample": {f"evaluation.{name}": f"sampling.{name}" for name in ("temperature", "top_k", "top_p")}
    | {"evaluation.samples": "--samples", "data.samples_per_prompt": "--samples"},
}


def notes(command: str, settings: Settings, overrides: Iterable[str]) -> Iterator[str]:
    """Lines for the console.

    Args:
      command: evaluate or sample.
      overrides: "dotted.path=value", as they stand on the command line.
    """
    unread = UNREAD[command].split()
    told = []
    for key in dict.fromkeys(override.partition("=")[0] for override in overrides):
        if any(key == of or key.startswith(f"{of}.") for of in unread):
            instead = _INSTEAD[command].get(key)
            told.append(key if instead is None else f"{key} (but {instead})")
    if told:
        yield f"{command} does not read {', '.join(told)}"
    if settings.lora.rank is not None:
        yield (
            f"lora.rank = {settings.lora.rank}: {command} takes model.source = {settings.model.source!r} as it is, "
            "without an adapter; one that a run has trained: jaxrl-llm convert RUN --to FOLDER, then "
            "--config.model.source=FOLDER"
        )
