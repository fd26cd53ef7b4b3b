"""What the CPU path owes to two choices: the tuned allocator, and heads in front in attention. Ratios of one run.

Command: python benchmarks/cpu.py        (about a minute on two cores; run it on an otherwise idle machine)
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from timing import REPEATS, fastest

ROWS, WIDTH = 52, 160  # tokens of one pass of the embedded model's pretraining, times two


def gradient() -> None:
    """Prints seconds and page faults of one gradient of the embedded model."""
    import jax
    import jax.numpy as jnp

    from jaxrl_llm.models import hub
    from jaxrl_llm.training.pretrain import cross_entropy

    policy = hub.load("embedded:tiny")
    tokens = jax.random.randint(jax.random.key(0), (ROWS, WIDTH), 0, policy.config.vocab_size)
    positions, segments = jnp.broadcast_to(jnp.arange(WIDTH), tokens.shape), jnp.ones_like(tokens)
    step = jax.jit(jax.grad(lambda p, *batch: cross_entropy(policy.model, p, *batch)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = fastest(step, policy.params, tokens, positions, segments)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (REPEATS + 1)
    print(f"{seconds:.3f} {faults:.0f}")


def allocator() -> None:
    from jaxrl_llm.environment import MALLOC

    results = {}
    for name, tunables in (("as it comes", ""), ("tuned", MALLOC)):
        command = [sys.executable, __file__, "gradient"]
        out = subprocess.run(command, env=os.environ | {"GLIBC_TUNABLES": tunables}, capture_output=True, check=True)
        results[name] = tuple(map(float, out.stdout.split()))
        print(
            f"gradient of {ROWS * WIDTH} tokens, glibc {name:<12} "
            f"{results[name][0]:.3f} s  {results[name][1]:,.0f} page faults"
        )
    print(f"ratio {results['as it comes'][0] / results['tuned'][0]:.2f}")


def attention() -> None:
    import jax
    import jax.numpy as jnp

    from jaxrl_llm.models import hub
    from jaxrl_llm.models.attention import by_lanes
    from jaxrl_llm.models.layers import Attention
    from jaxrl_llm.models.rotary import rotary_angles

    config = hub.load_config(hub.resolve("embedded:tiny"))
    module = Attention(config, jnp.dtype(jnp.float32))
    x = jax.random.normal(jax.random.key(0), (ROWS * WIDTH, config.width))
    angles = rotary_angles(config, jnp.tile(jnp.arange(WIDTH), ROWS))
    segments = jnp.ones((ROWS, WIDTH), jnp.int32)
    params = module.init(jax.random.key(1), x, angles, segments, by_lanes)

    def library(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> jax.Array:
        heads = query.reshape(*segments.shape, config.heads, config.head_size)
        return jax.nn.dot_product_attention(heads, key, value, is_causal=True, scale=1.0).reshape(query.shape)

    seconds = {}
    for name, attend in (("heads in front", by_lanes), ("jax.nn.dot_product_attention", library)):
        loss = jax.jit(
            jax.grad(lambda p, x, a=attend: jnp.square(module.apply(p, x, angles, segments, a)[0]).sum())  # type: ignore[index]
        )
        seconds[name] = fastest(loss, params, x)
        print(f"attention with gradient, {name:<30} {seconds[name] * 1e3:.0f} ms")
    print(f"ratio {seconds['jax.nn.dot_product_attention'] / seconds['heads in front']:.2f}")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if sys.argv[1:] == ["gradient"]:
        gradient()
    else:
        allocator()
        attention()
