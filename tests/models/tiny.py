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
GREEDY_TOKENS = 64

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
    "llama_biases": {
        **_COMMON,
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "rope_theta": 100.0,
        "rope_scaling": {"type": "linear", "factor": 2.5},
        "tie_word_embeddings": True,
    },
    # Sequences pass max_position_embeddings.
    "llama_dynamic": {
        **_COMMON,
        "model_type": "llama",
        "rope_theta": 100.0,
        "max_position_embeddings": 24,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        "tie_word_embeddings": False,
    },
    "mistral": {
        **_COMMON,
        "model_type": "mistral",
        "rope_theta": 1000.0,
        "sliding_window": 7,
        "tie_word_embeddings": False,
    },
    # Four frequencies, of which yarn keeps one, divides one and blends two.
    "qwen2_window": {
        **_COMMON,
        "model_type": "qwen2",
        "rope_theta": 1000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "beta_fast": 4.0,
            "beta_slow": 0.2,
            "mscale": 1.5,
            "mscale_all_dim": 0.5,
            "truncate": False,
        },
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3_window": {
        **_COMMON,
        "model_type": "qwen3",
        "head_dim": 16,
        "attention_bias": True,
        "rope_theta": 1000.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        "use_sliding_window": True,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
    },
    "qwen3_moe": {
        **_COMMON,
        "model_type": "qwen3_moe",
        "head_dim": 16,
        "moe_intermediate_size": 24,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "rope_theta": 1000.0,
        "tie_word_embeddings": False,
    },
    "smollm3": {
        **_COMMON,
        "model_type": "smollm3",
        "num_hidden_layers": 3,
        "no_rope_layers": [1, 0, 1],
        "rope_theta": 1000.0,
        "pad_token_id": None,
        "tie_word_embeddings": True,
    },
    "smollm3_window": {
        **_COMMON,
        "model_type": "smollm3",
        "no_rope_layer_interval": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "use_sliding_window": True,
        "sliding_window": 10,
        "rope_theta": 1000.0,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    },
    "gemma2": {
        **_COMMON,
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
        "sliding_window": 8,
        "rope_theta": 1000.0,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    },
    "gemma3": {
        **_COMMON,
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "num_hidden_layers": 3,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_theta": 1000.0,
        "rope_local_base_freq": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "pad_token_id": None,
        "tie_word_embeddings": True,
    },
    "olmo2": {
        **_COMMON,
        "model_type": "olmo2",
        "rope_theta": 1000.0,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}


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
