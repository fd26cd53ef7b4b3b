"""What a study's numbers allow to say: paired differences, intervals, corrections, power and verdicts; no jax."""

from jaxrl_llm.study.statistics.bootstrap import bootstrap_interval
from jaxrl_llm.study.statistics.correction import benjamini_hochberg, holm, holm_confidence
from jaxrl_llm.study.statistics.paired import CONFIDENCE, Interval, Mean, over_seeds, over_seeds_and_problems
from jaxrl_llm.study.statistics.power import minimum_detectable, seeds_needed
from jaxrl_llm.study.statistics.verdicts import FEWEST_SEEDS, Judged, judge, sentence

__all__ = [
    "CONFIDENCE",
    "FEWEST_SEEDS",
    "Interval",
    "Judged",
    "Mean",
    "benjamini_hochberg",
    "bootstrap_interval",
    "holm",
    "holm_confidence",
    "judge",
    "minimum_detectable",
    "over_seeds",
    "over_seeds_and_problems",
    "seeds_needed",
    "sentence",
]
