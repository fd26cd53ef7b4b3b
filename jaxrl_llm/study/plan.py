"""A study as a plan: which runs it consists of, their configs, and which arms are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxrl_llm import config as configs
from jaxrl_llm.study import records
from jaxrl_llm.study.arms import Arm, Cell, Comparison, StudySettings, arms_of, cells_of, comparisons_of
from jaxrl_llm.study.budget import Estimate, estimate
from jaxrl_llm.study.code import text_of
from jaxrl_llm.study.records import RunRecord
from jaxrl_llm.study.tricks import Trick, changes_of, set_values
from jaxrl_llm.training.settings import Settings

__all__ = [
    "Arm",
    "Cell",
    "Comparison",
    "Estimate",
    "Job",
    "Run",
    "Study",
    "StudySettings",
    "estimate",
    "load",
]


class Job(NamedTuple):
    """One run: a cell, an arm and a seed."""

    cell: str
    arm: str
    seed: int


class Run(NamedTuple):
    """What all seeds of an arm in a cell share: the config as plain values and as settings, and the code of tricks."""

    config: dict[str, Any]
    settings: Settings
    code: str


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What is run and what is compared.

    Arms of a cell share seeds: the same prompts in the same order, the same keys of sampling (common random numbers),
    so that their differences are paired by seed.

    Attributes:
      scale: the argument of the config file's get_config; empty where it has none.
      folder: of the records, the summary and the report.
      runs: (cell, arm) -> its run, but for the seed.
    """

    settings: StudySettings
    scale: str
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    folder: Path
    base: Mapping[str, Any] = dataclasses.field(repr=False)
    runs: Mapping[tuple[str, str], Run] = dataclasses.field(repr=False)

    def config(self, cell: str, arm: str, seed: int) -> ConfigDict:
        """The complete config of one run: base, cell, tricks, seed, and a folder of its own."""
        return ConfigDict(self._plain(cell, arm, seed))

    def run_settings(self, cell: str, arm: str, seed: int) -> Settings:
        """The same, parsed and checked."""
        values = self._of_seed(cell, arm, seed)
        return dataclasses.replace(self._run(cell, arm).settings, **values)

    def hash_of(self, cell: str, arm: str, seed: int) -> str:
        """What a record of this run must hold, see :func:`jaxrl_llm.study.records.config_hash`."""
        return records.config_hash(self._plain(cell, arm, seed), self._run(cell, arm).code)

    def jobs(self) -> list[Job]:
        """Every run, in an order in which whole comparisons exist after the first seed: by seed, cell, arm."""
        return [Job(cell.name, arm.name, seed) for seed in self.seeds for cell in self.cells for arm in self.arms]

    def records(self) -> list[RunRecord]:
        """The records that there are, of runs of this study alone, in the order of :meth:`jobs`.

        Raises:
          ValueError: a record of another config, or a damaged one.
        """
        paths = {job: records.path_of(self.folder, *job) for job in self.jobs()}
        return [records.load(path, self.hash_of(*job)) for job, path in paths.items() if path.is_file()]

    def missing(self) -> list[Job]:
        """The runs that have no record, or one of a failure.

        Raises:
          ValueError: a record of another config, or a damaged one.
        """
        done = {Job(record.cell, record.arm, record.seed) for record in self.records() if not record.failed}
        return [job for job in self.jobs() if job not in done]

    def _run(self, cell: str, arm: str) -> Run:
        if (cell, arm) not in self.runs:
            raise ValueError(
                f"cell {cell!r}, arm {arm!r}: expected a cell of {', '.join(c.name for c in self.cells)} and an arm of "
                f"{', '.join(a.name for a in self.arms)}"
            )
        return self.runs[cell, arm]

    def _of_seed(self, cell: str, arm: str, seed: int) -> dict[str, Any]:
        return {"seed": seed, "run_dir": str(records.run_folder(self.folder, cell, arm, seed))}

    def _plain(self, cell: str, arm: str, seed: int) -> dict[str, Any]:
        return {**self._run(cell, arm).config, **self._of_seed(cell, arm, seed)}


def _runs_of(study: str, base: Mapping[str, Any], cell: Cell, arms: Iterable[Arm]) -> dict[tuple[str, str], Run]:
    """The runs of a cell; refuses two arms that are one."""
    in_cell = set_values(base, cell.changes)
    runs: dict[tuple[str, str], Run] = {}
    seen: dict[Any, str] = {}
    for arm in arms:
        try:
            changes = changes_of(in_cell, arm.tricks)
            for path in cell.changes.keys() & changes.keys():
                if changes[path] != cell.changes[path]:
                    raise ValueError(
                        f"the cell sets {path} to {cell.changes[path]!r} and the arm to {changes[path]!r}: expected one"
                    )
            config = set_values(in_cell, changes)
            settings = configs.parse(config)
            configs.check(settings, devices=None)
            code = "".join(text_of(trick.transform) for trick in arm.tricks if trick.transform)
            twin = seen.setdefault((settings, code), arm.name)
            if twin != arm.name:
                raise ValueError(f"its config is that of arm {twin}: its tricks change nothing here")
        except ValueError as error:
            raise ValueError(f"study {study}, cell {cell.name}, arm {arm.name}: {error}") from None
        runs[cell.name, arm.name] = Run(config, settings, code)
    return runs


def _with_arms(config: ConfigDict, tricks: Sequence[Trick]) -> None:
    """Adds tricks to a study's config, each as an arm more."""
    for trick in tricks:
        if config.get("mode") == "grid":
            raise ValueError(f"trick {trick.name} with mode = 'grid', whose arms are values: expected another mode")
        with config.unlocked():
            if config.get("mode") == "arms":
                config.arms[trick.name] = (trick,)
            else:
                config.tricks = (*(config.tricks if "tricks" in config else ()), trick)


def load(path_and_scale: str | Path, overrides: Iterable[str] = (), *, tricks: Sequence[Trick] = ()) -> Study:
    """The study of a config file, with every arm of every cell parsed and checked.

    Args:
      path_and_scale: a Python file with ``get_config(scale="NAME")``, or "FILE:NAME".
      overrides: "dotted.path=value", such as "seeds=4" and "run.algorithm.clip_high=0.3".
      tricks: more than the file has; in mode arms each is an arm by itself.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a key that no study has, a contradiction, an arm that cannot run in a cell; it names cell and arm.
    """
    config, scale = configs.load_scaled(path_and_scale, overrides, StudySettings)
    _with_arms(config, tricks)
    settings = configs.parse(config, StudySettings)
    base = config.to_dict()["run"]
    arms, cells = arms_of(settings, base), cells_of(settings)
    coded = [trick.name for arm in arms for trick in arm.tricks if trick.transform]
    if settings.engine != "lab" and coded:
        raise ValueError(f"engine = {settings.engine!r} with trick {coded[0]}, which is code: expected engine lab")
    runs: dict[tuple[str, str], Run] = {}
    for cell in cells:
        runs |= _runs_of(settings.name, base, cell, arms)
    folder = Path(settings.run_dir or Path("runs", "studies", settings.name, scale or ""))
    return Study(
        settings=settings,
        scale=scale or "",
        arms=arms,
        cells=cells,
        seeds=tuple(range(settings.first_seed, settings.first_seed + settings.seeds)),
        comparisons=comparisons_of(settings, arms, base),
        folder=folder,
        base=base,
        runs=runs,
    )
