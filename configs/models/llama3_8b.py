"""Llama-3.1-8B-Instruct with the hyperparameters of arXiv 2508.08221: see configs/models/paper.py.

Command: jaxrl-llm train --config configs/models/llama3_8b.py
Hardware: accelerators; never run by us at full size. The study names Llama3-8B without saying which
checkpoint; the prompt is a chat, so this is one that has a chat template.
"""

from configs.models import paper


def get_config():
    c = paper.get_config()
    c.run_dir = "runs/llama3_8b"
    c.model.source = "meta-llama/Llama-3.1-8B-Instruct"
    return c
