"""From a run's last checkpoint to a Hugging Face folder that transformers, vLLM and this library load."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.data import tokens
from jaxrl_llm.models import certificate, hub, lora, peft, weights
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.models.hub import Policy
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.models.writer import save
from jaxrl_llm.sharding import MeshSettings, make_mesh
from jaxrl_llm.training.checkpoint import FOLDER, Checkpoints, require_base
from jaxrl_llm.types import join_policy, split_policy


class Trained(NamedTuple):
    """What a run has made of a model.

    Attributes:
      name: of the model that it began from, as the run's config has it.
      source: the folder or file of that model.
      policy: of the last checkpoint, in float32; with its adapter, if the run has trained one.
    """

    name: str
    source: Path
    policy: Policy


def last_policy(run: Path) -> Trained:
    """What the last checkpoint of a run holds.

    Raises:
      FileNotFoundError: no run, or no checkpoint in it.
      ValueError: the checkpoint is damaged, or is an adapter of another model than now lies at the run's source.
    """
    file = run / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{run}: no run: looked for config.json")
    if not (run / FOLDER).is_dir():
        raise FileNotFoundError(f"{run}: no checkpoint yet: looked for {run / FOLDER}")
    values = json.loads(file.read_text())
    name, settings = values["model"]["source"], _lora_of(values)
    source = hub.resolve(name)
    config, mesh = hub.load_config(source), make_mesh(MeshSettings(data=1, fsdp=-1, tensor=1, sequence=1))
    if settings is None:
        shapes, places = weights.abstract_params(config), weights.shardings(config, mesh)
    else:
        shapes, places = lora.abstract(config, settings), lora.shardings(config, settings, mesh)
    with Checkpoints(run, read_only=True) as checkpoints:
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places)
        params, extra = checkpoints.restore_params(abstract)
    if settings is not None:
        require_base(extra, hub.fingerprint(source), name)
        # as the run held it: weights that were rounded there are what the adapter was trained beside
        base = hub.load_params(source, config, dtype=values["model"]["param_dtype"], mesh=mesh)
        params = join_policy(params, jax.tree.map(lambda x: x.astype(jnp.float32), base))
    return Trained(name, source, Policy(config, params, functions(config, lora=settings), settings))


def _lora_of(values: dict[str, Any]) -> LoraSettings | None:
    """Of a run's config.json; those of versions without adapters have no such section."""
    if "lora" not in values or values["lora"]["rank"] is None:
        return None
    return LoraSettings(**values["lora"])


def convert(run: Path, to: Path, *, adapter: bool = False, certified: bool = False) -> Path:
    """Writes what the last checkpoint in ``run`` holds, in float32.

    Args:
      adapter: whether the run's adapter is written alone, as a folder of `peft`; else the whole model is, with the
        adapter merged into its weights where there is one, and with the tokenizer of the model that the run began from.
      certified: whether the folder is loaded again, here and in transformers or peft, and its logits compared with the
        checkpoint's, see :func:`jaxrl_llm.models.certificate.certify`.

    Raises:
      FileNotFoundError, ValueError: as :func:`last_policy` says.
      ImportError: a certificate is wanted, and torch, transformers or peft is not installed.
      ValueError: as ``certify`` says; the folder is there all the same. Or the run has no adapter to write.
      FileExistsError: ``to`` holds something already.
    """
    if to.exists() and any(to.iterdir()):
        raise FileExistsError(f"--to {to} is not empty: choose another folder")
    if adapter:
        return _convert_adapter(run, to, certificate.logits_of_peft() if certified else None)
    reference = certificate.logits_of_transformers() if certified else None
    _, source, policy = last_policy(run)
    params = policy.params if policy.lora is None else lora.merge(policy.config, policy.lora, policy.params)
    tokenizer = tokens.load(source)
    generation = {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
    save(policy.config, params, to, dtype="float32", generation_config=generation)
    tokenizer.save(to)
    if reference is not None:
        certificate.certify(policy, to, reference)
    return to


def _convert_adapter(run: Path, to: Path, reference: Callable[[Path, Path, np.ndarray], np.ndarray] | None) -> Path:
    """As :func:`convert` says. A certificate compares on the base as the run held it, written for that alone."""
    name, _, policy = last_policy(run)
    config = policy.config
    if policy.lora is None:
        raise ValueError(f"--adapter: {run} has lora.rank = None: it trained the model itself, and has no adapter")
    adapter, base = split_policy(policy.params)
    peft.save_adapter(config, policy.lora, adapter, to, base=name)
    if reference is None:
        return to

    def load(folder: Path) -> Policy:
        settings, loaded = peft.load_adapter(folder, config)
        return Policy(config, join_policy(loaded, base), functions(config, lora=settings), settings)

    with tempfile.TemporaryDirectory() as folder:
        save(config, base, Path(folder), dtype="float32")
        certificate.certify(policy, to, functools.partial(reference, Path(folder)), load=load, package="peft")
    return to
