"""Records transformers' answers about the tiny models, and the tensors it gives the public models.

    python -m tests.models.record_fixtures

Needs torch and transformers. The tests compare the recorded numbers with transformers' own wherever both are installed.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from tests.models import public, tiny


def main() -> None:
    tiny.FIXTURES.mkdir(exist_ok=True)
    for case in tiny.CASES:
        with tempfile.TemporaryDirectory() as folder:
            model = tiny.transformers_model(tiny.write_case(Path(folder), case))
            logits, greedy = tiny.ask_logits(model), tiny.generate(model)
        real = np.arange(tiny.WIDTH) < tiny.LENGTHS[:, None]
        np.savez_compressed(tiny.FIXTURES / f"{case}.npz", logits=logits[real], greedy=greedy)
    shapes = {name: public.collapse(public.ask_transformers(name)) for name in public.CONFIGS}
    (tiny.FIXTURES / "public_shapes.json").write_text(json.dumps(shapes, indent=1) + "\n")


if __name__ == "__main__":
    main()
