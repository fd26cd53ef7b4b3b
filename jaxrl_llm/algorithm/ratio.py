"""The importance ratio at its level."""

from __future__ import annotations

from collections.abc import Callable

from jaxrl_llm.core import ratios
from jaxrl_llm.types import Array

LOG_RATIO_CLAMP = 20.0  # nats

# (log π [B, T], log-ratios [B, T], mask) -> ratio [B, T]
RATIOS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "token": lambda logprobs, log_ratio, mask: ratios.token_ratio(log_ratio, mask),
    "sequence": lambda logprobs, log_ratio, mask: ratios.sequence_ratio(log_ratio, mask),
    "sequence_token": lambda logprobs, log_ratio, mask: ratios.sequence_ratio_of_token(logprobs, log_ratio, mask),
    "sequence_product": lambda logprobs, log_ratio, mask: ratios.sequence_product_ratio(
        log_ratio, mask, highest=LOG_RATIO_CLAMP
    ),
}
