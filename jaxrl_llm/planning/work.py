"""What one rollout step computes, as sizes: all that the formulas read.

Letters are those of :mod:`jaxrl_llm.types`. Every row counts at its full width, S = Q + T.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

from jaxrl_llm.algorithm import needs_choice, needs_exact_kl, needs_reference, needs_sum_pi_squared
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.sampling.generate import cache_widths
from jaxrl_llm.sharding import MESH_AXES
from jaxrl_llm.training.settings import Settings

FLOAT = 4  # bytes of parameters, gradients and moments, which are float32


@dataclasses.dataclass(frozen=True)
class Work:
    """What one rollout step computes, and over which mesh.

    Attributes:
      config: the architecture.
      number: bytes of the compute dtype.
      remat: see ``decoder.REMAT_POLICIES``.
      mesh: axis -> size.
      prompts, samples, prompt_width, width: P, G, Q, T.
      scores: runs of the scoring program before the updates of a step.
      score_passes: forward passes of one run; 2 where it compares policy and reference over the vocabulary.
      updates: optimizer steps.
      rows_of_update: of one optimizer step.
      rows_of_pass: that one forward and backward pass takes.
      score_chunk: tokens whose logits are held at a time.
      reference: whether a reference policy is held.
      choice: whether tokens are chosen in a forward pass of its own.
      exact_kl: whether the reference is scored inside the update.
    """

    config: ModelConfig
    number: int
    remat: str
    mesh: dict[str, int]
    prompts: int
    samples: int
    prompt_width: int
    width: int
    scores: int
    score_passes: int
    updates: int
    rows_of_update: int
    rows_of_pass: int
    score_chunk: int
    reference: bool
    choice: bool
    exact_kl: bool

    @property
    def rows(self) -> int:
        """B, of a rollout."""
        return self.prompts * self.samples

    @property
    def sequence(self) -> int:
        """S."""
        return self.prompt_width + self.width

    @property
    def row_ways(self) -> int:
        return self.mesh["data"] * self.mesh["fsdp"]

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def columns(self) -> int:
        """Columns of one chunk of logits, see :func:`jaxrl_llm.training.score.score`."""
        return min(self.width, max(1, self.score_chunk // self.rows_of_pass))

    @property
    def chunks(self) -> int:
        return -(-self.width // self.columns)

    @property
    def phases(self) -> list[tuple[int, int]]:
        """(decode steps, cache width) of each loop of the sampler, every row sampling all T tokens."""
        widths = cache_widths(self.width)
        ends = [min(width, self.width - 1) for width in widths]
        return [(end - start, width) for start, end, width in zip([0, *ends], ends, widths, strict=False)]


def work_of(settings: Settings, config: ModelConfig, mesh: tuple[int, int, int]) -> Work:
    """The work of a run; ``mesh`` as `sharding.mesh_shape` gives it."""
    training, algorithm, data = settings.training, settings.algorithm, settings.data
    rows = data.prompts_per_step * data.samples_per_prompt
    rows_of_update = rows // training.mini_batches
    exact = needs_exact_kl(algorithm)
    of_policy = algorithm.old_logprobs == "trainer" or needs_sum_pi_squared(algorithm)
    exact_in_reward = exact and algorithm.kl_placement == "reward"
    rows_of_pass = training.micro_batch or rows_of_update
    return Work(
        config=config,
        number=2 if settings.model.dtype == "bfloat16" else 4,
        remat=settings.model.remat,
        mesh=dict(zip(MESH_AXES, mesh, strict=True)),
        prompts=data.prompts_per_step,
        samples=data.samples_per_prompt,
        prompt_width=data.max_prompt_tokens,
        width=settings.sampling.max_tokens,
        scores=(of_policy or exact_in_reward) + needs_reference(algorithm),
        score_passes=2 if exact_in_reward else 1,
        updates=training.epochs * training.mini_batches,
        rows_of_update=rows_of_update,
        rows_of_pass=rows_of_pass,
        score_chunk=training.score_chunk,
        reference=needs_reference(algorithm),
        choice=needs_choice(algorithm) and rows_of_pass < rows_of_update,
        exact_kl=exact and algorithm.kl_placement == "loss",
    )


def meshes(devices: int) -> list[tuple[int, int, int]]:
    """(data, fsdp, tensor) with data = 1: every way to split a slice in powers of two."""
    tensors = itertools.takewhile(lambda t: t <= devices, (2**power for power in range(16)))
    return [(1, devices // tensor, tensor) for tensor in tensors if devices % tensor == 0]
