"""From a run's last checkpoint to a Hugging Face folder that transformers, vLLM and this library load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax

from jaxrl_llm.data import tokens
from jaxrl_llm.models import certificate, hub, weights
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.models.writer import save
from jaxrl_llm.sharding import MeshSettings, make_mesh
from jaxrl_llm.training.checkpoint import FOLDER, Checkpoints
from jaxrl_llm.types import Params


def last_params(run: Path) -> tuple[Path, ModelConfig, Params]:
    """(checkpoint that the run began from, its config, parameters of the run's last checkpoint in float32).

    Raises:
      FileNotFoundError: no run, or no checkpoint in it.
      ValueError: the checkpoint is damaged.
    """
    file = run / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{run}: no run: looked for config.json")
    if not (run / FOLDER).is_dir():
        raise FileNotFoundError(f"{run}: no checkpoint yet: looked for {run / FOLDER}")
    source = hub.resolve(json.loads(file.read_text())["model"]["source"])
    config = hub.load_config(source)
    mesh = make_mesh(MeshSettings(data=1, fsdp=-1, tensor=1, sequence=1))
    with Checkpoints(run, read_only=True) as checkpoints:
        abstract = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            weights.abstract_params(config),
            weights.shardings(config, mesh),
        )
        return source, config, checkpoints.restore_params(abstract)


def convert(run: Path, to: Path, *, certified: bool = False) -> Path:
    """Writes the parameters of the last checkpoint in ``run``, in float32, with the tokenizer of the model it began
    from.

    Args:
      certified: whether the folder is loaded again, here and in transformers, and its logits compared with the
        checkpoint's, see :func:`jaxrl_llm.models.certificate.certify`.

    Raises:
      FileNotFoundError, ValueError: as :func:`last_params` says.
      ImportError: a certificate is wanted, and torch or transformers is not installed.
      ValueError: as ``certify`` says; the folder is there all the same.
      FileExistsError: ``to`` holds something already.
    """
    if to.exists() and any(to.iterdir()):
        raise FileExistsError(f"--to {to} is not empty: choose another folder")
    reference = certificate.logits_of_transformers() if certified else None
    source, config, params = last_params(run)
    tokenizer = tokens.load(source)
    save(config, params, to, dtype="float32", generation_config=_generation(tokenizer))
    tokenizer.save(to)
    if reference is not None:
        certificate.certify(hub.Policy(config, params, functions(config)), to, reference)
    return to


def _generation(tokenizer: tokens.Tokenizer) -> dict[str, Any]:
    return {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
