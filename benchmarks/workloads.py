"""The workloads of the speed comparison as data, and the work that each of them needs, by formula.

Imports nothing but numpy: the scripts in peers/ read it in environments of their own.

Two counts of floating-point operations are stated, a multiplication and an addition being two:

- ``dense``: every row is computed by itself, with its own copy of the prompt, over its real length; no padding. The
  least of a library that neither shares nor drops anything.
- ``needed``: a group's rows share one copy of their prompt; the last token of a completion, which predicts nothing, is
  not fed; rows without gradient are left out of the update. No exact way needs more, so rates are of this count.

Both count matrix products of the layers (2 a weight and token), causal attention (2 products over the keys that a
query sees) and logits at completion positions only; norms, rotations, softmax and the optimizer are not counted. The
backward pass costs twice the forward pass, nothing is computed again.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

STOP, PAD = 1, 0  # ids that end and fill rows; no prompt holds them
ADAMW_BYTES = 28  # a parameter, float32: reads it, its gradient and two moments, writes all but the gradient


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a Qwen3 model."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int
    vocabulary: int
    tied: bool

    @property
    def layer_weights(self) -> int:
        """Entries of a layer's matrices."""
        attention = self.width * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.width * self.mlp_width

    @property
    def parameters(self) -> int:
        norms = self.layers * (2 * self.width + 2 * self.head_size) + self.width
        return self.layers * self.layer_weights + (2 - self.tied) * self.width * self.vocabulary + norms

    def flop(self, tokens: int, seen: int, predicted: int) -> int:
        """Of a forward pass.

        Args:
          tokens: that are fed.
          seen: keys, summed over the queries.
          predicted: positions with logits.
        """
        attention = 4 * self.heads * self.head_size * seen
        return (
            self.layers * (2 * self.layer_weights * tokens + attention) + 2 * self.width * self.vocabulary * predicted
        )


@dataclasses.dataclass(frozen=True)
class Work:
    """FLOP of the parts of a GRPO step, of one count."""

    rollout: int
    score: int
    update: int

    @property
    def step(self) -> int:
        """Rollout and update: on the sampler's own log-probabilities no scoring pass is needed."""
        return self.rollout + self.update


