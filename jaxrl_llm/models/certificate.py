"""The certificate of an exported folder: that others compute from it what the model that was saved computes.

Of a whole model that is transformers, of an adapter it is peft on transformers' model of the base.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.models import hub
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.models.hub import Policy

FILE = "certificate.json"
ROWS, WIDTH, SEED = 4, 64, 0  # of the token ids, drawn uniformly from the vocabulary
BOUND = 1e-4  # of a difference, as a share of the largest logit, or of 1 if that is larger
_PACKAGES = ("jaxrl-llm", "jax", "torch", "transformers", "safetensors")
Reference = Callable[[Path, np.ndarray], np.ndarray]  # (folder, tokens [B, S]) -> logits [B, S, V], float32


def certify(
    policy: Policy,
    folder: Path,
    reference: Reference,
    *,
    load: Callable[[Path], Policy] = lambda folder: hub.load(str(folder)),
    package: str = "transformers",
    saved: str = "float32",
) -> dict[str, Any]:
    """Loads ``folder`` here and elsewhere, compares all logits with the policy's in float32, and writes FILE.

    Args:
      reference: :func:`logits_of_transformers`, or for an adapter :func:`logits_of_peft` on its base.
      load: reads the folder here.
      package: that the reference is of.
      saved: dtype of the tensors in the folder.

    Returns:
      What the file holds: for either loader the largest and the mean |difference| of a logit, the bound, the prompts,
      dtypes and versions.

    Raises:
      ValueError: a difference is above the bound; FILE is written all the same, and says so.
    """
    tokens = np.random.default_rng(SEED).integers(0, policy.config.vocab_size, (ROWS, WIDTH)).astype(np.int32)
    expected = _logits(policy, tokens)
    found = {
        "jaxrl_llm": _logits(load(folder), tokens),
        package: reference(folder, tokens),
    }
    largest = float(np.abs(expected).max())
    bound = BOUND * max(1.0, largest)
    differences = {name: np.abs(logits - expected) for name, logits in found.items()}
    certificate = {
        "certified": all(bool(difference.max() <= bound) for difference in differences.values()),
        "bound": bound,
        "largest_logit": largest,
        "differences": {
            name: {"max": float(difference.max()), "mean": float(difference.mean())}
            for name, difference in differences.items()
        },
        "prompts": {"tokens": tokens.tolist(), "drawn": f"numpy default_rng({SEED}), uniform over the vocabulary"},
        "dtypes": {"computed": "float32", "saved": saved},
        "versions": {name: importlib.metadata.version(name) for name in {**dict.fromkeys(_PACKAGES), package: None}},
    }
    (folder / FILE).write_text(json.dumps(certificate, indent=1) + "\n")
    if not certificate["certified"]:
        told = ", ".join(f"{name} {of['max']:.3g}" for name, of in certificate["differences"].items())
        raise ValueError(f"{folder}: not the model that was saved: logits differ by up to {told}; bound {bound:.3g}")
    return certificate


def _logits(policy: Policy, tokens: np.ndarray) -> np.ndarray:
    lengths = jnp.full(len(tokens), tokens.shape[1])
    # float32, whatever the policy computes in
    exact = dataclasses.replace(policy, model=functions(policy.config, lora=policy.lora))
    return np.asarray(jax.jit(exact.logits)(jnp.asarray(tokens), lengths))


def logits_of_transformers() -> Reference:
    """Of a folder that holds a whole model.

    Raises:
      ImportError: torch or transformers is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"a certificate needs torch and transformers: pip install 'jaxrl-llm[parity]' ({error})"
        ) from error

    def logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            return model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()

    return logits


def logits_of_peft() -> Callable[[Path, Path, np.ndarray], np.ndarray]:
    """(base, folder, tokens) -> logits, of a folder that holds an adapter of the model in the folder ``base``.

    Raises:
      ImportError: torch, transformers or peft is not installed.
    """
    try:
        import peft
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            "the certificate of an adapter needs torch, transformers and peft: pip install 'jaxrl-llm[parity]' "
            f"({error})"
        ) from error

    def logits(base: Path, folder: Path, tokens: np.ndarray) -> np.ndarray:
        of_base = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(of_base, folder).eval()
        with torch.no_grad():
            return model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()

    return logits
