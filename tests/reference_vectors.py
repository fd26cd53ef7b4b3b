"""One adapter from the kinds and params of ``reference_vectors/README.md`` onto the functions of this library.

A kind is a function of ``reference_kinds`` whose keyword arguments are the kind's params, so that a param nobody reads
is an error. No formula stands there: what is computed is computed by ``jaxrl_llm``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.reference_kinds import advantages, aggregation, mismatch, policy, rewards, surrogates

Outputs = dict[str, Any]

FOLDER = Path(os.environ.get("REFERENCE_VECTORS", Path(__file__).parent / "reference_vectors"))

KINDS: dict[str, Callable[..., Outputs]] = {
    function.__name__: function
    for function in (
        advantages.adv_gae, advantages.adv_gpg, advantages.adv_group, advantages.adv_multi_reward, advantages.adv_opo,
        advantages.adv_optimal_token_baseline, advantages.adv_pass_at_k, advantages.adv_pipeline,
        advantages.adv_reinforce_pp, advantages.adv_reinforce_pp_baseline, advantages.adv_remax, advantages.adv_rloo,
        advantages.returns_discounted, advantages.whiten, aggregation.agg, mismatch.high_entropy_mask,
        mismatch.is_weights, mismatch.is_weights_areal, mismatch.off_policy_sequence_mask, mismatch.offpolicy_metrics,
        mismatch.rejection_mask, policy.pg_cispo, policy.pg_gspo, policy.pg_luspo, policy.pg_ppo_clip,
        policy.pg_ppo_correction, policy.pg_reinforce, policy.pg_sapo, policy.pg_sequence_ratio,
        policy.pg_truncated_is, policy.value_loss, rewards.group_filter, rewards.kl_controller, rewards.kl_estimate,
        rewards.kl_full, rewards.logprob_entropy, rewards.overlong, rewards.reward_kl, rewards.reward_running_norm,
        rewards.sum_pi_squared, surrogates.pg_clip_cov, surrogates.pg_gmpo, surrogates.pg_kimi15,
        surrogates.pg_kl_cov, surrogates.pg_probability_mask, surrogates.pg_topr, surrogates.pg_vespo,
    )
}  # fmt: skip

# kind -> (scalar output, input that it is differentiated by)
GRADIENTS = {kind: ("loss", "log_prob") for kind in KINDS if kind.startswith("pg_")} | {
    "agg": ("loss", "loss_mat"),
    "kl_estimate": ("sum", "log_prob"),
    "kl_full": ("sum", "log_probs"),
    "logprob_entropy": ("objective", "logits"),
    "value_loss": ("loss", "values"),
}


def cases() -> Iterator[dict[str, Any]]:
    """The cases of the manifest."""
    yield from json.loads((FOLDER / "manifest.json").read_text())["cases"]


def evaluate(kind: str, params: dict[str, Any], inputs: dict[str, np.ndarray]) -> tuple[Outputs, Outputs]:
    """Outputs and gradients of a case, by name; computed in float32 if an input is float32, else in float64.

    Raises:
      ValueError: the kind is unknown.
      TypeError: the kind does not know a param.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    with jax.enable_x64(all(array.dtype != np.float32 for array in inputs.values())):
        arrays = {name: jnp.asarray(array) for name, array in inputs.items()}
        if "mask" in arrays:
            arrays["mask"] = arrays["mask"].astype(bool)
        results = jax.jit(lambda arrays: _differentiated(kind, params, arrays))(arrays)
        return jax.tree.map(np.asarray, results)


def _differentiated(kind: str, params: dict[str, Any], arrays: dict[str, jax.Array]) -> tuple[Outputs, Outputs]:
    if kind not in GRADIENTS:
        return KINDS[kind](arrays, **params), {}
    of, with_respect_to = GRADIENTS[kind]

    def scalar(x: jax.Array) -> tuple[jax.Array, Outputs]:
        outputs = KINDS[kind](arrays | {with_respect_to: x}, **params)
        return outputs[of], outputs

    (_, outputs), gradient = jax.value_and_grad(scalar, has_aux=True)(arrays[with_respect_to])
    return outputs, {with_respect_to: gradient}
