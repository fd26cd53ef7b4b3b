"""The compiler for TPUs, where the libtpu wheel is installed: a small run on v5e:4x4."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from jaxrl_llm.planning import compiler
from tests.models.tiny import CASES
from tests.policies import CONFIGS


@pytest.mark.skipif(not compiler.installed(), reason='needs libtpu: pip install "jaxrl-llm[tpu-plan]"')
def test_a_small_run_is_compiled_for_sixteen_chips_that_are_not_there(tmp_path):
    """In a process of its own: libtpu stays loaded, and writes to stderr what is no matter here."""
    model, file = tmp_path / "config.json", tmp_path / "plan.json"
    model.write_text(json.dumps(CASES["qwen3"]))
    command = [sys.executable, "-m", "jaxrl_llm.cli", "plan", "--config", str(CONFIGS / "lite_ppo.py")]
    command += ["--topology", "v5e:4x4", "--quick", "--model-config", str(model), "--to", str(file)]
    command += ["--config.data.max_prompt_tokens=16", "--config.sampling.max_tokens=32"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CONFIGS.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saved = json.loads(file.read_text())
    assert saved["fits"] and saved["mesh"] == {"data": 1, "fsdp": 16, "tensor": 1}
    for program in saved["programs"]:
        assert program["method"] == "compiled" and program["memory"]["activations"] > 0
    update = saved["programs"][2]
    assert {"all-gather", "all-reduce"} & {one["kind"] for one in update["collectives"]}
    assert all(one["axes"] == "fsdp" for one in update["collectives"] if one["bytes"] > 1000)
