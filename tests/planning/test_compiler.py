"""The compiler for TPUs, where the libtpu wheel is installed: a small run on v5e:4x4."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from jaxrl_llm.models.decoder import REMAT_POLICIES
from jaxrl_llm.planning import compiler
from jaxrl_llm.planning.search import MOST
from tests.models.tiny import CASES
from tests.policies import CONFIGS

LAYERS, DEVICES = 9, 16  # so many layers are scanned
HEADS = 3  # that no axis but fsdp can split: a search has one mesh
# D, F, N, K and H: large enough that nothing is gathered in another way because it is small.
ARCHITECTURE = CASES["qwen3"] | {
    "num_hidden_layers": LAYERS,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": 64,
}
MATRICES = 4 * 256 * HEADS * 64 + 3 * 256 * 512  # weights of a layer in query, key, value, output, gate, up and down


@pytest.mark.skipif(not compiler.installed(), reason='needs libtpu: pip install "jaxrl-llm[tpu-plan]"')
def test_a_search_compiles_a_small_run_for_sixteen_chips_with_the_collectives_of_fsdp_and_no_more(tmp_path):
    """In a process of its own: libtpu stays loaded, and writes to stderr what is no matter here."""
    model, file = tmp_path / "config.json", tmp_path / "plan.json"
    model.write_text(json.dumps(ARCHITECTURE))
    command = [sys.executable, "-m", "jaxrl_llm.cli", "plan", "--config", str(CONFIGS / "lite_ppo.py"), "--search"]
    command += ["--topology", "v5e:4x4", "--quick", "--model-config", str(model), "--to", str(file)]
    command += ["--config.data.max_prompt_tokens=16", "--config.sampling.max_tokens=16"]
    command += ["--config.model.dtype=bfloat16", "--config.training.score_chunk=64"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CONFIGS.parent), os.environ.get("PYTHONPATH", "")])}
    environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saved = json.loads(file.read_text())
    assert {plan["remat"] for plan in saved} == set(REMAT_POLICIES) and len(saved) == len(REMAT_POLICIES)
    compiled = [plan for plan in saved if plan["method"] == "compiled"]
    assert len(compiled) <= MOST and {"none", "dots"} <= {plan["remat"] for plan in compiled}  # equal by formula
    for plan in compiled:
        assert plan["formula"]["method"] == "formula" and plan["formula"]["remat"] == plan["remat"]
        check_collectives(plan)
        # Remat policies differ in the update alone: the other programs are compiled once.
        assert plan["programs"][0] == compiled[0]["programs"][0]
    assert done.stderr.count("compiling the rollout") == 1
    assert done.stderr.count("compiling the update") == len(compiled)
    assert f"{len(compiled)} of {len(saved)} compiled" in done.stdout


def check_collectives(plan: dict) -> None:
    assert plan["fits"] and plan["mesh"] == {"data": 1, "fsdp": DEVICES, "tensor": 1, "sequence": 1}
    for program in plan["programs"]:
        assert program["method"] == "compiled" and program["memory"]["activations"] > 0
    _, score, update, apply = plan["programs"]
    received = 2 * MATRICES * (DEVICES - 1) / DEVICES  # by a device that gathers a layer's matrices in bfloat16
    for program in (score, update):
        (gathers,) = (one for one in per_layer(program) if not one["backward"])
        assert (gathers["kind"], gathers["sites"], gathers["bytes"]) == ("all-gather", 7, LAYERS * received)
    backward = [one for one in per_layer(update) if one["backward"]]
    if plan["remat"] != "none":
        (gathers,) = (one for one in backward if one["kind"] == "all-gather")
        assert (gathers["sites"], gathers["bytes"]) == (7, LAYERS * received)
    # Sums into shards take as much in a ring; XLA writes some as a sum of which a part is kept, at twice the bytes.
    sums = sum(one["bytes"] for one in backward if one["kind"] != "all-gather")
    assert LAYERS * received <= sums <= 2.1 * LAYERS * received
    # No weight is gathered in another loop, in that over chunks of logits least of all; only fsdp needs the network.
    others = [one for one in update["collectives"] if one["trips"] not in (1, LAYERS) and one["kind"] == "all-gather"]
    assert not others
    assert all(one["axes"] == "fsdp" for one in update["collectives"] if one["bytes"] > 1000)
    assert sum(one["bytes"] for one in apply["collectives"]) < 1000


def per_layer(program: dict) -> list[dict]:
    return [one for one in program["collectives"] if one["trips"] == LAYERS]


FILTERED = """
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P
    from jaxrl_llm.planning import compiler, hardware
    from jaxrl_llm.planning.hlo import census
    from jaxrl_llm.sampling.support import Sampling, support_logits
    from jaxrl_llm.sharding import MeshSettings

    mesh = compiler.topology_mesh(hardware.parse_topology("v5e:2x2"), MeshSettings(1, 2, 2, 1))
    sampling = Sampling(max_tokens=1, temperature=1.0, top_k=8, top_p=0.9, min_p=0.0, stop=())
    with jax.set_mesh(mesh):
        logits = jax.ShapeDtypeStruct((64, 2048), jnp.float32, sharding=NamedSharding(mesh, P("fsdp", "tensor")))
        program = jax.jit(lambda x: jax.nn.log_softmax(support_logits(x, sampling))).lower(logits).compile()
    print(sum(one.bytes for one in census(program.as_text(), dict(mesh.shape))))
"""


@pytest.mark.skipif(not compiler.installed(), reason='needs libtpu: pip install "jaxrl-llm[tpu-plan]"')
def test_chips_that_share_the_vocabulary_exchange_the_likeliest_logits_and_not_all():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FILTERED)], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    received, rows = float(done.stdout), 32  # of a device
    assert 0 < received < rows * 4 * 1024 / 20, "a row's logits on the other device are 1,024"
