"""The page of estimators, docs/estimators.md: what each one expects exactly, and how noisy it is.

python -m tests.oracles.estimators docs/estimators.md
"""

from __future__ import annotations

import functools
import math
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.oracles import exact
from tests.oracles.exact import SAMPLER, Estimator, Figures, figures, moments

LOO = {"baseline": "leave_one_out"}
PPO = LOO | {"surrogate": "ppo_clip", "clip_low": 1.0, "clip_high": 1e9}  # bounds that never bind
CLIPPED = PPO | {"clip_low": 0.2, "clip_high": 0.2}
OFF_POLICY: dict[str, Any] = {"sampler": "other", "old": "other"}
GAP: dict[str, Any] = {"sampler": "other", "old": "policy"}
WEIGHTED = LOO | {"old_logprobs": "trainer", "correction": "truncate", "correction_high": 1e9}
KL: dict[str, Any] = {"kl_coefficient": 1.0, "clip_low": None, "clip_high": None}
IN_LOSS = KL | {"kl_placement": "loss"}
IMPORTANCE = IN_LOSS | {"kl_importance": True, "surrogate": "ppo_clip", "clip_low": 1.0, "clip_high": 1e9}
ONE: dict[str, Any] = {"samples": 1, "rewards": False}  # a sum over rows: one sample of a prompt says it all


class Section(NamedTuple):
    """A table of the page: estimators of one target, with what is said of them before."""

    title: str
    text: str
    target: str
    estimators: tuple[Estimator, ...]


TARGETS = {
    "reward": exact.gradient_of_reward,
    "best": lambda: exact.gradient_of_best(3) / 3,
    "kl": lambda: -exact.gradient_of_kl(),
    "kl_old": lambda: -exact.gradient_of_kl(SAMPLER),
    "whole_kl": lambda: -exact.gradient_of_whole_kl(),
}


def _each(knob: str, levels: str, **common: Any) -> tuple[Estimator, ...]:
    return tuple(Estimator(f"{knob} {level}", common | {knob: level}) for level in levels.split())


