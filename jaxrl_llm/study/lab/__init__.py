"""The engine `lab`: many small runs as lanes of one program, sampling, verifier and update included."""

from jaxrl_llm.study.lab.engine import run
from jaxrl_llm.study.lab.lanes import LAB_IGNORES, NUMERIC

__all__ = ["LAB_IGNORES", "NUMERIC", "run"]
