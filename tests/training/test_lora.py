"""Training an adapter: a step against a slow oracle and on eight devices, its memory, checkpoints and exports."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrl_llm import cli, config
from jaxrl_llm.algorithm import initial_controls, policy_loss
from jaxrl_llm.models import hub, lora
from jaxrl_llm.models import prepared as prepared_layout
from jaxrl_llm.models import weights as weight_tables
from jaxrl_llm.models.decoder import functions
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.sharding import MeshSettings, make_mesh, row_devices, shard_rows
from jaxrl_llm.training.checkpoint import FOLDER, Checkpoints
from jaxrl_llm.training.export import convert, last_policy
from jaxrl_llm.training.layouts import Budget
from jaxrl_llm.training.loop import train
from jaxrl_llm.training.optimizer import OptimizerSettings, make_optimizer
from jaxrl_llm.training.packing import pack_batch
from jaxrl_llm.training.score import Scorer, score
from jaxrl_llm.training.setup import first_policy, reference_policy
from jaxrl_llm.training.step import init_state
from jaxrl_llm.training.update import PolicyUpdate
from jaxrl_llm.types import Model, Rollout, TrainState, join_policy, split_policy
from tests import policies
from tests.policies import CONFIG, CONFIGS, IDS, LENGTHS, PLAIN, PROMPTS, SAMPLES
from tests.training.test_run import CHEAP_FLAGS, LIMIT_SECONDS

LORA = LoraSettings(rank=2, alpha=6.0, targets=lora.ALL_LINEAR, rank_stabilized=False)
MODEL = functions(CONFIG, lora=LORA)
ALGORITHM = policies.algorithm("grpo")
ROWS = len(PROMPTS) * SAMPLES
REWARDS = np.random.default_rng(5).integers(0, 2, ROWS).astype(np.float32)
SHORT = dataclasses.replace(PLAIN, max_tokens=12)
# A step is nearly the gradient: with a small epsilon Adam's first step is the gradient's sign, and hides its size.
ADAMW = OptimizerSettings(
    learning_rate=1.0,
    warmup_steps=0,
    schedule="constant",
    beta1=0.9,
    beta2=0.99,
    epsilon=0.5,
    weight_decay=0.1,
    clip_norm=None,
    state_dtype="float32",
    offload=False,
)
OPTIMIZER = make_optimizer(ADAMW, 2, seed=0)


def adapter() -> dict[str, Any]:
    """With both factors away from zero: at its start, B = 0 and A has no gradient."""
    first = lora.init(CONFIG, LORA, jax.random.key(1))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + jnp.asarray(0.03 * rng.normal(size=x.shape), jnp.float32), first)


SCORER = Scorer(MODEL, SHORT, 10_000)
UPDATE = PolicyUpdate(MODEL, ALGORITHM, SHORT, OPTIMIZER, 10_000)


@functools.cache
def batch_and_passes():
    """Random texts, with the log-probabilities of the base, and a reference that is a little off."""
    rng = np.random.default_rng(3)
    length = rng.integers(1, SHORT.max_tokens + 1, (ROWS, 1))
    taken = Rollout(
        prompt_tokens=jnp.asarray(np.repeat(PROMPTS, SAMPLES, axis=0)),
        prompt_length=jnp.asarray(np.repeat(LENGTHS, SAMPLES)),
        tokens=jnp.asarray(rng.integers(0, CONFIG.vocab_size, (ROWS, SHORT.max_tokens)), jnp.int32),
        mask=jnp.asarray(np.arange(SHORT.max_tokens) < length),
        sampler_logprobs=jnp.zeros((ROWS, SHORT.max_tokens)),
        truncated=jnp.zeros(ROWS, bool),
        prompt_id=jnp.asarray(np.repeat(IDS, SAMPLES)),
    )
    passes, _ = pack_batch(taken, np.asarray(taken.prompt_id), Budget(0, share=False))
    logprobs = SCORER(policies.params(), taken, passes).logprobs
    taken = dataclasses.replace(taken, sampler_logprobs=logprobs)
    reference = jnp.where(taken.mask, logprobs - 0.1, 0)
    return policies.batch(ALGORITHM, taken, REWARDS, ref_logprobs=reference)[0], passes


def loss_of(model: Model, policy: Any) -> Any:
    batch, _ = batch_and_passes()
    scores = score(model, policy, batch, SHORT, chunk=10_000)
    return policy_loss(ALGORITHM, scores.logprobs, scores.entropy, batch, controls=initial_controls(ALGORITHM))[0]


@functools.cache
def stepped() -> tuple[Any, TrainState, float]:
    """The base, the state after a step, and the loss."""
    base = policies.params()
    state, metrics = UPDATE(init_state(join_policy(adapter(), base), OPTIMIZER, ALGORITHM), *batch_and_passes())
    return base, state, float(metrics["loss"].value)


def merged(base: Any, factors: Any) -> Any:
    """W + alpha / rank · A B, one matrix at a time."""
    if "a" in factors:
        product = jnp.stack([jnp.tensordot(a, b, 1) for a, b in zip(factors["a"], factors["b"], strict=True)])
        return base | {"kernel": base["kernel"] + 3.0 * product}
    return base | {name: merged(base[name], below) for name, below in factors.items()}


def test_a_step_is_that_of_the_merged_weights_and_leaves_the_base_alone():
    """The gradient by the adapter, through plain weights, and AdamW's first step by hand."""
    base, state, found = stepped()

    def plain_loss(factors: Any) -> Any:
        return loss_of(policies.MODEL, base | {"layers": merged(base["layers"], factors["layers"])})

    loss, gradients = jax.jit(jax.value_and_grad(plain_loss))(adapter())
    assert found == pytest.approx(float(loss), rel=1e-5)
    paths = jax.tree_util.tree_leaves_with_path(state.params)
    for (path, leaf), before, g in zip(paths, *map(jax.tree.leaves, (adapter(), gradients)), strict=True):
        # first moment / (1 - beta1) and second / (1 - beta2) are g and g²; float32 sums in another order: 1e-5 of g
        wanted = before - (g / (jnp.abs(g) + ADAMW.epsilon) + ADAMW.weight_decay * before)
        tolerance = 1e-5 * float(jnp.abs(g).max()) / ADAMW.epsilon + 1e-6
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))
        assert float(jnp.abs(g).max()) > 1e-4, "an adapter without a gradient tests nothing"
    for leaf, kept in zip(*map(jax.tree.leaves, (base, state.frozen)), strict=True):
        assert leaf is kept and not leaf.is_deleted()


