"""SAPO: a smooth gate in place of the clip, a little steeper for bad tokens; group mean and std.

Source: Gao et al., 2025, arXiv 2511.20347; temperatures 1.0 and 1.05.
Differs: TRL averages over all rows of each micro-batch by itself; verl as here.
Command: jaxrl-llm train --config configs/sapo.py
Hardware: two CPU cores. Expected: 85 s, 1.2 GiB; held-out avg@4 from 0.29 to 0.45 in 60 steps (seed 0).
"""

from configs import base


def get_config():
    c = base.get_config()
    c.run_dir = "runs/sapo"
    c.algorithm.baseline = "group"
    c.algorithm.scale = "group"
    c.algorithm.surrogate = "sapo"
    c.algorithm.clip_low = None
    c.algorithm.clip_high = None
    c.algorithm.sapo_temperature_positive = 1.0
    c.algorithm.sapo_temperature_negative = 1.05
    c.algorithm.aggregation = "sequence_mean"
    c.training.mini_batches = 4  # with one, the gate is at its middle
    return c
