"""Policies from Hugging Face checkpoints and back: :func:`load` and :func:`save`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jax.sharding import Mesh

if TYPE_CHECKING:  # reading and writing need packages that importing this one should not wait for
    from jaxrl_llm.models.hub import Policy

__all__ = ["load", "save"]


def load(source: str, *, dtype: str = "float32", mesh: Mesh | None = None) -> Policy:
    """A policy by its source, see :func:`jaxrl_llm.models.hub.load`, which has more options.

    Args:
      source: "embedded:NAME", "package:NAME/FILE.gguf", a folder, a .gguf file, or a Hub id "org/name".
      dtype: of the computation, float32 or bfloat16; the parameters are float32.
      mesh: that the parameters are laid on; None for the default device.
    """
    from jaxrl_llm.models import hub

    return hub.load(source, dtype=dtype, mesh=mesh)


def save(policy: Policy, folder: str | Path, *, dtype: str = "float32", tokenizer: str | Path | None = None) -> None:
    """Writes a policy as a Hugging Face folder, see :func:`jaxrl_llm.models.writer.save`, which has more options.

    Args:
      dtype: of the tensors on disk, float32 or bfloat16.
      tokenizer: folder whose tokenizer, chat template and generation config are copied; None: none are written.

    Raises:
      FileNotFoundError: ``tokenizer`` holds no tokenizer.json.
    """
    from jaxrl_llm.models import tensor_files, writer

    files, generation = [], None
    if tokenizer is not None:
        files = writer.tokenizer_files(Path(tokenizer))
        found = Path(tokenizer) / "generation_config.json"
        generation = tensor_files.read_json(found) if found.is_file() else None
    writer.save(
        policy.config, policy.params, Path(folder), dtype=dtype, tokenizer_files=files, generation_config=generation
    )
