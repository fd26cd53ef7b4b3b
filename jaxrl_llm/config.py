"""From a config file and `--config.path=value` overrides to typed settings, and the checks that need nothing compiled.

Three steps, each with its own errors: :func:`load` executes the file and applies the overrides, :func:`parse` turns
the ConfigDict into :class:`~jaxrl_llm.training.settings.Settings`, :func:`check` refuses values and combinations that
cannot run. Keys and types are those of the settings dataclasses; nothing here lists them again.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import linecache
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from jaxrl_llm import algorithm, schema, sharding
from jaxrl_llm.training.settings import Settings

T = TypeVar("T")


@functools.cache
def key_types(section: type = Settings) -> Mapping[str, Any]:
    """Dotted path -> type of every key."""
    return dict(schema.key_types(section))


@contextmanager
def _configs_importable(path: Path) -> Iterator[None]:
    """Lets the config file at ``path`` write ``from configs import base``, from whatever folder it is run.

    The folder `configs` is the nearest one above the file that holds a base.py, else the one beside this package.
    Modules of another `configs` folder, loaded earlier, are forgotten.
    """

    def forget() -> None:
        for name in [name for name in sys.modules if name == "configs" or name.startswith("configs.")]:
            del sys.modules[name]

    folders = [*path.resolve().parents, Path(__file__).resolve().parents[1]]
    root = next((folder for folder in folders if (folder / "configs" / "base.py").is_file()), folders[-1])
    forget()
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        forget()


def _scale(path: Path, get_config: Any, scale: str | None) -> str | None:
    """The argument of ``get_config``: ``scale``, else its default; None where it takes none."""
    parameters = list(inspect.signature(get_config).parameters.values()) if callable(get_config) else []
    texts = [parameter.default for parameter in parameters if isinstance(parameter.default, str)]
    if not callable(get_config) or len(parameters) > 1 or len(texts) != len(parameters):
        raise ValueError(f'{path}: a config file defines get_config(), without arguments, or get_config(scale="NAME")')
    if scale is not None and not parameters:
        raise ValueError(f"{path}:{scale}: get_config() of this file takes no argument; expected {path} alone")
    return scale if scale is not None else next(iter(texts), None)


def _execute(path: Path, scale: str | None) -> tuple[ConfigDict, str | None]:
    """What the file's ``get_config(scale)`` returns, and the scale; errors name file, line and the text of the line."""
    try:
        with _configs_importable(path):
            get_config: Any = runpy.run_path(str(path)).get("get_config")
            scale = _scale(path, get_config, scale)
            config = get_config() if scale is None else get_config(scale)
    except Exception as error:
        if isinstance(error, SyntaxError):
            raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if not lines:
            raise
        line = lines[-1] or 0
        source = linecache.getline(str(path), line).strip()
        raise ValueError(f"{path}, line {line}, {source!r}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"{path}: get_config() returned {type(config).__name__}, expected an ml_collections ConfigDict"
        )
    return config, scale


def load(path: str | Path, overrides: Iterable[str] = (), section: type = Settings) -> ConfigDict:
    """:func:`load_scaled` without the scale."""
    return load_scaled(path, overrides, section)[0]


def load_scaled(
    path: str | Path, overrides: Iterable[str] = (), section: type = Settings
) -> tuple[ConfigDict, str | None]:
    """Executes a config file and applies overrides to what it returns.

    Args:
      path: a Python file with ``get_config()``; it may import its neighbours as ``from configs import base``.
        "FILE:NAME" calls ``get_config("NAME")``, of a file that makes several sizes of one thing.
      overrides: "dotted.path=value"; the last one of a path wins. "None" empties an optional key.
      section: the dataclass that says what may be overridden, as in :func:`parse`.

    Returns:
      The locked ConfigDict, and the scale: NAME, else the default of get_config's argument, None where it has none.
      Keys and types that the file itself set are judged by :func:`parse`.

    Raises:
      FileNotFoundError: no file at ``path``.
      ValueError: the file fails or does not return a ConfigDict, or an override names an unknown key or has a value of
        the wrong type.
    """
    file, colon, name = str(path).rpartition(":")
    whole = Path(path).is_file() or not colon
    path, scale = (Path(path), None) if whole else (Path(file), name)
    if not path.is_file():
        raise FileNotFoundError(f"config file {path} does not exist")
    config, scale = _execute(path, scale)
    config.unlock()
    kinds = key_types(section)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r}: expected dotted.path=value")
        if key not in kinds:
            raise schema.unknown(key, kinds)
        *parents, name = key.split(".")
        holder = config
        for parent in parents:
            holder = holder.get(parent)
            if not isinstance(holder, ConfigDict):
                raise ValueError(f"{path}: get_config() returned no section {parent} to set {key} in")
        holder[name] = schema.from_text(key, text, kinds[key])
    return config.lock(), scale


def parse(config: ConfigDict | Mapping[str, Any], section: type[T] = Settings) -> T:
    """The settings of a config, or of a run's config.json.

    Args:
      section: the dataclass that says which keys there are: a run's, or another command's.

    Raises:
      ValueError: a key that no field reads, a missing key, a value of the wrong type, or a contradiction inside one
        section.
    """
    plain = config.to_dict() if isinstance(config, ConfigDict) else config
    return schema.build(section, plain, keys=key_types(section))


