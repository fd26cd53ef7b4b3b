"""The certificate of an exported folder: that transformers computes from it what the model that was saved computes."""

from __future__ import annotations

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


def certify(policy: Policy, folder: Path, reference: Callable[[Path, np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Loads ``folder`` here and in transformers, compares all logits with the policy's in float32, and writes FILE.

    Args:
      reference: :func:`logits_of_transformers`.

    Returns:
      What the file holds: for either loader the largest and the mean |difference| of a logit, the bound, the prompts,
      dtypes and versions.

    Raises:
      ValueError: a difference is above the bound; FILE is written all the same, and says so.
    """
    tokens = np.random.default_rng(SEED).integers(0, policy.config.vocab_size, (ROWS, WIDTH)).astype(np.int32)
    expected = _logits(policy, tokens)
    found = {
        "jaxrl_llm": _logits(hub.load(str(folder)), tokens),
        "transformers": reference(folder, tokens),
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
        "dtypes": {"computed": "float32", "saved": json.loads((folder / "config.json").read_text())["torch_dtype"]},
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    (folder / FILE).write_text(json.dumps(certificate, indent=1) + "\n")
    if not certificate["certified"]:
        told = ", ".join(f"{name} {of['max']:.3g}" for name, of in certificate["differences"].items())
        raise ValueError(f"{folder}: not the model that was saved: logits differ by up to {told}; bound {bound:.3g}")
    return certificate


def _logits(policy: Policy, tokens: np.ndarray) -> np.ndarray:
    lengths = jnp.full(len(tokens), tokens.shape[1])
    exact = Policy(policy.config, policy.params, functions(policy.config))  # float32, whatever the policy computes in
    return np.asarray(jax.jit(exact.logits)(jnp.asarray(tokens), lengths))


def logits_of_transformers() -> Callable[[Path, np.ndarray], np.ndarray]:
    """(folder, tokens [B, S]) -> logits [B, S, V], float32.

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
