"""A summary of a study that never ran: every section is filled, with numbers that follow from the arm's place."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

VERDICTS = ("helps", "hurts", "no_difference", "undecided")
METRICS = {  # name -> value at step 0 of the reference
    "reward": 0.3,
    "sampled_entropy": 0.5,
    "length": 24.0,
    "truncated": 0.05,
    "repeat_ratio": 0.3,
    "effect/clip_high": 0.002,
    "effect/clip_low": 0.003,
    "gradient_norm": 1.2,
    "reward_std_group": 0.35,
}
TOKENS = ("therefore", " if", "\n", " ", "the", "$x$", "7", "=", "é", "but", "<s>", "|")
_DIFFERENCE = {"helps": 0.05, "hurts": -0.04, "no_difference": 0.002, "undecided": 0.015}
_WIDTH = {"helps": 0.02, "hurts": 0.025, "no_difference": 0.012, "undecided": 0.04}


def summary(
    *, cells: Sequence[str] = ("easy", "hard"), arms: int = 4, seeds: int = 8, points: int = 12, mark: str = ""
) -> dict[str, Any]:
    """A summary with ``arms`` arms, of which the first is the reference.

    Args:
      points: of each curve.
      mark: added to every text that people or models write: names, claims, questions, tokens.
    """
    names = ["base", *(f"trick {number}{mark}" for number in range(1, arms))]
    return {
        "schema": 1,
        "name": f"e05_clip_higher{mark}",
        "scale": "lab",
        "question": f"Does a higher upper clip bound help, and does it keep entropy up?{mark}",
        "claim": f"Clip-Higher helps aligned models and does nothing for base models.{mark}",
        "source": f"Liu et al., 2025, arXiv 2508.08221, takeaway 4{mark}",
        "engine": "lab",
        "command": f"jaxrl-llm study run --config configs/paper/e05.py:lab{mark}",
        "seconds": 754.0,
        "versions": {"jaxrl_llm": "0.1.0", "jax": "0.10.2", "python": "3.11.2"},
        "time": "2025-11-22T12:00:00+00:00",
        "devices": f"2 CPU cores{mark}",
        "metric": "final",
        "smallest_effect": 0.02,
        "confidence": 0.95,
        "correction": "holm",
        "seeds": list(range(seeds)),
        "problems": 256,
        "steps": 60,
        "run": {
            "model.source": "embedded:lab_base",
            "data.source": "task:digit_chain",
            "algorithm.clip_high": 0.2,
            "data.samples_per_prompt": 8,
            "steps": 60,
            "evaluation.texts": f"some{mark}",
        },
        "cells": {
            f"{cell}{mark}": {
                "changes": {"data.tier": cell, "evaluation.tier": cell},
                "target": 0.45,
                "arms": {name: _arm(name, place, seeds, points, mark) for place, name in enumerate(names)},
                "comparisons": [_comparison(name, place + shift, seeds, mark) for place, name in enumerate(names[1:])],
            }
            for shift, cell in enumerate(cells)
        },
    }


def _arm(name: str, place: int, seeds: int, points: int, mark: str) -> dict[str, Any]:
    noise = random.Random(place)
    steps = [round(60 * i / max(1, points - 1)) for i in range(points)]
    rising = [0.3 + (0.2 + 0.02 * place) * (1 - math.exp(-step / 25)) + noise.gauss(0, 0.008) for step in steps]
    right, careless = (lambda x: f"{x} + 4 = {x + 4}\n#### {x + 4}"), (lambda x: f"{x} + 4 = {x + 5}\n#### {x + 5}")
    final = [rising[-1] + noise.gauss(0, 0.02) for _ in range(seeds)]
    interval = {"value": rising[-1], "low": rising[-1] - 0.02, "high": rising[-1] + 0.02}
    tricks = [
        {
            "name": f"trick_{place}",
            "title": f"Trick number {place}{mark}",
            "changes": {"algorithm.clip_high": 0.2 + 0.04 * place},
            "source": f"Yu et al., 2025{mark}",
            "claim": f"Entropy falls more slowly{mark}",
            "code": place == 2,
        }
    ]
    clipped = {f"{token}{mark}": (len(TOKENS) - i) * (place + 1) for i, token in enumerate(TOKENS)}
    return {
        "tricks": tricks if place else [],
        "failed": [{"seed": 3, "reason": f"killed by signal 9{mark}"}] if place == 3 else [],
        "missing": [4, 6, 7] if place == 3 else [],
        "per_seed": {
            "seeds": list(range(seeds)),
            **dict.fromkeys(("final", "area", "best"), final),
            "start": [0.3] * seeds,
            "time_to_target": [None, *([30.0] * (seeds - 1))],
            "collapsed": [place == 2, *([False] * (seeds - 1))],
            "entropy_collapsed": [place == 1, *([False] * (seeds - 1))],
        },
        "mean": dict.fromkeys(("final", "area", "best"), interval),
        "reached": {"median": 30.0, "reached": seeds - 1, "of": seeds},
        "evaluations": _curve(steps, rising, 0.02),
        "curves": {
            metric: _curve(steps, [start * _factor(step, place, noise) for step in steps], 0.06 * start)
            for metric, start in METRICS.items()
        },
        "counts": {
            "probability": [10 + place, 8, 9, 9, 12, 300 - 9 * place],
            "clipped": clipped,
            "tokens": {token: 50 * count for token, count in clipped.items()},
        },
        "samples": [
            {
                "question": f"What is {problem} + 4?{mark}",
                "answer": str(problem + 4),
                "completion": (right if step else careless)(problem) + mark,
                "correct": bool(step),
                "step": step,
            }
            for step in (0, 60)
            for problem in (3, 8)
        ],
        "repeat_ratio": {"value": 0.1 + 0.02 * place},
        "inert": ["effect/clip_high"] if place == 3 else [],
    }


def _factor(step: int, place: int, noise: random.Random) -> float:
    """What a quantity has become by that step, of its start: it falls, in later arms less."""
    return math.exp(-step / (40 + 15 * place)) + noise.gauss(0, 0.03)


def _curve(steps: list[int], mean: list[float], half: float) -> dict[str, list[float]]:
    low, high = ([value + sign * half for value in mean] for sign in (-1, 1))
    return {"steps": [float(step) for step in steps], "mean": mean, "low": low, "high": high}


def _comparison(name: str, place: int, seeds: int, mark: str) -> dict[str, Any]:
    verdict = VERDICTS[place % len(VERDICTS)]
    difference, half = _DIFFERENCE[verdict], _WIDTH[verdict]
    interval = {"difference": difference, "low": difference - half, "high": difference + half}
    return {
        "arm": name,
        "reference": "base",
        "metric": "final",
        **interval,
        "low_adjusted": difference - 1.3 * half,
        "high_adjusted": difference + 1.3 * half,
        "p": 0.01,
        "p_adjusted": 0.0004 if verdict == "helps" else 0.3,
        "verdict": verdict,
        "bound": abs(difference) + half,
        "seeds": seeds,
        "minimum_detectable": 0.018,
        "more_seeds": 12 if verdict == "undecided" else None,
        "text": f"{name}: {verdict.replace('_', ' ')}, {100 * difference:+.1f} points{mark}.",
        "area": interval,
        "best": interval,
        "collapsed": {"arm": 1 if place == 1 else 0, "reference": 0},
    }
