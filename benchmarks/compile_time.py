"""What depth costs to compile: CPU seconds of the programs of a run, for a shallow and a deep decoder side by side.

Command: python benchmarks/compile_time.py [shallow deep]        (2 and 36 layers; nothing runs but the compiler)

A shallow decoder is unrolled (`decoder.UNROLLED_LAYERS`), a deep one scans over its layers; the shallow one is compiled
both ways. The rollout is unrolled always. Seconds are those of the processor, in all threads, so that other work on the
machine counts little. The decoder is the embedded model's with other depths: to a compiler, width hardly matters.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the configs

DEPTHS = 2, 36
CHANGES = ["data.max_prompt_tokens=64", "sampling.max_tokens=128"]


def seconds(program: str, layers: int, unrolled: int) -> tuple[float, float]:
    """To trace and lower a program of a run, and to compile it.

    Args:
      unrolled: layers up to which a decoder is unrolled.
    """
    import jax

    from jaxrl_llm import config
    from jaxrl_llm.models import decoder, hub
    from jaxrl_llm.planning.programs import Abstract, trace
    from jaxrl_llm.sharding import MeshSettings, make_mesh

    jax.clear_caches()
    decoder.functions.cache_clear()
    decoder.UNROLLED_LAYERS = unrolled
    settings = config.parse(config.load(ROOT / "configs/grpo.py", CHANGES))
    architecture = dataclasses.replace(hub.load_config(hub.resolve("embedded:tiny")), layers=layers)
    mesh = make_mesh(MeshSettings(1, 1, 1, 1), jax.devices()[:1])
    abstract = Abstract(settings, architecture, mesh)
    with jax.set_mesh(mesh):
        begun = time.process_time()
        lowered: Any = trace(program, abstract).lower()
        between = time.process_time()
        lowered.compile()
        return between - begun, time.process_time() - between


def main() -> None:
    from jaxrl_llm.models import decoder
    from jaxrl_llm.planning.programs import PROGRAMS

    shallow, deep = tuple(map(int, sys.argv[1:])) or DEPTHS
    ways = {
        f"{shallow} unrolled": (shallow, shallow),
        f"{shallow} scanned": (shallow, 0),
        f"{deep} layers": (deep, decoder.UNROLLED_LAYERS),
    }
    seconds("score", 1, 1)  # what only the first program of a process costs
    print(f"{'':<16} " + " ".join(f"{name:>12}" for name in ways) + f"   {deep} by {shallow}, scanned")
    for program in PROGRAMS:
        measured = [seconds(program, *way) for way in ways.values()]
        for part, values in zip(("trace", "compile"), zip(*measured, strict=True), strict=True):
            cells = " ".join(f"{value:10.2f} s" for value in values)
            print(f"{program:<8} {part:<7} {cells}   {values[2] / values[1]:.2f}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