def test_a_base_in_bfloat16_has_the_loss_of_its_rounded_weights_in_float32():
    base, _, loss = stepped()
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    of_policy = jax.jit(functools.partial(loss_of, MODEL))
    found, wanted = (float(of_policy(join_policy(adapter(), tree))) for tree in (rounded, widened))
    assert found != loss and found == pytest.approx(wanted, rel=1e-5)  # the same sums, perhaps fused otherwise


def settings_of(*changes: str) -> Any:
    keys = ["lora.rank=2", "lora.alpha=6", "lora.targets=all-linear", "lora.rank_stabilized=False", *changes]
    return config.parse(config.load(CONFIGS / "grpo.py", keys))


def live_bytes() -> int:
    gc.collect()
    return sum(x.nbytes for x in jax.live_arrays())


def size(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_the_reference_is_the_base_itself_and_at_the_start_the_policy():
    session: Any = SimpleNamespace(params=policies.params(), config=CONFIG, mesh=None)
    batch, passes = batch_and_passes()
    settings, before = settings_of(), live_bytes()
    reference = reference_policy(settings, session)
    assert reference is not None and reference is session.params
    state = init_state(first_policy(settings, session), OPTIMIZER, ALGORITHM)
    of_policy, of_reference = (SCORER(params, batch, passes).logprobs for params in (state.policy, reference))
    np.testing.assert_array_equal(of_policy, of_reference)  # the KL is 0, not nearly 0
    for _ in range(2):
        state, metrics = UPDATE(state, batch, passes)
    grown = live_bytes() - before
    trained = 3 * size(state.params)  # with Adam's moments
    assert trained <= grown <= trained + size((of_policy, of_reference, metrics)) + 1000 < size(session.params)


def test_eight_devices_merge_and_train_as_one_does():
    base, wanted, loss = stepped()
    mesh, (batch, _) = make_mesh(MeshSettings(2, 2, 2, 1)), batch_and_passes()
    prepared = jax.jit(MODEL.prepare)(join_policy(adapter(), base))
    with jax.set_mesh(mesh):
        split = jax.device_put(base, weight_tables.shardings(CONFIG, mesh))
        policy = join_policy(jax.device_put(adapter(), lora.shardings(CONFIG, LORA, mesh)), split)
        layout = jax.jit(MODEL.prepare, out_shardings=prepared_layout.shardings(CONFIG, mesh))(policy)
        passes, _ = pack_batch(batch, np.repeat(IDS, SAMPLES), Budget(0, row_devices(mesh), share=False))
        of_step = shard_rows(jax.device_get(batch), mesh), [shard_rows(part, mesh) for part in passes]
        state, metrics = UPDATE(init_state(policy, OPTIMIZER, ALGORITHM), *of_step)
    assert float(metrics["loss"].value) == pytest.approx(loss, rel=1e-5)
    assert not any(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    for got, other in ((layout, prepared), (state.params, wanted.params)):
        for leaf, of_one in zip(*map(jax.tree.leaves, (got, other)), strict=True):
            np.testing.assert_allclose(leaf, of_one, rtol=0, atol=1e-5)  # sums of float32, of numbers of order 1


def stored_bytes(folder: Path) -> int:
    """Of all arrays in the last checkpoint of a run, as orbax lists them."""
    items = {name: ocp.StandardCheckpointHandler() for name in ("params", "state")}
    with ocp.CheckpointManager(folder / FOLDER, item_names=tuple(items), item_handlers=items) as manager:
        listed = manager.item_metadata(manager.latest_step())
    arrays = jax.tree.leaves([listed[name].tree for name in items])
    return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in arrays)


def test_a_checkpoint_holds_the_adapter_and_its_moments_and_comes_back_beside_the_base_that_is_there(tmp_path):
    base = policies.params()
    states = {"full": init_state(base, OPTIMIZER, ALGORITHM)}
    states["lora"] = init_state(join_policy(adapter(), base), OPTIMIZER, ALGORITHM)
    for name, state in states.items():
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(1, state, {})
        assert stored_bytes(tmp_path / name) == size(dataclasses.replace(state, frozen={}))
    assert size(states["lora"].params) < size(base) / 10
    state = states["lora"]
    other = dataclasses.replace(state, params=jax.tree.map(jnp.zeros_like, state.params))
    with Checkpoints(tmp_path / "lora", read_only=True) as checkpoints:
        restored, _ = checkpoints.restore(1, other)
    assert restored.frozen is other.frozen
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(other.frozen))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((other.params, other.opt_state)))
    for leaf, kept in zip(*map(jax.tree.leaves, (restored.params, state.params)), strict=True):
        np.testing.assert_array_equal(leaf, kept)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A run of two steps with a checkpoint after each, and one that goes on from the first of them; one process."""
    folder = tmp_path_factory.mktemp("runs")
    keys = {"lora.rank": 2, "lora.alpha": 4.0, "lora.targets": r"(self_attn|mlp)\.(q|v|down)_proj"}
    keys |= {"lora.rank_stabilized": True, "model.param_dtype": "bfloat16", "checkpoint.every": 1}
    of_run = {"recipe": "grpo", "keys": keys}
    lines = [of_run | {"name": "whole"}, of_run | {"name": "resumed", "of": "whole"}]
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.tiny_runs", str(folder)],
        input="\n".join(map(json.dumps, lines)),
        env=os.environ | {"XLA_FLAGS": CHEAP_FLAGS, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        cwd=CONFIGS.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "going on after step 1 of 2" in done.stdout
    return folder


def test_a_run_that_goes_on_from_its_adapter_ends_with_the_same_bytes(runs):
    whole, resumed = (last_policy(runs / name).policy for name in ("whole", "resumed"))
    assert (runs / "resumed" / "metrics.jsonl").read_bytes() == (runs / "whole" / "metrics.jsonl").read_bytes()
    trained, _ = split_policy(whole.params)
    for leaf, again in zip(*map(jax.tree.leaves, (whole.params, resumed.params)), strict=True):
        np.testing.assert_array_equal(leaf, again)
    assert all(np.any(leaf["b"] != 0) for leaf in trained["layers"]["attention"].values())
    rows = [json.loads(line) for line in (runs / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["gradient_norm"] > 0 and rows[-1]["kl_ref"] > 0


def test_an_export_is_the_base_with_the_adapter_merged_or_the_adapter_alone(runs, tmp_path):
    policy = last_policy(runs / "whole").policy
    whole = hub.load(str(convert(runs / "whole", tmp_path / "model")))
    tokens, lengths = jnp.arange(12).reshape(2, 6) + 5, jnp.array([6, 6])
    np.testing.assert_allclose(whole.logits(tokens, lengths), policy.logits(tokens, lengths), atol=1e-5)
    folder = convert(runs / "whole", tmp_path / "adapter", adapter=True)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(runs / "model")


def test_an_export_takes_the_checkpoint_that_is_there_where_the_last_goes_while_it_is_read(
    runs, tmp_path, monkeypatch, capsys
):
    shutil.copytree(runs / "whole", tmp_path / "run")
    restore = Checkpoints._restore

    def deleted_once(checkpoints: Checkpoints, step: int, **items: Any) -> Any:
        if step == 2:
            shutil.rmtree(tmp_path / "run" / FOLDER / "2")
        return restore(checkpoints, step, **items)

    monkeypatch.setattr(Checkpoints, "_restore", deleted_once)
    assert cli.main(["convert", str(tmp_path / "run"), "--to", str(tmp_path / "first"), "--adapter"]) == 0
    assert "went while it was read: checkpoint 1 is read instead" in capsys.readouterr().err
    monkeypatch.undo()
    runs_of = {"again": tmp_path / "run", "last": runs / "whole"}
    others = [convert(run, tmp_path / name, adapter=True) for name, run in runs_of.items()]
    first, again, last = ((x / "adapter_model.safetensors").read_bytes() for x in (tmp_path / "first", *others))
    assert first == again != last


def test_another_base_is_refused_by_a_run_that_goes_on_and_by_an_export(runs, tmp_path):
    shutil.copytree(runs / "whole", tmp_path / "run")
    shutil.copytree(runs / "model", tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_text(file.read_text() + "\n")
    values = json.loads((tmp_path / "run" / "config.json").read_text())
    values["model"]["source"], values["run_dir"] = str(tmp_path / "model"), str(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(values))
    for attempt in (
        lambda: convert(tmp_path / "run", tmp_path / "to"),
        lambda: train(config.parse(values), config=values),
    ):
        with pytest.raises(ValueError, match=r"has fingerprint [0-9a-f]+, but the run began from [0-9a-f]+"):
            attempt()
