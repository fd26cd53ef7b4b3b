"""What a study compares: its keys, its cells, and the arms that its mode makes of tricks."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jaxrl_llm import config as configs
from jaxrl_llm import schema
from jaxrl_llm.study.tricks import Trick, get, get_value
from jaxrl_llm.training.settings import Settings

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+,-]*")


@dataclasses.dataclass(frozen=True)
class StudySettings:
    """The keys of a study's config file.

    Attributes:
      name: also the name of its folder.
      question: what it asks.
      claim: what has been published on it.
      source: of the claim.
      engine: lab (a small model, arms and seeds in one program) or train (each run as `jaxrl-llm train`).
      run: the config of a run: the arm without any trick.
      cells: name -> dotted path of a run's config -> value: models, data, sizes. Every arm runs in every cell.
      mode: one_at_a_time (the base, and each trick alone), leave_one_out (all tricks, and all but each), pairs (the
        base, each trick, each two), grid (all combinations of ``grid``), arms (as ``arms`` says).
      tricks: names of the catalogue or of ``own``, or tricks.
      arms: name -> names of tricks; () is the base.
      grid: dotted path -> values.
      own: tricks that names may refer to.
      reference: the arm that all others are compared with; None: "base"; "all" where one is left out; in a grid the
        arm that equals the base, and "base", one arm more, where none does.
      comparisons: (arm, reference) in place of all arms with the reference; () compares none.
      seeds: runs of an arm in a cell.
      first_seed: the others follow it.
      metric: of a run's held-out accuracy: final (mean of the last quarter of the evaluations), area (mean of all
        after step 0), best.
      smallest_effect: in accuracy; a smaller difference does not matter.
      run_dir: folder of the study; None: runs/studies/NAME, or runs/studies/NAME/SCALE where the file has scales.
    """

    name: str
    question: str
    claim: str
    source: str
    engine: Literal["lab", "train"]
    run: Settings
    cells: Any
    mode: Literal["one_at_a_time", "leave_one_out", "pairs", "grid", "arms"]
    tricks: Any = ()
    arms: Any = None
    grid: Any = None
    own: Any = ()
    reference: str | None = None
    comparisons: Any = None
    seeds: int = 16
    first_seed: int = 0
    metric: Literal["final", "area", "best"] = "final"
    smallest_effect: float = 0.02
    run_dir: str | None = None

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("name", _FILE_NAME.fullmatch(self.name), "letters, digits and _.=+,- for the name of a folder"),
            ("seeds", self.seeds >= 1, "at least 1"),
            ("first_seed", self.first_seed >= 0, "0 or more"),
            ("smallest_effect", 0 < self.smallest_effect < 1, "between 0 and 1, in accuracy"),
            ("cells", self.cells, "one cell or more"),
            ("own", _all(self.own, Trick), "a tuple of Trick"),
            ("tricks", _all(self.tricks, str | Trick), "a tuple of names, or of Trick"),
        ):
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected {expected}")
        reads = {"arms": ("arms",), "grid": ("grid",), "tricks": ("one_at_a_time", "leave_one_out", "pairs")}
        for key, modes in reads.items():
            if (self.mode in modes) != bool(getattr(self, key)):
                trick = (
                    ": names of tricks in the file, or --trick FILE with a trick of your own" if key == "tricks" else ""
                )
                expected = (
                    f"what to compare{trick}" if self.mode in modes else f"nothing; only {', '.join(modes)} reads it"
                )
                raise ValueError(f"{key} = {getattr(self, key)!r} with mode = {self.mode!r}: expected {expected}")
        if self.run.evaluation.every == 0:
            raise ValueError("run.evaluation.every = 0: expected evaluations, whose accuracy is what a study compares")


class Arm(NamedTuple):
    name: str
    tricks: tuple[Trick, ...]


class Cell(NamedTuple):
    name: str
    changes: dict[str, Any]


class Comparison(NamedTuple):
    arm: str
    reference: str


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(value, kind) for value in values)


def _section(key: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{key} = {values!r}: expected a section with a name for each")
    for name in values:
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{key}.{name}: expected a name of letters, digits and _.=+,- that a folder can have")
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted path, value), of sections in sections or of keys with dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def cells_of(settings: StudySettings) -> tuple[Cell, ...]:
    """The cells, each value as its key's type.

    Raises:
      ValueError: a key that no run has, or a value of the wrong type; it names the cell.
    """
    kinds = configs.key_types()
    cells = []
    for name, section in _section("cells", settings.cells).items():
        changes = {}
        for path, value in _flat(_section_of_cell(name, section)):
            if path not in kinds:
                raise ValueError(f"cells.{name}: {schema.unknown(path, kinds)}")
            changes[path] = schema.convert(f"cells.{name}.{path}", value, kinds[path])
        cells.append(Cell(name, changes))
    return tuple(cells)


def _section_of_cell(name: str, section: Any) -> Mapping[str, Any]:
    if not isinstance(section, Mapping):
        raise ValueError(f"cells.{name} = {section!r}: expected keys of a run and their values")
    return section


def arms_of(settings: StudySettings, run: Mapping[str, Any]) -> tuple[Arm, ...]:
    """The arms that the mode makes; of two with one name the error names it.

    Args:
      run: the config of the base, as plain values.
    """
    tricks = [get(name, settings.own) for name in settings.tricks]
    base = Arm("base", ())
    alone = [Arm(trick.name, (trick,)) for trick in tricks]
    if settings.mode == "one_at_a_time":
        arms = [base, *alone]
    elif settings.mode == "leave_one_out":
        rest = [tuple(other for other in tricks if other is not trick) for trick in tricks]
        without = [Arm(f"without_{trick.name}", left) for trick, left in zip(tricks, rest, strict=True)]
        arms = [Arm("all", tuple(tricks)), *without]
    elif settings.mode == "pairs":
        pairs = itertools.combinations(tricks, 2)
        arms = [base, *alone, *(Arm(f"{one.name}+{other.name}", (one, other)) for one, other in pairs)]
    elif settings.mode == "grid":
        arms = _grid(settings, run)
    else:
        named = _section("arms", settings.arms)
        for name, members in named.items():
            if not _all(members, str | Trick):
                raise ValueError(f"arms.{name} = {members!r}: expected a tuple of names of tricks; () is the base")
        arms = [Arm(name, tuple(get(member, settings.own) for member in members)) for name, members in named.items()]
    names = [arm.name for arm in arms]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two arms have the name {' and '.join(sorted(twice))}: expected one of each")
    return tuple(arms)


def _text(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", f"{value:g}" if isinstance(value, float) else str(value))


def _grid(settings: StudySettings, run: Mapping[str, Any]) -> list[Arm]:
    grid = dict(_flat(_section("grid", settings.grid)))
    for path, values in grid.items():
        if not isinstance(values, tuple | list) or not values:
            raise ValueError(f"grid: {path} = {values!r}: expected a tuple of values")
    arms, equal = [], False
    for point in itertools.product(*grid.values()):
        changes = dict(zip(grid, point, strict=True))
        name = ",".join(f"{path.rpartition('.')[2]}={_text(value)}" for path, value in changes.items())
        title = ", ".join(f"{path.rpartition('.')[2]} = {value}" for path, value in changes.items())
        plain_name = "grid_" + re.sub(r"\W", "_", name).lower()
        arms.append(Arm(name, (Trick(plain_name, changes, title=title),)))
        equal = equal or is_base(arms[-1], run)
    return arms if equal or settings.reference not in (None, "base") else [Arm("base", ()), *arms]


def is_base(arm: Arm, run: Mapping[str, Any]) -> bool:
    """Whether all that an arm sets are the values of the base."""
    sets = [pair for trick in arm.tricks for pair in trick.sets.items()]
    return all(get_value(run, path) == value for path, value in sets) and not any(t.transform for t in arm.tricks)


def comparisons_of(settings: StudySettings, arms: Sequence[Arm], run: Mapping[str, Any]) -> tuple[Comparison, ...]:
    """What is compared with what.

    Raises:
      ValueError: an arm that there is not, or an arm compared with itself.
    """
    names = [arm.name for arm in arms]
    if settings.comparisons is not None:
        pairs = [tuple(pair) for pair in settings.comparisons]
    else:
        reference = settings.reference or _reference(settings, arms, run)
        pairs = [(name, reference) for name in names if name != reference]
        if reference not in names:
            raise ValueError(f"reference = {reference!r}: expected one of the arms {', '.join(names)}")
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(names):
            raise ValueError(f"comparisons: {pair!r}: expected (arm, reference), of the arms {', '.join(names)}")
    return tuple(Comparison(*pair) for pair in pairs)


def _reference(settings: StudySettings, arms: Sequence[Arm], run: Mapping[str, Any]) -> str:
    if settings.mode == "leave_one_out":
        return "all"
    if settings.mode == "grid":
        return next(arm.name for arm in arms if is_base(arm, run))
    return "base"