SECTIONS = (
    Section(
        "Baselines",
        "Surrogate reinforce, aggregation sequence_sum, no scale. The mean of a group of 3 holds the row itself, and "
        "so takes a third of the gradient away; the mean of the step's 6 rows a sixth. A critic that is right has no "
        "bias at any λ; one that is wrong has none at λ = 1, where it cancels.",
        "reward",
        (
            *_each("baseline", "none group batch leave_one_out running length_weighted pass_at_k greedy optimal_token"),
            Estimator("critic, right, λ = 1", {"baseline": "critic", "gae_lambda": 1.0}),
            Estimator("critic, right, λ = 0.5", {"baseline": "critic", "gae_lambda": 0.5}),
            Estimator("critic, wrong, λ = 1", {"baseline": "critic", "gae_lambda": 1.0}, values="wrong"),
            Estimator("critic, wrong, λ = 0.5", {"baseline": "critic", "gae_lambda": 0.5}, values="wrong"),
            Estimator("critic, wrong, λ = 0", {"baseline": "critic", "gae_lambda": 0.0}, values="wrong"),
        ),
    ),
    Section(
        "The best of a group",
        "Against a third of the gradient of the expected largest of 3 rewards, baseline pass_at_k has no bias.",
        "best",
        (Estimator("baseline pass_at_k", {"baseline": "pass_at_k"}), Estimator("baseline leave_one_out", LOO)),
    ),
    Section(
        "Scales, and what else moves an advantage",
        "Baseline group. Dividing by a standard deviation of the same rewards weighs prompts and groups anew: the "
        "direction changes, not only the length. The last four have baseline leave_one_out.",
        "reward",
        (
            *_each("scale", "none group batch batch_centered running nonzero_share", baseline="group"),
            Estimator("discount 0.9", LOO | {"discount": 0.9}),
            Estimator("whiten", LOO | {"whiten": True}),
            Estimator("reward_clip 0.5", LOO | {"reward_clip": 0.5}),
            Estimator("advantage_clip 0.5", LOO | {"advantage_clip": 0.5}),
        ),
    ),
    Section(
        "Aggregations",
        "Baseline leave_one_out. sequence_sum is the gradient; constant is it divided by the limit of 2 tokens. The "
        "others weigh a token by the lengths of rows, which the policy chooses.",
        "reward",
        _each("aggregation", "sequence_sum constant token_mean sequence_mean prompt_mean", **LOO),
    ),
    Section(
        "Filters",
        "Baseline leave_one_out. A group of equal rewards has no advantage: leaving it out changes nothing but the "
        "number of rows that sequence_sum divides by, and nothing at all under constant. Leaving out truncated rows "
        "changes what is learned.",
        "reward",
        (
            Estimator("zero_variance, sequence_sum", LOO | {"group_filter": "zero_variance"}),
            Estimator("zero_variance, constant", LOO | {"group_filter": "zero_variance", "aggregation": "constant"}),
            Estimator(
                "zero_variance, token_mean", LOO | {"group_filter": "zero_variance", "aggregation": "token_mean"}
            ),
            Estimator("overlong_filter, sequence_sum", LOO | {"overlong_filter": True}),
            Estimator("overlong_filter, constant", LOO | {"overlong_filter": True, "aggregation": "constant"}),
        ),
    ),
    Section(
        "Surrogates at ratio 1",
        "Baseline leave_one_out. At ratio 1 every clip is idle and every surrogate is REINFORCE, but for clip_cov, "
        "which drops tokens, topr with unequal weights, and the product of a row's ratios, each of whose tokens "
        "moves all of them.",
        "reward",
        (
            *_each("surrogate", "reinforce ppo_clip cispo sapo gmpo kimi vespo dppo kl_cov clip_cov", **LOO),
            Estimator("surrogate topr, weights 1 and 1", LOO | {"surrogate": "topr", "topr_weight_negative": 1.0}),
            Estimator("surrogate topr, weights 1 and 0.5", LOO | {"surrogate": "topr", "topr_weight_negative": 0.5}),
            *_each("ratio", "sequence sequence_token sequence_product", **CLIPPED),
            Estimator(
                "sequence_product, sequence_mean", PPO | {"ratio": "sequence_product", "aggregation": "sequence_mean"}
            ),
        ),
    ),
    Section(
        "Another policy sampled",
        "Baseline leave_one_out; the ratio is taken against the policy that sampled. Only the product of a row's "
        "ratios is right; the token's own leaves out how the row came to its state, and what follows. A clip pays for "
        "less noise with bias.",
        "reward",
        (
            Estimator("reinforce, no correction", LOO, **OFF_POLICY),
            Estimator("ppo, token, no clip", PPO, **OFF_POLICY),
            Estimator("ppo, token, clip 0.2", CLIPPED, **OFF_POLICY),
            Estimator("ppo, sequence, no clip", PPO | {"ratio": "sequence"}, **OFF_POLICY),
            Estimator(
                "ppo, sequence_product, sequence_mean, no clip",
                PPO | {"ratio": "sequence_product", "aggregation": "sequence_mean"},
                **OFF_POLICY,
            ),
            Estimator("cispo, clip 0.2", CLIPPED | {"surrogate": "cispo"}, **OFF_POLICY),
            Estimator(
                "cispo, sequence_product, no clip",
                PPO | {"surrogate": "cispo", "ratio": "sequence_product"},
                **OFF_POLICY,
            ),
            Estimator("sapo", LOO | {"surrogate": "sapo"}, **OFF_POLICY),
            Estimator("gmpo", LOO | {"surrogate": "gmpo"}, **OFF_POLICY),
            Estimator("topr", LOO | {"surrogate": "topr"}, **OFF_POLICY),
            Estimator("vespo", LOO | {"surrogate": "vespo"}, **OFF_POLICY),
            Estimator("dppo", LOO | {"surrogate": "dppo"}, **OFF_POLICY),
        ),
    ),
    Section(
        "A gap between sampler and trainer",
        "Surrogate reinforce, baseline leave_one_out; the trainer takes the completions for its own policy's, and "
        "correction weighs them.",
        "reward",
        (
            Estimator("none", LOO, **GAP),
            *(
                Estimator(f"{level}, no bound", WEIGHTED | {"correction_level": level}, **GAP)
                for level in ("sequence", "token", "geometric", "segment")
            ),
            Estimator(
                "sequence, truncated at 1.2", WEIGHTED | {"correction_level": "sequence", "correction_high": 1.2}, **GAP
            ),
            Estimator(
                "sequence, masked above 1.2",
                WEIGHTED | {"correction": "mask", "correction_level": "sequence", "correction_high": 1.2},
                **GAP,
            ),
            Estimator(
                "token, truncated at 1.2", WEIGHTED | {"correction_level": "token", "correction_high": 1.2}, **GAP
            ),
            Estimator(
                "sequence, normalized over rows",
                WEIGHTED | {"correction_level": "sequence", "correction_normalize": "rows"},
                **GAP,
            ),
        ),
    ),
    Section(
        "A KL in the loss",
        "No reward; against minus the gradient of Σ_t KL(π ‖ π_ref) in the states that are visited. k1 is here "
        "times the ratio: without it, which the knobs refuse, its expectation is exactly 0. k3 without the ratio is "
        "the gradient of another distance.",
        "kl",
        (
            *(
                Estimator(level, IN_LOSS | {"kl_estimator": level}, **ONE)
                for level in ("k2", "k3", "absolute", "exact")
            ),
            *(
                Estimator(f"{level}, importance", IMPORTANCE | {"kl_estimator": level}, **ONE)
                for level in ("k1", "k2", "k3")
            ),
        ),
    ),
    Section(
        "A KL in the loss, another policy sampled",
        "Against minus the gradient of the same sum in the states that the sampling policy visits.",
        "kl_old",
        (
            *(
                Estimator(level, IN_LOSS | {"kl_estimator": level}, **OFF_POLICY, **ONE)
                for level in ("k2", "k3", "exact")
            ),
            *(
                Estimator(f"{level}, importance", IMPORTANCE | {"kl_estimator": level}, **OFF_POLICY, **ONE)
                for level in ("k1", "k2", "k3")
            ),
        ),
    ),
    Section(
        "A KL in the reward",
        "No other reward, no baseline; against minus the gradient of the KL of whole completions, whose states "
        "follow the policy. Only k1 is right there.",
        "whole_kl",
        (
            *(
                Estimator(f"{level} in the reward", KL | {"kl_placement": "reward", "kl_estimator": level}, **ONE)
                for level in ("k1", "k2", "k3")
            ),
            Estimator("exact in the loss", IN_LOSS | {"kl_estimator": "exact"}, **ONE),
        ),
    ),
)

