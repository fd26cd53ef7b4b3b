"""Policies from Hugging Face checkpoints and back: :func:`load` and :func:`save`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jax.sharding import Mesh

if TYPE_CHECKING:  # reading and writing need packages that importing this one should not wait for
    from jaxrl_llm.models.hub import Policy

__all__ = ["load", "save"]


def load(source: str, *, dtype: str = "float32", param_dtype: str = "float32", mesh: Mesh | None = None) -> Policy:
    """A policy by its source, see :func:`jaxrl_llm.models.hub.load`, which has more options.

    Args:
      source: "embedded:NAME", "package:NAME/FILE.gguf", a folder, a .gguf file, or a Hub id "org/name".
      dtype: of the computation, float32 or bfloat16.
      param_dtype: of the parameters in memory, float32 or bfloat16.
      mesh: that the parameters are laid on; None for the default device.
    """
    from jaxrl_llm.models import hub

    return hub.load(source, dtype=dtype, param_dtype=param_dtype, mesh=mesh)


def save(
    policy: Policy,
    folder: str | Path,
    tokenizer: str | Path | None = None,
    *,
    dtype: str = "float32",
    max_shard_bytes: int | None = None,
    adapter: bool = False,
    base: str | None = None,
) -> None:
    """Writes a policy as a Hugging Face folder, see :func:`jaxrl_llm.models.writer.save`, which has more options.

    An adapter is merged into the weights, or written alone as a folder of peft.

    Args:
      policy: its parameters may be those of a run that goes on, but not after an update that they were donated to.
      tokenizer: folder whose tokenizer, chat template and generation config are copied; None: none are written.
      dtype: of the tensors on disk, float32 or bfloat16.
      max_shard_bytes: above it the weights are split into files of at most that size; None: 5 GB, as transformers does.
      adapter: whether the adapter alone is written, see :func:`jaxrl_llm.models.peft.save_adapter`.
      base: name or path of the model that the adapter belongs to, which loaders of the adapter alone look for.

    Raises:
      FileNotFoundError: ``tokenizer`` holds no tokenizer.json.
      ValueError: the adapter is wanted, and the policy has none; or ``base`` is named without it.
    """
    from jaxrl_llm.models import lora, peft, tensor_files, writer

    settings, folder = policy.lora, Path(folder)
    if adapter and settings is None:
        raise ValueError("adapter = True: expected a policy with one (policy.lora)")
    if base is not None and not adapter:
        raise ValueError(f"base = {base!r}: expected None, or adapter = True")
    files, generation = [], None
    if tokenizer is not None:
        files = writer.tokenizer_files(Path(tokenizer))
        found = Path(tokenizer) / "generation_config.json"
        generation = tensor_files.read_json(found) if found.is_file() else None
    if adapter and settings is not None:
        peft.save_adapter(policy.config, settings, policy.params[lora.KEY], folder, base=base, dtype=dtype)
        writer.copy_files(files, folder)
        return
    writer.save(
        policy.config,
        policy.params if settings is None else lora.merge(policy.config, settings, policy.params),
        folder,
        dtype=dtype,
        tokenizer_files=files,
        generation_config=generation,
        max_shard_bytes=max_shard_bytes or writer.MAX_SHARD_BYTES,
    )
