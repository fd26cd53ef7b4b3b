"""Summaries of studies that never ran, with the comparisons that a test asks for and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_VALUES = {
    "helps": (0.03, 0.01, 0.05),
    "hurts": (-0.03, -0.05, -0.01),
    "no_difference": (0.002, -0.008, 0.012),
    "undecided": (0.01, -0.02, 0.04),
}


def study(name: str, arm: str, reference: str, verdicts: Mapping[str, str], scale: str = "lab") -> dict[str, Any]:
    """A summary in which an arm is compared with a reference in each cell.

    Args:
      verdicts: cell -> kind of verdict.
    """
    return {
        "name": name,
        "scale": scale,
        "question": "Is it so?",
        "command": f"jaxrl-llm study run --config configs/paper/{name}.py:{scale}",
        "seconds": 90.0,
        "steps": 60,
        "seeds": list(range(16)),
        "cells": {cell: {"comparisons": [comparison(arm, reference, verdicts[cell])]} for cell in verdicts},
    }


def comparison(arm: str, reference: str, verdict: str) -> dict[str, Any]:
    difference, low, high = _VALUES[verdict]
    return {
        "arm": arm,
        "reference": reference,
        "difference": difference,
        "low": low,
        "high": high,
        "verdict": verdict,
        "seeds": 16,
        "identical": False,
    }
