"""The command `jaxrl-llm tiers`: files of problems, drawn from other sources as a config says."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxrl_llm import config as configs
from jaxrl_llm import schema
from jaxrl_llm.data.tiers import MANIFEST, Part, make, said
from jaxrl_llm.rewards.combine import Judge, RewardSettings


@dataclasses.dataclass(frozen=True)
class TiersSettings:
    """The keys of a config of `jaxrl-llm tiers`.

    Attributes:
      folder: of the files and their manifest.
      seed: of all draws.
      reward: its verifier must be able to read every answer; nothing else of it is read.
      held_out: the file whose questions no other file may hold; None: files are drawn apart from each other.
      files: name -> name of a part -> the keys of :class:`~jaxrl_llm.data.tiers.Part`.
    """

    folder: str
    seed: int
    reward: RewardSettings
    held_out: str | None
    files: Any

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("folder = '': expected the path of a folder")
        if not isinstance(self.files, Mapping) or not self.files or not all(self.files.values()):
            raise ValueError(
                f"files = {self.files!r}: expected a section for each file, with one for each of its parts"
            )


def parts_of(settings: TiersSettings) -> dict[str, dict[str, Part]]:
    """The parts of every file.

    Raises:
      ValueError: a key that no part has, or a value that is wrong; it names the part.
    """
    files: dict[str, dict[str, Part]] = {}
    for name, parts in settings.files.items():
        files[name] = {}
        for key in parts:
            path = f"files.{name}.{key}"
            keys = [f"{path}.{field}" for field in schema.fields(Part)]
            try:
                files[name][key] = schema.build(Part, parts[key], prefix=f"{path}.", keys=keys)
            except ValueError as error:
                raise ValueError(str(error) if path in str(error) else f"{path}: {error}") from None
    return files


def tiers(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Draws the files of a config, writes them, and prints what was drawn and what was left out."""
    config = configs.load(arguments.config, overrides, TiersSettings)
    settings = configs.parse(config, TiersSettings)
    files = parts_of(settings)
    with Judge(settings.reward) as judge:
        manifest = make(settings.folder, files, judge.readable, seed=settings.seed, held_out=settings.held_out)
    for line in said(manifest):
        print(line)
    print(f"{settings.folder}/{MANIFEST}")
