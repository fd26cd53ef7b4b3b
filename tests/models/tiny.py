"""Tiny models of every family (configs in `cases.py`): weights from a numpy seed, inputs, and transformers' answers.

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
from tests.models.cases import CASES, VOCABULARY

FIXTURES = Path(__file__).parent / "fixtures"
# torch too, which transformers needs to compute anything; the extra `parity` has both
HAVE_TRANSFORMERS = all(importlib.util.find_spec(package) is not None for package in ("transformers", "torch"))
WIDTH = 48  # S of the inputs
LENGTHS = np.array([48, 23, 1])
GREEDY_TOKENS = 64


def hf_config(case: str, **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CASES[case]), **changes}


def hf_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors by Hugging Face name, large enough that every part of the model moves the logits."""
    rng = np.random.default_rng(seed)
    tensors = {}
    of = from_hf(config, "test")
    for weight in weights.weight_table(of):
        for name in weight.hf_names:
            noise = rng.standard_normal(weight.hf_shape).astype(np.float32)
            scale = weight.of_norm and weight.path[-1] == "scale"
            tensors[name] = (0 if of.norm_offset else 1) + 0.2 * noise if scale else 0.25 * noise
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


def transformers_model(folder: Path, dtype: str = "float32") -> Any:
    """The folder as transformers reads it, without its progress bar."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def forward(model: Any, ids: np.ndarray, lengths: np.ndarray) -> tuple[Any, list[Any]]:
    """transformers' logits [B, S, VOCABULARY] and hidden states [B, S, D] of every layer at right-padded rows.

    The last hidden state is behind the final norm. With a dynamic rotary base a token follows its own length, as it
    does where transformers decodes (see ``models.rotary``): a row goes in token by token.
    """
    import torch

    rows = torch.tensor(ids, dtype=torch.long)
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "dynamic":
        real = torch.arange(rows.shape[1]) < torch.tensor(lengths)[:, None]
        out = model(rows, attention_mask=real, output_hidden_states=True)
        return out.logits, list(out.hidden_states)
    parts = []
    for row, length in zip(rows, lengths, strict=True):
        cache, steps = None, []
        for column in range(length):
            one = row[None, column : column + 1]
            out = model(one, past_key_values=cache, use_cache=True, output_hidden_states=True)
            cache = out.past_key_values
            steps.append((out.logits, *out.hidden_states))
        of_row = (torch.cat(part, dim=1) for part in zip(*steps, strict=True))
        parts.append([torch.nn.functional.pad(part, (0, 0, 0, rows.shape[1] - length)) for part in of_row])
    logits, *hidden = (torch.cat(part) for part in zip(*parts, strict=True))
    return logits, hidden


def ask_logits(model: Any) -> np.ndarray:
    """float32 [3, WIDTH, VOCABULARY], 0 at padding."""
    import torch

    with torch.no_grad():
        logits = forward(model, tokens(), LENGTHS)[0].float().numpy()
    return np.where((np.arange(WIDTH) < LENGTHS[:, None])[..., None], logits, 0)


PROMPT_LENGTHS = np.array([17, 23, 1])  # of the greedy continuations; the prompts are the rows of tokens()


def generate(model: Any) -> np.ndarray:
    """transformers' own greedy continuations."""
    import torch

    options: dict[str, Any] = {"do_sample": False, "min_new_tokens": GREEDY_TOKENS, "max_new_tokens": GREEDY_TOKENS}
    rows = torch.tensor(tokens(), dtype=torch.long)
    with torch.no_grad():  # one row at a time: with padding, generate() wants it on the left
        greedy = [model.generate(row[None, :n], **options) for row, n in zip(rows, PROMPT_LENGTHS, strict=True)]
    return np.stack([row[0, -GREEDY_TOKENS:].numpy() for row in greedy]).astype(np.int32)


def likeliest(model: Any, continuations: np.ndarray) -> np.ndarray:
    """The likeliest token at every place of ``continuations``: those themselves, if and only if they are greedy."""
    import torch

    lengths = PROMPT_LENGTHS + GREEDY_TOKENS
    rows = np.zeros((len(lengths), lengths.max()), np.int32)
    for row, prompt, continuation, length in zip(rows, tokens(), continuations, PROMPT_LENGTHS, strict=True):
        row[:length] = prompt[:length]
        row[length : length + GREEDY_TOKENS] = continuation
    with torch.no_grad():
        best = forward(model, rows, lengths)[0].argmax(-1).numpy()
    return np.stack([row[n - 1 : n - 1 + GREEDY_TOKENS] for row, n in zip(best, PROMPT_LENGTHS, strict=True)])