# What the settings dataclasses cannot say themselves; an optional key that is None passes.
_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "at least 1",
        lambda value: value >= 1,
        "steps lora.rank training.epochs training.mini_batches training.score_chunk evaluation.problems "
        "evaluation.samples checkpoint.keep log.loop.window log.loop.period distributed.heartbeat_seconds "
        "distributed.start_seconds",
    ),
    ("at least 2", lambda value: value >= 2, "log.loop.repeats"),
    (
        "0 or more",
        lambda value: value >= 0,
        "seed training.tokens_per_pass training.balancing_coefficient optimizer.warmup_steps optimizer.weight_decay "
        "evaluation.every evaluation.top_k evaluation.texts evaluation.temperature checkpoint.every "
        "log.rollouts_every",
    ),
    ("above 0", lambda value: value > 0, "optimizer.learning_rate optimizer.epsilon optimizer.clip_norm lora.alpha"),
    ("above 0: greedy samples of a prompt are all equal", lambda value: value > 0, "sampling.temperature"),
    ("above 0 and at most 1", lambda value: 0 < value <= 1, "evaluation.top_p"),
    ("0 or more and below 1", lambda value: 0 <= value < 1, "optimizer.beta1 optimizer.beta2"),
    (
        "not empty",
        bool,
        "run_dir model.source model.critic_source lora.targets data.source data.source_key evaluation.source "
        "evaluation.source_key",
    ),
)


def check_ranges(settings: Any) -> None:
    """Refuses a value out of its range; of another command's settings, those keys that a run has too.

    Raises:
      ValueError: it names the key and the value.
    """
    kinds = key_types(type(settings))
    for expected, holds, paths in _RANGES:
        for path in paths.split():
            value = _value(settings, path) if path in kinds else None
            if value is not None and not holds(value):
                raise ValueError(f"{path} = {value!r}: expected {expected}")


def _value(settings: Any, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), settings)


def _check_rows(settings: Settings, devices: int | None) -> None:
    """Rows of a step divide into mini-batches, and those over the mesh."""
    data, training = settings.data, settings.training
    rows = data.prompts_per_step * data.samples_per_prompt
    step = f"data.prompts_per_step {data.prompts_per_step} × data.samples_per_prompt {data.samples_per_prompt}"
    if rows % training.mini_batches:
        raise ValueError(f"training.mini_batches = {training.mini_batches} does not divide the {rows} rows of {step}")
    if devices is None:
        return
    data_size, fsdp_size, *_ = sharding.mesh_shape(settings.mesh, devices)
    ways, mini_batch = data_size * fsdp_size, rows // training.mini_batches
    if mini_batch % ways:
        raise ValueError(
            f"the mesh splits rows {ways} ways (mesh.data {data_size} × mesh.fsdp {fsdp_size}), which does not divide "
            f"the {mini_batch} rows of an optimizer step ({step} / training.mini_batches {training.mini_batches})"
        )


def _check_lora(settings: Settings) -> None:
    """An adapter has all its keys, and a run with one no reference beside the base."""
    values = dataclasses.asdict(settings.lora)
    given = {name: value for name, value in values.items() if value is not None}
    for name in values:
        if given and name not in given:
            told = ", ".join(f"lora.{key} = {value!r}" for key, value in given.items())
            raise ValueError(f"lora.{name} = None with {told}: expected all keys of lora, or none")
    if given and settings.training.offload_reference:
        raise ValueError(
            f"training.offload_reference = True with lora.rank = {settings.lora.rank}: expected False: the reference "
            "is the policy without its adapter, which stays on the devices"
        )


def check(settings: Settings, *, devices: int | None) -> None:
    """Refuses what cannot run, before anything is loaded or compiled.

    Args:
      devices: that the mesh is laid over; None where nothing will run, and the mesh is not looked at.

    Raises:
      ValueError: a value out of range, rows that do not divide into mini-batches or over the mesh, or knobs of the
        algorithm that contradict each other. It names the keys and their values.
    """
    check_ranges(settings)
    _check_rows(settings, devices)
    _check_lora(settings)
    knobs = settings.algorithm
    if knobs.batch_statistics == "source" and settings.data.source_key is None:
        raise ValueError(
            f"algorithm.batch_statistics = {knobs.batch_statistics!r} with data.source_key = None: expected the key of "
            "a row that names its source"
        )
    wanted = settings.evaluation
    if wanted.source_key is not None and wanted.source.startswith("task:"):
        raise ValueError(
            f"evaluation.source_key = {wanted.source_key!r} with evaluation.source = {wanted.source!r}: rows of a "
            "built-in task name no benchmark; expected None"
        )
    if settings.training.offload_reference and not algorithm.needs_reference(knobs):
        raise ValueError(
            f"training.offload_reference = True with algorithm.kl_placement = {knobs.kl_placement!r}: expected loss or "
            "reward, or there is no reference policy"
        )
    if settings.model.critic_source is not None and not algorithm.needs_critic(knobs):
        raise ValueError(
            f"model.critic_source = {settings.model.critic_source!r} with algorithm.baseline = {knobs.baseline!r}: "
            "expected critic, or there is no critic"
        )
    if (knobs.critic_warmup or 0) >= settings.steps:
        raise ValueError(
            f"algorithm.critic_warmup = {knobs.critic_warmup} with steps = {settings.steps}: expected fewer, or the "
            "policy never learns"
        )
    algorithm.check(
        knobs,
        samples_per_prompt=settings.data.samples_per_prompt,
        max_tokens=settings.sampling.max_tokens,
    )
