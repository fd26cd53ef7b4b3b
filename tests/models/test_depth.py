"""Deep decoders scan over their layers: the programs of training are as long for 36 of them as for 9."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from jaxrl_llm import config
from jaxrl_llm.models import decoder
from jaxrl_llm.planning.programs import Abstract, trace
from jaxrl_llm.sharding import MeshSettings, make_mesh
from tests.models.test_windows import CONFIG as OF_SEVERAL_KINDS
from tests.policies import CONFIG, CONFIGS

FEW, MANY = 9, 36
SIZES = ["data.max_prompt_tokens=6", "sampling.max_tokens=8", "data.prompts_per_step=2", "data.samples_per_prompt=2"]
ARCHITECTURES = {"layers that are alike": CONFIG, "layers of several kinds": OF_SEVERAL_KINDS}


def instructions(program, architecture, layers):
    """Of a program of a run, as it goes to the compiler."""
    times, kinds = layers // 3, {}
    if architecture.windowed:
        kinds = {"windowed": architecture.windowed * times, "unrotated": architecture.unrotated * times}
    settings = config.parse(config.load(CONFIGS / "grpo.py", SIZES))
    mesh = make_mesh(MeshSettings(1, 1, 1, 1), jax.devices()[:1])
    abstract = Abstract(settings, dataclasses.replace(architecture, layers=layers, **kinds), mesh)
    with jax.set_mesh(mesh):
        return trace(program, abstract).lower().as_text().count(" = ")


@pytest.mark.parametrize(
    ("program", "kinds"), [("score", "layers that are alike"), ("update", "layers of several kinds")]
)
def test_a_program_of_training_does_not_grow_with_the_depth_of_a_scanned_decoder(program, kinds):
    """Within the 1.2 that compile time may grow by; unrolled, these programs are 1.6 and 2.6 times as long."""
    assert decoder.UNROLLED_LAYERS < FEW
    few, many = (instructions(program, ARCHITECTURES[kinds], layers) for layers in (FEW, MANY))
    assert many <= 1.2 * few
