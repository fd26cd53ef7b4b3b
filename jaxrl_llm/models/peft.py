"""Adapters as the folders of Hugging Face's `peft`: adapter_config.json and adapter_model.safetensors.

`peft` keeps A as [R, in] and B as [out, R], a pair for each module of each layer, whatever the layout of the matrix.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from jaxrl_llm.models import lora, tensor_files, writer
from jaxrl_llm.models.architecture import ModelConfig
from jaxrl_llm.models.lora import Adapter, LoraSettings, adapter_table
from jaxrl_llm.types import Array, Params

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
_FACTORS = {"a": "lora_A", "b": "lora_B"}
# Keys of adapter_config.json that say nothing of what the adapter computes: where it comes from, how it was trained
# (dropout acts in training alone), and settings of what another key switches on.
_SILENT = [
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
]
_READ = ("r", "lora_alpha", "use_rslora", "target_modules")
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),  # others change the weights beside the adapter
}


def save_adapter(
    config: ModelConfig,
    settings: LoraSettings,
    adapter: Params,
    folder: Path,
    *,
    base: str | None,
    dtype: str = "float32",
) -> None:
    """Writes an adapter that ``peft.PeftModel.from_pretrained(model, folder)`` puts on transformers' model.

    As of ``writer.save``, no file is ever half written, and the config comes last.

    Args:
      base: name or path of the model that it belongs to, for base_model_name_or_path; None: it says none.
      dtype: of the tensors on disk, float32 or bfloat16.

    Raises:
      ValueError: an unknown dtype, or an adapter that is not of ``settings``.
    """
    of_file = writer.tensor_dtype(dtype)
    lora.check(config, settings, adapter)
    tensors = {}
    for of, factor, layer in _places(config, settings):
        host = np.asarray(lora.leaf(adapter, of, factor)[layer]).astype(of_file)
        tensors[_name(of, factor, layer)] = np.ascontiguousarray(host.reshape(_shape(of, factor)[::-1]).T)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (folder / CONFIG_FILE, folder / TENSOR_FILE):
        stale.unlink(missing_ok=True)
    writer.replace_file(folder / TENSOR_FILE, lambda temporary: temporary.write_bytes(save(tensors, {"format": "pt"})))
    writer.write_json(folder / CONFIG_FILE, _config(config, settings, base))


def load_adapter(folder: Path, config: ModelConfig) -> tuple[LoraSettings, Params]:
    """The adapter of a folder that :func:`save_adapter`, or `peft`, has written for a model of ``config``.

    Dropout, which acts in training alone, is left out. The targets are those of the folder, spelled as the names of the
    modules.

    Returns:
      Its settings, and its tree in float32.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, the config says what this library does not compute, or a tensor is missing,
        unknown, misshapen or not finite.
    """
    for name in (CONFIG_FILE, TENSOR_FILE):
        if not (folder / name).is_file():
            found = ", ".join(sorted(file.name for file in folder.glob("*"))) or "nothing"
            raise FileNotFoundError(f"{folder}: no adapter: looked for {name}; found {found}")
    settings = _settings(tensor_files.read_json(folder / CONFIG_FILE), config, str(folder / CONFIG_FILE))
    source = tensor_files.open_file(folder / TENSOR_FILE)
    shapes = {_name(of, factor, layer): _shape(of, factor) for of, factor, layer in _places(config, settings)}
    if told := tensor_files.differences(source, shapes):
        raise ValueError(f"{source.where}: does not hold the adapter of its config. {told}")

    def read(adapter: Adapter, factor: str) -> Array:
        stacked = np.empty(adapter.shapes[factor], np.float32)
        for layer, into in enumerate(stacked):
            name = _name(adapter, factor, layer)
            into[...] = source.read(name, (slice(None),) * 2).T.reshape(into.shape)
            if not np.isfinite(into).all():
                raise ValueError(f"{source.where}: tensor {name} holds NaN or infinity")
        return jnp.asarray(stacked)

    return settings, lora.tree(config, settings, read)


def _name(adapter: Adapter, factor: str, layer: int) -> str:
    return f"base_model.model.{adapter.module.format(layer=layer)}.{_FACTORS[factor]}.weight"


def _shape(adapter: Adapter, factor: str) -> tuple[int, int]:
    """In the file, of one layer."""
    return (adapter.rank, adapter.inputs) if factor == "a" else (adapter.outputs, adapter.rank)


def _places(config: ModelConfig, settings: LoraSettings) -> Iterator[tuple[Adapter, str, int]]:
    """Adapter, factor and layer of every tensor."""
    return itertools.product(adapter_table(config, settings), _FACTORS, range(config.layers))


def _config(config: ModelConfig, settings: LoraSettings, base: str | None) -> dict[str, Any]:
    alpha = settings.alpha
    assert alpha is not None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "use_rslora": settings.rank_stabilized,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": config.fused_qkv,  # matrices are [in, out]
        "target_modules": sorted(adapter.target for adapter in adapter_table(config, settings)),
        "inference_mode": True,
    }


def _settings(found: dict[str, Any], config: ModelConfig, where: str) -> LoraSettings:
    """What an adapter_config.json says.

    Raises:
      ValueError: it says what this library does not compute.
    """
    for key, value in found.items():
        if key in _ALLOWED and value not in _ALLOWED[key]:
            expected = " or ".join(map(repr, _ALLOWED[key]))
            raise ValueError(f"{where}: {key} = {value!r} is not supported; expected {expected}")
        if key not in (*_SILENT, *_READ, *_ALLOWED) and value not in (None, False, {}, []):
            raise ValueError(f"{where}: {key} = {str(value)[:80]} is not supported; expected no such key")
    rank, alpha, stabilized = found.get("r"), found.get("lora_alpha"), found.get("use_rslora", False)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"{where}: r = {rank!r}; expected a whole number above 0")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
        raise ValueError(f"{where}: lora_alpha = {alpha!r}; expected a number above 0")
    if not isinstance(stabilized, bool):
        raise ValueError(f"{where}: use_rslora = {stabilized!r}; expected true or false")
    every = LoraSettings(rank, float(alpha), lora.ALL_LINEAR, stabilized)
    known = adapter_table(config, every)
    targets = _targets(found.get("target_modules"), known, where)
    expression = lora.ALL_LINEAR if len(targets) == len(known) else "|".join(map(re.escape, targets))
    return LoraSettings(rank, float(alpha), expression, stabilized)


def _targets(modules: Any, known: tuple[Adapter, ...], where: str) -> list[str]:
    """Which of the modules of a layer are meant: by the ends of their whole names, or by an expression for these."""
    names = {adapter.target: adapter.module.format(layer=0) for adapter in known}
    if isinstance(modules, str):
        try:
            ends = {modules: [target for target, name in names.items() if re.fullmatch(modules, name)]}
        except re.error as error:
            raise ValueError(f"{where}: target_modules = {modules!r} is no regular expression: {error}") from error
    elif isinstance(modules, list) and modules and all(isinstance(end, str) for end in modules):
        ends = {end: [target for target, name in names.items() if f".{name}".endswith(f".{end}")] for end in modules}
    else:
        raise ValueError(f"{where}: target_modules = {str(modules)[:80]}; expected names of modules")
    if nowhere := [end for end, targets in ends.items() if not targets]:
        raise ValueError(f"{where}: target_modules: {nowhere[0]!r} means none of {', '.join(names.values())}")
    meant = {target for targets in ends.values() for target in targets}
    return [target for target in names if target in meant]
