"""Why decoding is unrolled over the layers: a scan over stacked weights and caches beside it, same tokens.

Command: python benchmarks/decoding.py        (a minute on two cores; run it on an otherwise idle machine)

On CPU, XLA copies the weights and the cache of a layer out of their stacks before the products that read them, and the
caches of a token into new stacks. A scan that carries the caches and writes one column copies whole stacks every layer.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

from timing import fastest

LAYERS, WIDTH = 12, 512
PROMPTS, SAMPLES, PROMPT, STEPS = 4, 8, 64, 64


def main() -> None:
    import jax
    import jax.numpy as jnp

    from jaxrl_llm.models import decoder, hub
    from jaxrl_llm.models.layers import Layer, norm
    from jaxrl_llm.models.rotary import rotary_angles

    tiny = hub.load_config(hub.resolve("embedded:tiny"))
    sizes = {"layers": LAYERS, "width": WIDTH, "heads": 8, "kv_heads": 4, "head_size": 64, "mlp_width": 3 * WIDTH}
    config = dataclasses.replace(tiny, **sizes)
    model, layer = decoder.functions(config), Layer(config, jnp.dtype(jnp.float32))
    prepared = jax.jit(lambda key: model.prepare(model.init(key)))(jax.random.key(0))
    length = jnp.full(PROMPTS, PROMPT)
    _, prompt = jax.jit(model.prefill)(prepared, jnp.ones((PROMPTS, PROMPT), jnp.int32), length)
    cache = model.empty_cache(PROMPTS * SAMPLES, STEPS)

    def unrolled(prepared: Any, token: Any, position: Any, prompt: Any, cache: Any, column: Any) -> Any:
        return model.decode(prepared, token, position, prompt, length, cache, column)

    def scanned(prepared: Any, token: Any, position: Any, prompt: Any, cache: Any, column: Any) -> Any:
        x, angles = decoder.embedded(config, prepared, token, position), rotary_angles(config, position)
        mask = jnp.arange(PROMPT) < length[:, None]

        def one(x: Any, of_layer: Any) -> Any:
            weights, of_prompt, own = of_layer
            return layer.apply({"params": weights}, x, angles, of_prompt, own, mask, column, method="decode")

        x, cache = jax.lax.scan(one, x, (prepared["layers"], prompt, cache))
        return norm(config).apply({"params": prepared["final_norm"]}, x), cache

    def loop(decode: Callable[..., Any], prepared: Any, prompt: Any, cache: Any) -> Any:
        def step(state: Any) -> Any:
            column, cache, token = state
            hidden, cache = decode(prepared, token, jnp.repeat(length, SAMPLES) + column, prompt, cache, column)
            return column + 1, cache, jnp.argmax(hidden, axis=-1).astype(jnp.int32)

        state = jnp.int32(0), cache, jnp.ones(PROMPTS * SAMPLES, jnp.int32)
        return jax.lax.while_loop(lambda s: s[0] < STEPS, step, state)[2]

    def stacked(*trees: Any) -> Any:
        return jax.tree.map(lambda *x: jnp.stack(x), *trees)

    in_stacks = (
        prepared | {"layers": stacked(*prepared["layers"])},
        *((jnp.stack(of.keys), jnp.stack(of.values)) for of in (prompt, cache)),
    )
    found: dict[str, tuple[float, Any]] = {}
    for decode, arguments in ((unrolled, (prepared, prompt, cache)), (scanned, in_stacks)):
        name, lowered = decode.__name__, jax.jit(functools.partial(loop, decode)).lower(*arguments)
        begun = time.process_time()
        compiled = lowered.compile()
        begun = time.process_time() - begun
        found[name] = fastest(compiled, *arguments, repeats=3) / STEPS, compiled(*arguments)
        print(f"{name:<9} {begun:.2f} s of the processor to compile, {found[name][0] * 1e3:.1f} ms a token", flush=True)
    if not (found["unrolled"][1] == found["scanned"][1]).all():
        raise SystemExit("the two decoded different tokens")
    print(f"ratio {found['scanned'][0] / found['unrolled'][0]:.2f}")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