HEAD = """# What each estimator expects

Written by `python -m tests.oracles.estimators docs/estimators.md`; a test holds it to what that writes.

Two prompts, a vocabulary of three tokens of which one stops, at most two tokens, a tabular softmax policy in float64:
small enough to draw every group of 3 completions a prompt with its probability. For each estimator the library's own
advantages, weights and loss give the exact expectation E[g] of a step and the trace of its covariance, and enumeration
gives the target ∇, the gradient of the expected reward unless a section says otherwise.

- cosine: of the angle between E[g] and ∇; length: ‖E[g]‖ / ‖∇‖; bias: ‖E[g] − ∇‖ / ‖∇‖; noise: tr Cov(g) / ‖E[g]‖².
- 0 and 1 without decimals are exact up to rounding of 1e-9. A length that is not 1 is a step size; a cosine that is not
  1 is another direction.
- The figures are of this problem: what is exactly 0 or 1 is so in general, other sizes are not."""


@functools.cache
def results() -> dict[str, dict[str, Figures]]:
    return {
        section.title: {e.name: figures(moments(e), TARGETS[section.target]()) for e in section.estimators}
        for section in SECTIONS
    }


def _shown(value: float) -> str:
    if math.isnan(value):
        return "-"
    nearest = round(value)
    return str(nearest) if abs(value - nearest) < 1e-9 else f"{value:.3f}"


def page() -> str:
    parts = [HEAD]
    for section in SECTIONS:
        text = textwrap.fill(section.text, 118)
        parts.append(f"\n## {section.title}\n\n{text}\n\n| estimator | cosine | length | bias | noise |")
        parts.append("| --- | ---: | ---: | ---: | ---: |")
        for name, found in results()[section.title].items():
            parts.append(f"| {name} | " + " | ".join(_shown(value) for value in found) + " |")
    return "\n".join(parts) + "\n"


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise SystemExit("usage: python -m tests.oracles.estimators docs/estimators.md")
    with np.errstate(all="raise", under="ignore"):
        Path(arguments[0]).write_text(page())


if __name__ == "__main__":
    main(sys.argv[1:])