@dataclasses.dataclass(frozen=True)
class Workload:
    """A GRPO step: prompts, samples of each, and what is sampled.

    Attributes:
      micro_batch: rows of one forward and backward pass of the peers.
      max_prompt: tokens of the longest prompt allowed.
      max_tokens: of a completion.
      ragged: prompts of 1/3 to all of ``max_prompt`` tokens, completions of log-normal length, and every second group
        without spread in its rewards; else all rows are as long as they may be, and every group has spread.
    """

    name: str
    shape: Shape
    prompts: int
    samples: int
    micro_batch: int
    max_prompt: int
    max_tokens: int
    ragged: bool = False
    seed: int = 0

    MEDIAN, PERCENTILE_99 = 48, 256  # tokens of a ragged completion, before it is cut at max_tokens

    @property
    def rows(self) -> int:
        return self.prompts * self.samples

    @functools.cached_property
    def prompt_tokens(self) -> list[list[int]]:
        """Ids of every prompt."""
        generator = np.random.default_rng(self.seed)
        lengths = np.full(self.prompts, self.max_prompt)
        if self.ragged:
            lengths = generator.integers(self.max_prompt // 3, self.max_prompt, self.prompts, endpoint=True)
        return [generator.integers(2, self.shape.vocabulary, n).tolist() for n in lengths]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int [B], tokens of every completion, rows prompt-major; a ragged row's last token is STOP."""
        if not self.ragged:
            return np.full(self.rows, self.max_tokens)
        quantile = 2.3263478740408408  # of the standard normal distribution at 0.99
        sigma = math.log(self.PERCENTILE_99 / self.MEDIAN) / quantile
        drawn = np.random.default_rng(self.seed + 1).lognormal(math.log(self.MEDIAN), sigma, self.rows)
        return np.clip(np.rint(drawn), 2, self.max_tokens).astype(int)

    @functools.cached_property
    def rewards(self) -> np.ndarray:
        """float32 [B], 0 or 1."""
        sample, group = np.arange(self.rows) % self.samples, np.arange(self.rows) // self.samples
        same = (group // 2) % 2  # of a group without spread
        return np.where(self.ragged & (group % 2 == 1), same, sample % 2).astype(np.float32)

    @property
    def tokens(self) -> int:
        """That are sampled."""
        return int(self.lengths.sum())

    @property
    def spread(self) -> np.ndarray:
        """bool [B], rows of groups whose rewards differ."""
        of_groups = self.rewards.reshape(self.prompts, self.samples)
        return np.repeat(of_groups.min(axis=1) != of_groups.max(axis=1), self.samples)

    @property
    def dense(self) -> Work:
        prompt = np.repeat([len(ids) for ids in self.prompt_tokens], self.samples)
        length = self.lengths
        prefill = self.shape.flop(prompt.sum(), _causal(prompt).sum(), self.rows)
        score = self.shape.flop((prompt + length).sum(), _causal(prompt + length).sum(), length.sum())
        return Work(int(prefill) + self._decode(), int(score), 3 * int(score))

    @property
    def needed(self) -> Work:
        prompt = np.array([len(ids) for ids in self.prompt_tokens])
        prefill = self.shape.flop(prompt.sum(), _causal(prompt).sum(), self.prompts)
        return Work(
            int(prefill) + self._decode(), self._shared(np.ones(self.rows, bool)), 3 * self._shared(self.spread)
        )

    @property
    def optimizer_bytes(self) -> int:
        """That AdamW moves."""
        return ADAMW_BYTES * self.shape.parameters

    def _fed(self, rows: np.ndarray) -> tuple[int, int]:
        """(tokens of completions that are fed, keys that they see), summed over ``rows``; the last is not fed."""
        prompt = np.repeat([len(ids) for ids in self.prompt_tokens], self.samples)[rows]
        fed = self.lengths[rows] - 1
        return int(fed.sum()), int((prompt * fed + _causal(fed)).sum())

    def _decode(self) -> int:
        tokens, seen = self._fed(np.ones(self.rows, bool))
        return int(self.shape.flop(tokens, seen, tokens))

    def _shared(self, rows: np.ndarray) -> int:
        """A forward pass over ``rows``, a prompt once for its group."""
        prompt = np.array([len(ids) for ids in self.prompt_tokens])[rows.reshape(self.prompts, -1).any(axis=1)]
        tokens, seen = self._fed(rows)
        flop = self.shape.flop(prompt.sum() + tokens, _causal(prompt).sum() + seen, self.lengths[rows].sum())
        return int(flop)


def _causal(length: np.ndarray) -> np.ndarray:
    """Keys that the queries of a sequence see, together."""
    return length * (length + 1) // 2


SMALL = Shape(width=512, layers=8, heads=8, kv_heads=4, head_size=64, mlp_width=1536, vocabulary=4096, tied=False)
QWEN3_06B = Shape(
    width=1024, layers=28, heads=16, kv_heads=8, head_size=128, mlp_width=3072, vocabulary=151936, tied=True
)
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("w1", SMALL, prompts=16, samples=8, micro_batch=16, max_prompt=64, max_tokens=256),
        Workload("w2", QWEN3_06B, prompts=4, samples=4, micro_batch=4, max_prompt=64, max_tokens=64),
        Workload("w3", SMALL, prompts=16, samples=8, micro_batch=16, max_prompt=96, max_tokens=256, ragged=True),
        # seconds, to see that a script runs
        Workload(
            "smoke", dataclasses.replace(SMALL, layers=2), prompts=2, samples=2, micro_batch=2, max_prompt=12,
            max_tokens=8,
        ),
        Workload(
            "smoke_ragged", dataclasses.replace(SMALL, layers=2), prompts=2, samples=2, micro_batch=2, max_prompt=12,
            max_tokens=64, ragged=True,
        ),
    )
}  # fmt: skip


def table() -> str:
    """The workloads and their work, as text."""
    lines = [
        f"{'':12} {'parameters':>10} {'rows':>5} {'tokens':>7}  GFLOP of rollout, score, update, step: dense | needed"
    ]
    for workload in WORKLOADS.values():
        counts = [
            " ".join(f"{getattr(work, part) / 1e9:>7.0f}" for part in ("rollout", "score", "update", "step"))
            for work in (workload.dense, workload.needed)
        ]
        lines.append(
            f"{workload.name:12} {workload.shape.parameters / 1e6:>8.1f} M {workload.rows:>5} {workload.tokens:>7}  "
            f"{' | '.join(counts)}; AdamW {workload.optimizer_bytes / 1e9:.2f} GB"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
