"""Tiny models of every family: Hugging Face configs, weights from a numpy seed, inputs, and transformers' answers.

The weights come from numpy, so that the answers recorded in fixtures/ (by record_fixtures.py) can be compared where
transformers and torch are not installed.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxrl_llm.models import weights
from jaxrl_llm.models.config import from_hf

FIXTURES = Path(__file__).parent / "fixtures"
# torch too, which transformers needs to compute anything; the extra `parity` has both
HAVE_TRANSFORMERS = all(importlib.util.find_spec(package) is not None for package in ("transformers", "torch"))
VOCABULARY = 61
WIDTH = 48  # S of the inputs
LENGTHS = np.array([48, 23, 1])
GREEDY_TOKENS = 24

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
}
CASES: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, "model_type": "llama", "rope_theta": 10000.0, "tie_word_embeddings": False},
    # The wavelengths 6, 20, 63 and 199 lie below, between and above the bounds 32 / 4 and 32 / 1; 48 tokens pass 32.
    "llama3": {
        **_COMMON,
        "model_type": "llama",
        "rope_theta": 100.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "tie_word_embeddings": True,
    },
    "qwen2": {**_COMMON, "model_type": "qwen2", "rope_theta": 1000.0, "tie_word_embeddings": True},
    "qwen3": {
        **_COMMON,
        "model_type": "qwen3",
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000.0,
        "tie_word_embeddings": False,
    },
}


def hf_config(case: str, **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CASES[case]), **changes}


def hf_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors by Hugging Face name, large enough that every part of the model moves the logits."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for weight in weights.weight_table(from_hf(config, "test")):
        for name in weight.hf_names:
            noise = rng.standard_normal(weight.hf_shape).astype(np.float32)
            tensors[name] = 1 + 0.2 * noise if "norm" in name else 0.25 * noise
    return tensors


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_case(folder: Path, case: str) -> Path:
    return write_folder(folder, hf_config(case), hf_tensors(hf_config(case)))


def tokens() -> np.ndarray:
    """int32 [3, WIDTH], right-padded with garbage behind LENGTHS."""
    return np.random.default_rng(1).integers(0, VOCABULARY, (len(LENGTHS), WIDTH)).astype(np.int32)


def recorded(case: str) -> dict[str, np.ndarray]:
    """transformers' logits [3, WIDTH, VOCABULARY] at the real tokens (0 elsewhere) and its greedy continuations."""
    with np.load(FIXTURES / f"{case}.npz") as file:
        logits = np.zeros((len(LENGTHS), WIDTH, VOCABULARY), np.float32)
        logits[np.arange(WIDTH) < LENGTHS[:, None]] = file["logits"]
        return {"logits": logits, "greedy": file["greedy"]}


def ask_transformers(folder: Path) -> dict[str, np.ndarray]:
    """The same from transformers itself, in float32."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    real = np.arange(WIDTH) < LENGTHS[:, None]
    ids = torch.tensor(tokens(), dtype=torch.long)
    with torch.no_grad():
        logits = model(ids, attention_mask=torch.tensor(real)).logits.numpy()
        # One row at a time: with padding, generate() wants it on the left.
        options: dict[str, Any] = {"do_sample": False, "min_new_tokens": GREEDY_TOKENS, "max_new_tokens": GREEDY_TOKENS}
        greedy = [
            model.generate(row[None, :length], **options)  # type: ignore[attr-defined]
            for row, length in zip(ids, PROMPT_LENGTHS, strict=True)
        ]
    continuations = np.stack([row[0, -GREEDY_TOKENS:].numpy() for row in greedy])
    return {"logits": np.where(real[..., None], logits, 0), "greedy": continuations.astype(np.int32)}


PROMPT_LENGTHS = np.array([17, 23, 1])  # of the greedy continuations; the prompts are the rows of tokens()
