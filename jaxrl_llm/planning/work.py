"""What one rollout step computes, as sizes: all that the formulas read.

Letters are those of :mod:`jaxrl_llm.types`. Every completion counts at its full width, T, and every row is computed:
the worst case, which the memory must hold.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_llm.algorithm import needs_choice, needs_exact_kl, needs_reference, needs_sum_pi_squared
from jaxrl_llm.models.attend import implementation
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.models.prepared import kept_apart
from jaxrl_llm.sampling.generate import cache_widths
from jaxrl_llm.sampling.support import Sampling
from jaxrl_llm.sharding import MESH_AXES, ROW_AXES, sample_axes
from jaxrl_llm.training import balancing
from jaxrl_llm.training.chunks import Chunks, chunks_of, may_cut_entries
from jaxrl_llm.training.layouts import Budget, Sequences
from jaxrl_llm.training.packing import Packing, pack
from jaxrl_llm.training.settings import Settings

FLOAT = 4  # bytes of statistics and logits, which are float32


@dataclasses.dataclass(frozen=True)
class Passes:
    """The forward passes over rows of a batch, as the packer cuts them; all have one shape.

    Attributes:
      packing: of one pass, in abstract shapes.
      count: passes.
      sequences: completions in all passes together.
      groups: prompts that they belong to.
    """

    packing: Packing
    count: int
    sequences: int
    groups: int

    @property
    def rows(self) -> int:
        """Packed rows of a pass, on the whole mesh."""
        return self.packing.source.shape[0]

    @property
    def width(self) -> int:
        """Columns of a packed row."""
        return self.packing.source.shape[1]

    @property
    def predicted(self) -> int:
        """Columns of a packed row whose logits are wanted."""
        return self.packing.column.shape[1]

    @property
    def lane(self) -> int:
        """Columns of a lane."""
        return (self.width - self.packing.prompt) // self.packing.lanes


@dataclasses.dataclass(frozen=True)
class Work:
    """What one rollout step computes, and over which mesh.

    Attributes:
      config: the architecture.
      number: bytes of the compute dtype.
      parameter: bytes of a weight of the model, and of its gradient.
      lora: of the adapter that is trained in place of the weights, or None.
      apart: whether sampling computes an adapter beside the weights.
      moment: bytes of a number of Adam's moments.
      offload: whether the moments lie on the hosts between updates.
      remat: see ``decoder.REMAT_POLICIES``.
      attention: see ``attend.NEEDS``; never "auto".
      mesh: axis -> size.
      prompts, samples, prompt_width, width: P, G, Q, T.
      scores: how often all rows are scored before the updates of a step.
      score_passes: forward passes of one run of the scoring program; 2 where it compares policy and reference over the
        vocabulary.
      score: the passes that score all rows.
      updates: optimizer steps.
      update: the passes of one optimizer step.
      sampling: the distribution that is scored.
      concentration: whether Σ_v π(v)² is wanted of the policy before the updates.
      score_chunk: tokens on one device whose logits are held at a time.
      reference: whether a reference policy is held.
      offload_reference: whether it lies on the hosts while nothing reads it.
      before: forward passes over all rows of an optimizer step, before those of its gradients: to choose tokens, and to
        count how often experts are chosen.
      exact_kl: whether the reference is scored inside the update.
    """

    config: ModelConfig
    number: int
    parameter: int
    lora: LoraSettings | None
    apart: bool
    moment: int
    offload: bool
    remat: str
    attention: str
    mesh: dict[str, int]
    prompts: int
    samples: int
    prompt_width: int
    width: int
    scores: int
    score_passes: int
    score: Passes
    updates: int
    update: Passes
    sampling: Sampling
    concentration: bool
    score_chunk: int
    reference: bool
    offload_reference: bool
    before: int
    exact_kl: bool

    @property
    def rows(self) -> int:
        """B, of a rollout."""
        return self.prompts * self.samples

    @property
    def row_ways(self) -> int:
        """Devices that rows are split over."""
        return math.prod(self.mesh[axis] for axis in ROW_AXES)

    @property
    def sampled(self) -> tuple[int, int]:
        """Prompts and rows of a rollout on one device: where it has a part of a group, the prompt is there whole."""
        ways = math.prod(self.mesh[axis] for axis in sample_axes(self.rows, self.samples, self.mesh))
        return -(-self.prompts // ways), self.rows // ways

    @property
    def phases(self) -> list[tuple[int, int]]:
        """(decode steps, cache width) of each loop of the sampler, every row sampling all T tokens."""
        widths = cache_widths(self.width)
        ends = [min(width, self.width - 1) for width in widths]
        return [(end - start, width) for start, end, width in zip([0, *ends], ends, widths, strict=False)]

    def passes(self, program: str) -> Passes:
        """Of "score" or "update"."""
        return self.score if program == "score" else self.update

    def chunks(self, program: str) -> Chunks:
        """How the logits of a pass are cut."""
        of = self.passes(program)
        more = self.exact_kl if program == "update" else self.concentration or self.score_passes > 1
        by_entry = may_cut_entries(self.sampling, more=more, head_ways=self.mesh["tensor"])
        sizes = of.rows // self.row_ways, of.predicted, self.config.vocab_size, self.score_chunk
        return chunks_of(*sizes, by_entry=by_entry)

    def runs(self, program: str) -> int:
        """Of a program in a rollout step."""
        return {
            "rollout": 1,
            "score": self.scores * self.score.count + self.before * self.updates * self.update.count,
            "update": self.updates * self.update.count,
            "apply": self.updates,
        }[program]


@functools.cache
def _passes(rows: int, samples: int, prompt_width: int, width: int, budget: Budget) -> Passes:
    prompt_id = np.arange(rows) // samples
    full = np.full(rows, prompt_width), np.full(rows, width), prompt_id, np.ones(rows, bool)
    parts, _ = pack(Sequences(*full, prompt_width=prompt_width, width=width), budget)
    abstract: Any = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parts[0])
    return Passes(abstract, len(parts), rows, -(-rows // samples))


def work_of(settings: Settings, config: ModelConfig, mesh: tuple[int, ...], *, platform: str) -> Work:
    """The work of a run.

    Args:
      mesh: as `sharding.mesh_shape` gives it.
      platform: of its devices, as JAX names it.

    Raises:
      ValueError: see :func:`~jaxrl_llm.models.attend.implementation` and :func:`~jaxrl_llm.training.balancing.check`.
    """
    balancing.check(settings.training.balancing_coefficient, config)
    training, algorithm, data = settings.training, settings.algorithm, settings.data
    sizes: dict[str, int] = dict(zip(MESH_AXES, mesh, strict=True))
    rows = data.prompts_per_step * data.samples_per_prompt
    exact = needs_exact_kl(algorithm)
    concentration = needs_sum_pi_squared(algorithm)
    of_policy = algorithm.old_logprobs == "trainer" or concentration
    exact_in_reward = exact and algorithm.kl_placement == "reward"
    ways = math.prod(sizes[axis] for axis in ROW_AXES)
    attention = implementation(
        settings.model.attention,
        jnp.dtype(settings.model.dtype),
        config.head_size,
        capped=config.attention_cap is not None,
        platform=platform,
    )
    budget = Budget(  # as `training.learn.budget_of` makes it, for devices that are not there
        training.tokens_per_pass, ways, sizes["sequence"], share=training.pack, trees=attention != "splash"
    )
    widths = data.samples_per_prompt, data.max_prompt_tokens, settings.sampling.max_tokens
    update = _passes(rows // training.mini_batches, *widths, budget)
    return Work(
        config=config,
        number=2 if settings.model.dtype == "bfloat16" else 4,
        parameter=2 if settings.model.param_dtype == "bfloat16" else 4,
        lora=None if settings.lora.rank is None else settings.lora,
        apart=kept_apart(jnp.dtype(settings.model.dtype)),
        moment=2 if settings.optimizer.state_dtype == "bfloat16" else 4,
        offload=settings.optimizer.offload,
        remat=settings.model.remat,
        attention=attention,
        mesh=sizes,
        prompts=data.prompts_per_step,
        samples=data.samples_per_prompt,
        prompt_width=data.max_prompt_tokens,
        width=settings.sampling.max_tokens,
        scores=(of_policy or exact_in_reward) + needs_reference(algorithm),
        score_passes=2 if exact_in_reward else 1,
        score=_passes(rows, *widths, budget),
        updates=training.epochs * training.mini_batches,
        update=update,
        sampling=settings.sampling,
        concentration=concentration,
        score_chunk=training.score_chunk,
        reference=needs_reference(algorithm),
        offload_reference=training.offload_reference,
        before=(needs_choice(algorithm) + (training.balancing_coefficient != 0)) * (update.count > 1),
        exact_kl=exact and algorithm.kl_placement == "loss",
    )


def meshes(devices: int) -> list[tuple[int, int, int, int]]:
    """Every way to split one slice over the mesh axes in powers of two: `data` is 1."""
    powers = [2**power for power in range(devices.bit_length())]
    splits = ((tensor, sequence) for tensor in powers for sequence in powers if devices % (tensor * sequence) == 0)
    return [(1, devices // (tensor * sequence), tensor, sequence) for tensor, sequence in splits]
