"""What advantages, loss and its gradient cost beside the update of a 0.6 B model, a token each. Ratios of one run.

Command: python benchmarks/core.py       (two minutes and 14 GiB on two cores; run it on an otherwise idle machine)

The update is a real one of Qwen3-0.6B's shape with random weights: forward and backward pass with the chunked head,
GRPO's loss, AdamW. The functional core is timed by itself on many more tokens, so that the cost of a call does not
hide the cost of a token, and on as few as the update has.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from timing import fastest, roofline

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the configs

ROWS, WIDTH = 4, 128  # completion tokens of the update: 512
MANY_ROWS, MANY_WIDTH = 256, 512  # of the core by itself
GROUP = 4
RECIPES = ("reinforce", "grpo", "dapo", "lite_ppo", "gspo", "cispo", "sapo", "gmpo", "topr", "opo", "dr_grpo", "rloo")


def update_seconds() -> tuple[float, float]:
    """(seconds of one update of ROWS × WIDTH tokens, its FLOP)."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxrl_llm.algorithm import policy_loss
    from jaxrl_llm.models.config import ModelConfig
    from jaxrl_llm.models.decoder import functions
    from jaxrl_llm.sampling.support import Sampling
    from jaxrl_llm.training.score import score

    config = ModelConfig(
        family="qwen3", vocab_size=151936, width=1024, layers=28, heads=16, kv_heads=8, head_size=128, mlp_width=3072,
        norm_epsilon=1e-6, rope_theta=1e6, max_positions=40960, tied=True, qkv_bias=False, qk_norm=True,
    )  # fmt: skip
    model, optimizer = functions(config), optax.adamw(1e-6)
    sampling = Sampling(max_tokens=WIDTH, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, stop=())
    params = jax.jit(model.init)(jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(params))
    state = jax.jit(optimizer.init)(params)
    algorithm = algorithms()["grpo"]
    batch = batches(algorithm, ROWS, WIDTH)

    def loss(params: Any) -> Any:
        scores = score(model, params, batch, sampling, chunk=256)
        return policy_loss(algorithm, scores.logprobs, scores.entropy, batch)[0]

    def update(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    holder = [params, state]
    del params, state

    def step() -> object:
        holder[:] = compiled(*holder)
        return jnp.ravel(jax.tree.leaves(holder[0])[0])[0]

    print(f"Qwen3-0.6B's shape: {size / 1e6:.0f} M parameters, {ROWS * (WIDTH + 1)} tokens with prompts of one")
    return fastest(step, repeats=3), 6.0 * size * ROWS * WIDTH


def algorithms() -> dict[str, Any]:
    """The recipes, and the two surrogates that sort all tokens of a step."""
    from jaxrl_llm import config

    folder = Path(__file__).resolve().parents[1] / "configs"
    found = {name: config.parse(config.load(folder / f"{name}.py")).algorithm for name in RECIPES}
    sorting = {"cov_share": 0.02, "surrogate": "clip_cov", "cov_low": 1.0, "cov_high": 5.0}
    found["clip_cov"] = dataclasses.replace(found["dr_grpo"], **sorting)
    sorting = {"cov_share": 0.02, "surrogate": "kl_cov", "kl_cov_coefficient": 1.0, "clip_low": None, "clip_high": None}
    found["kl_cov"] = dataclasses.replace(found["dr_grpo"], **sorting)
    return found


def rewards_of(rows: int) -> Any:
    import jax

    return jax.random.bernoulli(jax.random.key(0), 0.4, (rows,)).astype("float32")


def prepare(algorithm: Any, rewards: Any, mask: Any, logprobs: Any) -> Any:
    """A batch as a step makes it: rewards, advantages, weights."""
    import jax.numpy as jnp

    from jaxrl_llm.algorithm import advantages, loss_weights, shape_rewards
    from jaxrl_llm.types import TrainBatch

    rows, width = mask.shape
    prompt_id = jnp.arange(rows) // GROUP
    shaped = shape_rewards(algorithm, rewards, mask=mask, prompt_id=prompt_id, max_tokens=width)
    result = advantages(
        algorithm, shaped, prompt_id=prompt_id, mask=mask, truncated=jnp.zeros(rows, bool),
        kl=jnp.zeros(mask.shape) if algorithm.kl_placement == "reward" else None,
    )  # fmt: skip
    return TrainBatch(
        prompt_tokens=jnp.zeros((rows, 1), jnp.int32),
        prompt_length=jnp.ones(rows, jnp.int32),
        tokens=jnp.zeros(mask.shape, jnp.int32),
        mask=result.mask,
        advantages=result.values,
        old_logprobs=logprobs,
        sampler_logprobs=logprobs,
        weights=loss_weights(algorithm, result.mask, prompt_id, max_tokens=width),
        ref_logprobs=logprobs,
        rewards=rewards,
        row_id=jnp.arange(rows),
    )


def arrays(rows: int, width: int) -> tuple[Any, Any]:
    """(mask, log-probabilities)."""
    import jax
    import jax.numpy as jnp

    length = jax.random.randint(jax.random.key(1), (rows, 1), width // 2, width + 1)
    return jnp.arange(width) < length, -jax.random.exponential(jax.random.key(2), (rows, width))


def batches(algorithm: Any, rows: int, width: int) -> Any:
    mask, logprobs = arrays(rows, width)
    return prepare(algorithm, rewards_of(rows), mask, logprobs)


def core_seconds(algorithm: Any, rows: int, width: int) -> float:
    """Seconds of rewards -> advantages -> weights -> loss -> gradient by log-probabilities and entropies."""
    import jax

    from jaxrl_llm.algorithm import choose_tokens, needs_choice, policy_loss

    mask, old = arrays(rows, width)

    def core(rewards: Any, mask: Any, old: Any, logprobs: Any, entropy: Any) -> Any:
        batch = prepare(algorithm, rewards, mask, old)
        if needs_choice(algorithm):
            batch = dataclasses.replace(batch, choice=choose_tokens(algorithm, logprobs, entropy, batch))
        return jax.value_and_grad(
            lambda logprobs, entropy: policy_loss(algorithm, logprobs, entropy, batch), argnums=(0, 1), has_aux=True
        )(logprobs, entropy)

    return fastest(jax.jit(core), rewards_of(rows), mask, old, old * 1.01, -old)


def main() -> None:
    ceiling = roofline()
    seconds, flop = update_seconds()
    a_token = seconds / (ROWS * WIDTH)
    print(f"matrix product {ceiling / 1e9:.0f} GFLOP/s; update {seconds:.2f} s, {flop / seconds / 1e9:.0f} GFLOP/s")
    columns = ("core at equal tokens", "of the update", "core, many tokens", "of the update")
    print(f"{'recipe':<12} " + " ".join(f"{column:>22}" for column in columns))
    for name, algorithm in algorithms().items():
        few = core_seconds(algorithm, ROWS, WIDTH)
        many = core_seconds(algorithm, MANY_ROWS, MANY_WIDTH) / (MANY_ROWS * MANY_WIDTH)
        print(
            f"{name:<12} {few * 1e3:>19.3f} ms {100 * few / seconds:>20.2g} % "
            f"{many * 1e9:>13.1f} ns/token {100 * many / a_token:>20.2g} %"
        )


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
