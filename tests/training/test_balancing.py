"""The loss that balances experts, in an optimizer step: however its rows are cut, and beside that of transformers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from jaxrl_llm import config, models
from jaxrl_llm.algorithm import Algorithm
from jaxrl_llm.models import decoder, hub, weights, writer
from jaxrl_llm.sharding import MeshSettings, make_mesh, shard_rows
from jaxrl_llm.training.export import convert
from jaxrl_llm.training.layouts import Budget
from jaxrl_llm.training.loop import train
from jaxrl_llm.training.packing import pack_batch
from jaxrl_llm.training.step import init_state
from jaxrl_llm.training.update import PolicyUpdate
from jaxrl_llm.types import Rollout, TrainBatch
from tests import policies
from tests.models import tiny
from tests.policies import save_character_model
from tests.training import tiny_runs

EXPERTS, CHOSEN, ROWS, TOKENS = 6, 2, 8, 6
CONFIG = dataclasses.replace(
    policies.CONFIG,
    family="qwen3_moe",
    vocab_size=24,
    width=16,
    heads=2,
    kv_heads=1,
    mlp_width=8,
    experts=EXPERTS,
    experts_per_token=CHOSEN,
    renormalized_router=True,
)
MODEL = decoder.functions(CONFIG)
PARAMS = jax.tree.map(np.array, jax.jit(MODEL.init)(jax.random.key(0)))
PARAMS["layers"]["mlp"]["router"]["kernel"] *= 3.0  # far from balanced
COEFFICIENT = 0.3


def rollout() -> Rollout:
    """Two groups of four rows with gaps and an empty row."""
    rng = np.random.default_rng(1)
    mask = (np.arange(TOKENS) < rng.integers(2, TOKENS + 1, (ROWS, 1))) & (rng.random((ROWS, TOKENS)) < 0.8)
    mask[5] = False
    arrays = {
        "prompt_tokens": np.repeat(rng.integers(0, CONFIG.vocab_size, (2, 3)).astype(np.int32), 4, axis=0),
        "prompt_length": np.repeat(np.array([3, 2], np.int32), 4),
        "tokens": rng.integers(0, CONFIG.vocab_size, (ROWS, TOKENS)).astype(np.int32),
        "mask": mask,
        "truncated": np.zeros(ROWS, bool),
        "prompt_id": np.repeat(np.arange(2, dtype=np.int32), 4),
        "sampler_logprobs": np.where(mask, -3.0, 0.0).astype(np.float32),
    }
    return Rollout(**arrays)  # type: ignore[arg-type]


ALGORITHM = policies.algorithm("lite_ppo")
ROLLOUT = rollout()
BATCH = policies.batch(ALGORITHM, ROLLOUT, np.array([0, 1, 1, 0, 1, 1, 1, 1], np.float32))[0]  # type: ignore[arg-type]
PLAIN = dataclasses.replace(policies.PLAIN, max_tokens=TOKENS)
LAYOUTS = {
    "padded": Budget(0, share=False),  # one pass, a row a completion
    "packed": Budget(24),
    "passes": Budget(20, devices=2, share=False),  # of two rows each
}


def stepped(budget: Budget, batch: TrainBatch = BATCH, algorithm: Algorithm = ALGORITHM, coefficient=COEFFICIENT):
    """Gradients (what a step of size 1 takes away), metrics, and the number of passes; on the mesh that is set."""
    mesh = jax.sharding.get_mesh()
    passes, _ = pack_batch(batch, ROLLOUT.prompt_id, budget)  # type: ignore[arg-type]
    params = jax.tree.map(jnp.array, PARAMS)
    if not mesh.empty:
        batch, passes = shard_rows(batch, mesh), [shard_rows(part, mesh) for part in passes]
        params = jax.device_put(params, weights.shardings(CONFIG, mesh))
    optimizer = optax.sgd(1.0)
    update = PolicyUpdate(MODEL, algorithm, PLAIN, optimizer, 10_000, balancing_coefficient=coefficient)
    state, metrics = update(init_state(params, optimizer, algorithm), batch, passes)
    return jax.tree.map(lambda old, new: old - np.asarray(new), PARAMS, state.params), metrics, len(passes)


@pytest.fixture(scope="module")
def whole():
    gradients, metrics, passes = stepped(LAYOUTS["padded"])
    assert passes == 1
    return gradients, metrics


def assert_same_step(found, whole):
    (gradients, metrics), (expected, of_whole) = found, whole
    for leaf, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        # float32 sums of 150 numbers, and differences of weights of order 1
        np.testing.assert_allclose(leaf, other, atol=1e-5 * np.abs(other).max() + 5e-7)
    assert metrics.keys() == of_whole.keys()
    for name in ("loss", "balancing_loss", "busiest_expert"):
        assert float(metrics[name].weight) == pytest.approx(1.0), "counted once a step"
        np.testing.assert_allclose(metrics[name].value, of_whole[name].value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("layout", ["packed", "passes"])
def test_packing_and_passes_change_neither_the_loss_nor_a_gradient(layout, whole):
    gradients, metrics, passes = stepped(LAYOUTS[layout])
    assert passes > 1, "of one pass, how often an expert is chosen needs no pass before"
    assert_same_step((gradients, metrics), whole)


def test_a_mesh_changes_neither_the_loss_nor_a_gradient(whole):
    with jax.set_mesh(make_mesh(MeshSettings(2, 2, 2, 1))):
        gradients, metrics, passes = stepped(Budget(10, devices=4, share=False))
    assert passes > 1
    assert_same_step((gradients, metrics), whole)


def one_by_one(routers: list[np.ndarray], counted: np.ndarray) -> float:
    """The loss, by the router's logits [B · S, E] of each layer, counting tokens one at a time."""
    chosen, likely, tokens = np.zeros(EXPERTS), np.zeros(EXPERTS), 0
    for logits in routers:
        for token, of_token in enumerate(np.asarray(logits, np.float64)):
            if counted[token]:
                probabilities = np.exp(of_token) / np.exp(of_token).sum()
                chosen[np.argsort(-of_token)[:CHOSEN]] += 1
                likely += probabilities
                tokens += 1
    return EXPERTS * float(np.sum(chosen / tokens * likely / tokens))


