"""The resolved objective of a config in words and formula: every line follows from the settings and nothing else.

Formulas are those of the table in ``techniques``, with the config's values in place of the knobs. A knob that is off
has no line. What sections beside the algorithm say is in `explain_run.py`.
"""

from __future__ import annotations

import dataclasses
import textwrap

from jaxrl_llm import explain_run, techniques
from jaxrl_llm.algorithm import KL_CLAMP, LOG_RATIO_CLAMP
from jaxrl_llm.training.settings import Settings

_WITHOUT_STD = ("none", "nonzero_share")
# The values at which a knob does nothing.
_OFF: dict[str, tuple[object, ...]] = {"discount": (1.0,), "gae_lambda": (None,), "gae_lambda_returns": (None,)}
_OFF |= {"batch_statistics": ("step",), "reward_combination": ("sum",), "resample_rounds": (1,)}
_OFF_ELSE = (None, False, 0, "none")

Line = tuple[str, str]


def _show(name: str, value: object) -> str:
    if value is None:
        return {"low": "−∞", "high": "∞"}.get(name.rpartition("_")[2], "None")
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)


class _Table:
    """The table of techniques with the values of one config."""

    def __init__(self, s: Settings):
        a = s.algorithm
        values = dataclasses.asdict(a) | {
            "max_tokens": s.sampling.max_tokens,
            "samples": s.data.samples_per_prompt,
            "overlong_start": s.sampling.max_tokens - a.overlong_buffer,
            "clip_floor": None if a.clip_low is None else 1 - a.clip_low,
            "clip_ceiling": None if a.clip_high is None else 1 + a.clip_high,
        }
        if a.aggregation_constant is None:
            values["aggregation_constant"] = s.sampling.max_tokens
        self.algorithm = a
        self._values = {name: _show(name, value) for name, value in values.items()}

    def is_level(self, knob: str) -> bool:
        return (knob, getattr(self.algorithm, knob)) in techniques.TABLE and getattr(self.algorithm, knob) is not None

    def _record(self, knob: str) -> techniques.Technique:
        """The record of the knob's level, or of the knob if it has none."""
        return techniques.get(knob, getattr(self.algorithm, knob) if self.is_level(knob) else None)

    def formula(self, knob: str) -> str:
        return techniques.fill(self._record(knob).formula, self._values)

    def meaning(self, knob: str) -> str:
        return techniques.fill(self._record(knob).meaning, self._values)

    def line(self, knob: str) -> Line:
        """A heading, with formula and meaning."""
        return techniques.get(knob).title, f"{self.formula(knob)}: {self.meaning(knob)}"

    def lines(self, *knobs: str) -> list[Line]:
        """The lines of those that are on."""
        return [self.line(knob) for knob in knobs if getattr(self.algorithm, knob) not in _OFF.get(knob, _OFF_ELSE)]


def _advantage(t: _Table, s: Settings) -> list[Line]:
    a, centred = t.algorithm, t.formula("baseline")
    if a.baseline in ("critic", "optimal_token"):
        return [t.line("baseline")]
    divided = a.scale != "none"
    numerator = f"({centred})" if divided and a.baseline != "none" else centred
    epsilon = "" if a.scale in _WITHOUT_STD else f" + {a.scale_epsilon:g}"
    divisor = f" / ({t.formula('scale')}{epsilon})" if divided else ""
    silent = "; a reward of 0 gives no gradient" if a.baseline == "none" and s.reward.wrong == 0 else ""
    lines = [("Advantage", f"A_i = {numerator}{divisor}, for every token of completion i{silent}")]
    if a.baseline != "none":
        group = f" ({s.data.samples_per_prompt} samples)" if "same prompt" in t.meaning("baseline") else ""
        lines.append(("Mean", t.meaning("baseline") + group))
    if divided:
        group = f" ({s.data.samples_per_prompt} samples)" if a.scale == "group" else ""
        zero = "" if a.scale in _WITHOUT_STD else "; where it is 0, A is 0"
        lines.append(("Std", t.meaning("scale") + group + zero))
    if divided and a.scale not in _WITHOUT_STD:
        lines += [("Std ddof", _ddof(a.scale_ddof)), ("Std epsilon", t.meaning("scale_epsilon"))]
    return lines


def _ddof(ddof: int) -> str:
    return f"{ddof}: the variance divides by count − {ddof}" if ddof else "0: the variance divides by the count"


def _policy_loss(t: _Table) -> list[Line]:
    a, surrogate = t.algorithm, t.formula("surrogate")
    if a.correction != "none":
        surrogate = f"w · ({surrogate})"
    kl = ("ρ·" if a.kl_importance else "") + (a.kl_estimator or "")
    beta = f"{a.kl_coefficient:g}" if a.kl_target is None else "β"
    alpha = f"{a.entropy_coefficient:g}" if a.entropy_target is None else "α"
    extra = f" + {beta}·{kl}" if a.kl_placement == "loss" else ""
    extra += f" − {alpha}·H" if alpha != "0" else ""
    extra += f" − {a.positive_nll_coefficient:g}·[r > 0]·log π(o_t)" if a.positive_nll_coefficient else ""
    token = ("Token loss", f"ℓ_it = {surrogate}{extra}; {t.meaning('surrogate')}")
    if a.surrogate == "reinforce":
        return [token]
    held = f"differences of log-probabilities within ±{LOG_RATIO_CLAMP:g}"
    lines = [("Ratio", f"{t.formula('ratio')}: {t.meaning('ratio')}; {held}; {t.meaning('old_logprobs')}"), token]
    return lines + _bounds(t)


