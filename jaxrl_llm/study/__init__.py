"""Studies: tricks × seeds × models × data, run by one of two engines, compared in pairs, with verdicts."""

from jaxrl_llm.study.tricks import Trick

__all__ = ["Trick"]