def test_the_loss_counts_once_and_the_policys_part_stays_what_it_was(whole):
    gradients, metrics = whole
    alone, of_policy, _ = stepped(LAYOUTS["padded"], coefficient=0.0)
    assert not {"balancing_loss", "busiest_expert"} & of_policy.keys()
    expected = of_policy["loss"].value + COEFFICIENT * metrics["balancing_loss"].value
    np.testing.assert_allclose(metrics["loss"].value, expected, rtol=1e-5)
    router = gradients["layers"]["mlp"]["router"]["kernel"] - alone["layers"]["mlp"]["router"]["kernel"]
    assert np.abs(router).max() > 1e-3, "a router that learns nothing tests nothing"
    assert 1 < float(metrics["busiest_expert"].value) <= EXPERTS / CHOSEN


if tiny.HAVE_TRANSFORMERS:

    def test_loss_and_gradient_of_the_routers_are_those_of_transformers(tmp_path):
        import torch
        from transformers.models.qwen3_moe import modeling_qwen3_moe

        writer.save(CONFIG, PARAMS, tmp_path, dtype="float32")
        model = tiny.transformers_model(tmp_path)
        rows = np.zeros((ROWS, 3 + TOKENS), np.int32)
        counted = np.zeros(rows.shape, bool)  # columns whose next token is in the mask
        for row, prompt, length, tokens, mask, counts in zip(
            rows, ROLLOUT.prompt_tokens, ROLLOUT.prompt_length, ROLLOUT.tokens, ROLLOUT.mask, counted, strict=True
        ):
            row[:length], row[length : length + TOKENS] = prompt[:length], tokens
            counts[length - 1 : length - 1 + TOKENS] = mask
        out = model(torch.tensor(rows, dtype=torch.long), output_router_logits=True)
        of_transformers: Any = modeling_qwen3_moe.load_balancing_loss_func
        loss = of_transformers(out.router_logits, EXPERTS, CHOSEN, torch.tensor(counted))
        loss.backward()
        nothing = dataclasses.replace(BATCH, weights=jnp.zeros_like(BATCH.weights))  # the policy's loss is 0
        gradients, metrics, _ = stepped(LAYOUTS["packed"], nothing, coefficient=1.0)
        np.testing.assert_allclose(metrics["balancing_loss"].value, loss.item(), rtol=1e-5)
        routers = [logits.detach().numpy() for logits in out.router_logits]
        np.testing.assert_allclose(loss.item(), one_by_one(routers, counted.ravel()), rtol=1e-5)
        for i, found in enumerate(gradients["layers"]["mlp"]["router"]["kernel"]):
            expected = model.model.layers[i].mlp.gate.weight.grad.numpy().T
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_run_of_a_model_with_experts_trains_goes_on_and_is_exported(tmp_path):
    """Two steps in several passes on eight devices; the second once more, from the first's checkpoint."""
    experts = {"experts": 4, "experts_per_token": 2, "renormalized_router": True, "mlp_width": 16}
    model, run_dir = (
        save_character_model(tmp_path / "model", family="qwen3_moe", tied=False, **experts),
        tmp_path / "run",
    )
    keys = tiny_runs.KEYS | {"model.source": model, "run_dir": run_dir, "checkpoint.every": 1}
    keys |= {"training.balancing_coefficient": 0.1, "training.tokens_per_pass": 64, "training.mini_batches": 1}
    keys |= {"mesh.fsdp": 4, "mesh.tensor": 2, "sampling.max_tokens": 8}
    loaded = config.load(policies.CONFIGS / "lite_ppo.py", [f"{key}={value}" for key, value in keys.items()])
    settings = config.parse(loaded)

    def weights_of(folder):
        return {name: np.asarray(x) for name, x in load_file(convert(run_dir, folder) / "model.safetensors").items()}

    train(settings, config=loaded.to_dict())
    metrics, trained = (run_dir / "metrics.jsonl").read_bytes(), weights_of(tmp_path / "once")
    for row in map(json.loads, metrics.splitlines()):
        assert 1.9 < row["balancing_loss"] < 4 and 1 <= row["busiest_expert"] <= 2, "k = 2 if balanced; at most E"
        assert row["saved/update/rows"] == 0, "rows without advantage have experts to balance"
    before = load_file(model / "model.safetensors")
    routers = [name for name in before if name.endswith("mlp.gate.weight")]
    assert routers and all((trained[name] != before[name]).any() for name in routers)
    shutil.rmtree(run_dir / "checkpoints" / "2")
    train(settings, config=loaded.to_dict())
    assert (run_dir / "metrics.jsonl").read_bytes() == metrics
    for name, tensor in weights_of(tmp_path / "again").items():
        np.testing.assert_array_equal(tensor, trained[name], err_msg=name)
    if tiny.HAVE_TRANSFORMERS:
        ids, lengths = np.arange(12)[None], np.array([12])
        found = models.load(str(tmp_path / "once")).logits(jnp.asarray(ids), jnp.asarray(lengths))
        expected = tiny.forward(tiny.transformers_model(tmp_path / "once"), ids, lengths)[0].detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_run_that_would_balance_a_dense_model_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    model = save_character_model(tmp_path / "model")
    keys = tiny_runs.KEYS | {"model.source": model, "run_dir": tmp_path / "run", "training.balancing_coefficient": 0.1}
    loaded = config.load(policies.CONFIGS / "lite_ppo.py", [f"{key}={value}" for key, value in keys.items()])
    monkeypatch.setattr(hub, "load", None)
    with pytest.raises(ValueError, match=r"training\.balancing_coefficient = 0\.1 .* qwen3, which has no experts"):
        train(config.parse(loaded), config=loaded.to_dict())
    assert not (tmp_path / "run").exists()