def _bounds(t: _Table) -> list[Line]:
    a, lines = t.algorithm, t.lines("dual_clip", "ratio_cap", "drop_clipped")
    if a.clip_low is None or a.clip_high is None:
        return lines
    low, high, floor = f"{a.clip_low:g}", f"{a.clip_high:g}", 1 - a.clip_low
    kind = "symmetric" if low == high else "the upper bound is its own (clip-higher)"
    opened = "" if floor > 0 else "; no lower bound: a ratio is never below 0"
    text = f"[1 − {low}, 1 + {high}] = [{floor:g}, {1 + a.clip_high:g}], {kind}{opened}"
    if a.surrogate == "gmpo":
        text = f"the log-ratio within [−{low}, {high}], {kind}"
    if a.surrogate == "dppo":
        text = f"π − π_old within [−{low}, {high}], either bound in the direction of A alone"
        text = text if a.dppo_by_sign else f"|π − π_old| at most {high}, whatever the sign of A; clip_low is not read"
    return [("Clip", text), *lines]


def _gap(t: _Table) -> list[Line]:
    """Weights and rejection for the gap between sampler and trainer."""
    a, lines = t.algorithm, []
    if a.correction != "none":
        normalized = "" if a.correction_normalize == "none" else f"; then {t.formula('correction_normalize')}"
        level = f"{t.formula('correction_level')}: {t.meaning('correction_level')}"
        lines.append(("Correction", f"{t.formula('correction')}, {level}; {t.meaning('correction')}{normalized}"))
    if a.rejection != "none":
        level = f"{t.formula('rejection_level')}, {t.meaning('rejection_level')}"
        x = "x_t = log π_old(o_t) − log π_sampler(o_t)"
        lines.append(("Rejection", f"{t.formula('rejection')}; {level}; {x}; what is not kept counts nowhere"))
    return lines


def _kl(t: _Table) -> list[Line]:
    a = t.algorithm
    if a.kl_placement == "none":
        return []
    estimator = f"{a.kl_estimator} = {t.formula('kl_estimator')}"
    if a.kl_estimator != "exact":
        estimator += f" within ±{KL_CLAMP:g}, x = log π(o_t) − log π_ref(o_t) within ±{LOG_RATIO_CLAMP:g}"
    coefficient = f"{a.kl_coefficient:g}" if a.kl_target is None else "β"
    start = f"{coefficient} · {a.kl_estimator}, {t.meaning('kl_placement')}"
    lines = [("KL", f"{start}; {estimator}; π_ref is the starting policy")]
    return lines + t.lines("kl_importance", "kl_target")


def _filters(t: _Table) -> list[Line]:
    a = t.algorithm
    texts = [t.meaning("overlong_filter")] if a.overlong_filter else []
    if a.group_filter != "none":
        texts.append(f"{t.meaning('group_filter')} get no gradient ({t.formula('group_filter')})")
    if a.resample_rounds > 1:
        texts.append(
            f"{t.meaning('resample_rounds')} (dynamic sampling, by rewards as judged), and mean and std are those of "
            "that batch"
        )
    elif texts:
        texts.append("mean and std see all completions of the step, filtered ones too")
    return [("Filters", "; ".join(texts))] if texts else []


def _denominator(t: _Table) -> str:
    a = t.algorithm
    filtered = a.overlong_filter or a.group_filter != "none" or a.rejection != "none"
    note = "; filtered completions do not count" if filtered and a.aggregation != "constant" else ""
    return f"L = {t.formula('aggregation')} ({a.aggregation}): {t.meaning('aggregation')}{note}"


def rows(settings: Settings) -> list[Line]:
    """(heading, text) of every part of the objective, in the order in which a step computes them."""
    t = _Table(settings)
    return [
        ("Rollout", explain_run.rollout(settings)),
        ("Sampling", explain_run.support(settings)),
        ("Reward", explain_run.reward(settings)),
        *t.lines("format_coefficient", "overlong_buffer", "length_penalty", "repetition_coefficient"),
        *t.lines("reward_combination"),
        *_advantage(t, settings),
        *t.lines("batch_statistics", "reward_clip", "discount", "gae_lambda", "gae_length_alpha"),
        *t.lines(
            "gae_lambda_returns", "whiten", "advantage_clip", "critic_learning_rate", "critic_warmup", "value_clip"
        ),
        *_policy_loss(t),
        *t.lines("top_entropy_share", "bad_row_threshold", "positive_nll_coefficient"),
        *_gap(t),
        *_kl(t),
        *t.lines("entropy_coefficient", "entropy_target"),
        *_filters(t),
        ("Denominator", _denominator(t)),
        ("Optimizer steps", explain_run.steps(settings)),
        ("Optimizer", explain_run.optimizer(settings)),
        *([("Adapter", explain_run.adapter(settings))] if settings.lora.rank is not None else []),
    ]


def knob(settings: Settings, name: str) -> str:
    """Formula and meaning of one knob of the algorithm as the settings resolve it; "off" where it does nothing."""
    t = _Table(settings)
    if name in ("clip_low", "clip_high"):  # what they bound is up to the surrogate
        return dict(_bounds(t)).get("Clip", "off")
    if t.lines(name):
        return t.line(name)[1]
    return t.meaning(name) if t.is_level(name) else "off"


def explain(settings: Settings, *, width: int = 100) -> str:
    """The objective as text for a terminal, a heading and its wrapped lines for each part."""
    parts = rows(settings)
    column = max(len(heading) for heading, _ in parts) + 2
    return "\n".join(
        textwrap.fill(
            text,
            width,
            initial_indent=f"{heading:<{column}}",
            subsequent_indent=" " * column,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for heading, text in parts
    )
