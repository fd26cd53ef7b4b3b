"""A wider clip on both sides: two keys of the config."""

from jaxrl_llm.study import Trick

TRICK = Trick(
    "wider_clip",
    {"algorithm.clip_low": 0.3, "algorithm.clip_high": 0.4},
    title="Ratio bounds of 0.7 and 1.4",
    claim="An idea: the policy may move further in a rollout.",
)
