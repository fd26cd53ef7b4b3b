"""jaxrl_llm: reinforcement learning for LLM reasoning in JAX."""

__version__ = "0.1.0"
