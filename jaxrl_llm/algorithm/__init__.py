"""An algorithm as a point in a product of small knobs, and the one place where their strings become functions.

Order of a step: shape the rewards; keep groups (dynamic sampling); baseline, scale, clip of the reward, KL in the
reward, return, whitening, clip of the advantage; filters and rejection, which act on the mask alone; weights of the
loss; then the policy loss of each micro-batch, and what is carried to the next step.

Every difference of log-probabilities is held within ±20 nats before it is exponentiated (:data:`LOG_RATIO_CLAMP`), and
every KL estimate of a token within ±10 nats (:data:`KL_CLAMP`), with gradient 0 beyond: float32 stays finite.

A metric "effect/<knob>" is the share of the tokens, rows or groups that the knob changed; it is there when the knob is
on.
"""

from jaxrl_llm.algorithm.advantages import Advantages, advantages
from jaxrl_llm.algorithm.controls import initial_controls, next_controls
from jaxrl_llm.algorithm.filters import keep_groups
from jaxrl_llm.algorithm.gap import Gap, correct_gap
from jaxrl_llm.algorithm.kl import KL_CLAMP, KL_ESTIMATORS, kl_estimate
from jaxrl_llm.algorithm.loss import policy_loss, value_loss
from jaxrl_llm.algorithm.ratio import LOG_RATIO_CLAMP, RATIOS
from jaxrl_llm.algorithm.rewards import Rewards, shape_rewards
from jaxrl_llm.algorithm.rows import BASELINES, SCALES
from jaxrl_llm.algorithm.surrogates import SURROGATES
from jaxrl_llm.algorithm.weights import AGGREGATIONS, choose_tokens, loss_weights, rows_with_gradient
from jaxrl_llm.knobs import Algorithm, check

__all__ = [
    "AGGREGATIONS",
    "BASELINES",
    "KL_CLAMP",
    "KL_ESTIMATORS",
    "LOG_RATIO_CLAMP",
    "RATIOS",
    "SCALES",
    "SURROGATES",
    "Advantages",
    "Algorithm",
    "Gap",
    "Rewards",
    "advantages",
    "check",
    "choose_tokens",
    "correct_gap",
    "initial_controls",
    "keep_groups",
    "kl_estimate",
    "loss_weights",
    "needs_choice",
    "needs_critic",
    "needs_exact_kl",
    "needs_greedy",
    "needs_reference",
    "needs_sum_pi_squared",
    "next_controls",
    "policy_loss",
    "rows_with_gradient",
    "scores_in_loss_alone",
    "shape_rewards",
    "value_loss",
]


def needs_reference(algorithm: Algorithm) -> bool:
    """Whether the starting policy must score the completions."""
    return algorithm.kl_placement != "none"


def needs_exact_kl(algorithm: Algorithm) -> bool:
    """Whether policy and reference must be compared over the whole vocabulary."""
    return algorithm.kl_estimator == "exact"


def needs_critic(algorithm: Algorithm) -> bool:
    """Whether a critic must say what completions are worth."""
    return algorithm.baseline == "critic"


def needs_choice(algorithm: Algorithm) -> bool:
    """Whether tokens are chosen by comparing all tokens of an optimizer step, see :func:`choose_tokens`."""
    return algorithm.cov_share is not None or algorithm.top_entropy_share is not None


def needs_greedy(algorithm: Algorithm) -> bool:
    """Whether each prompt needs a greedy completion, whose reward is the baseline."""
    return algorithm.baseline == "greedy"


def needs_sum_pi_squared(algorithm: Algorithm) -> bool:
    """Whether the policy that sampled must be scored for log-probabilities and Σ_v π(v)²."""
    return algorithm.baseline == "optimal_token"


def scores_in_loss_alone(algorithm: Algorithm) -> bool:
    """Whether rollouts are scored, and the loss of a row alone reads its scores: of other rows they are not needed.

    Elsewhere advantages are made of scores (a KL in the reward, a critic, the optimal token baseline), or those of one
    row change the weights of others (rejected tokens are in no denominator, a normalized correction has mean 1).
    """
    a = algorithm
    scored = a.old_logprobs == "trainer" or a.kl_placement == "loss"
    in_advantages = a.kl_placement == "reward" or needs_critic(a) or needs_sum_pi_squared(a)
    return scored and not in_advantages and a.rejection == "none" and a.correction_normalize == "none"
