"""The resolved objective of a config in words and formula: every line follows from the settings and nothing else."""

from __future__ import annotations

import textwrap

from jaxrl_llm.algorithm import KL_CLAMP, LOG_RATIO_CLAMP, Algorithm
from jaxrl_llm.training.settings import Settings

_BASELINES = {
    "none": ("r_i", "none is taken from the reward"),
    "group": ("r_i − mean_g(r)", "mean_g is over the samples of the same prompt{group}"),
    "batch": ("r_i − mean_b(r)", "mean_b is over all completions of the step"),
    "leave_one_out": ("r_i − mean_g∖i(r)", "mean_g∖i is over the other samples of the same prompt{group}"),
}
_SCALES = {
    "group": ("std_g(r)", "std_g is over the samples of the same prompt{group}"),
    "batch": ("std_b(r)", "std_b is over the raw rewards of all completions of the step"),
    "batch_centered": ("std_b(r − mean_g(r))", "std_b is over all completions, less their group's mean"),
}
_RATIOS = {
    "token": ("ρ_t = exp(log π(o_t) − log π_old(o_t))", "one ratio a token"),
    "sequence": ("ρ = exp(mean_t(log π(o_t) − log π_old(o_t)))", "one ratio a completion (GSPO)"),
}
_OLD = {
    "sampler": "π_old is the policy that sampled, by the log-probabilities that the sampler recorded",
    "trainer": "π_old is the policy that sampled, scored again by the trainer before the update",
}
_AGGREGATIONS = {
    "token_mean": ("Σ_i Σ_t ℓ_it / Σ_i |o_i|", "every token of the optimizer step weighs the same"),
    "sequence_mean": ("1/R Σ_i 1/|o_i| Σ_t ℓ_it", "each of the R completions weighs the same, however long"),
    "prompt_mean": ("1/P Σ_p (Σ_i∈p Σ_t ℓ_it / Σ_i∈p |o_i|)", "each of the P prompts weighs the same"),
    "sequence_sum": ("1/R Σ_i Σ_t ℓ_it", "the sum of each completion, averaged over the R completions"),
    "constant": ("1/({constant}·B) Σ_i Σ_t ℓ_it", "a constant number of tokens for each of the B completions"),
}
_ESTIMATORS = {"k1": "x", "k2": "x²/2", "k3": "exp(−x) + x − 1"}
_VERIFIERS = {
    "exact": "the same text after normalization",
    "math": "math-verify",
}
_FORMATS = {
    "boxed": "in \\boxed{}",
    "hash": "after ####",
    "first_number": "the first number",
    "last_number": "the last number",
    "any": "boxed, after ####, or the last number, whichever is found first",
}


def _rollout(s: Settings) -> str:
    rows = s.data.prompts_per_step * s.data.samples_per_prompt
    return (
        f"{s.data.prompts_per_step} prompts × {s.data.samples_per_prompt} samples = {rows} completions of at most "
        f"{s.sampling.max_tokens} tokens, from {s.data.source} with {s.model.source}"
    )


def _support(s: Settings) -> str:
    kept = [
        text
        for on, text in (
            (s.sampling.top_k > 0, f"the {s.sampling.top_k} likeliest tokens (top-k)"),
            (s.sampling.top_p < 1, f"the smallest set with mass {s.sampling.top_p:g} (top-p)"),
            (s.sampling.min_p > 0, f"tokens of at least {s.sampling.min_p:g} × the likeliest (min-p)"),
        )
        if on
    ]
    support = "all tokens" if not kept else "of " + ", then of ".join(kept)
    note = "" if not kept else "; sampler and trainer normalize over the same kept tokens"
    return f"temperature {s.sampling.temperature:g}, {support}{note}"


def _reward(s: Settings) -> str:
    r = s.reward
    truncated = "judged like any other" if r.truncated is None else f"always {r.truncated:g}"
    return (
        f"r = {r.correct:g} correct, {r.wrong:g} wrong, {r.unparseable:g} without an answer, {r.timeout:g} when the "
        f"verifier takes over {r.timeout_seconds:g} s; a truncated completion is {truncated}. Answer: "
        f"{_FORMATS[r.answer_format]}; verifier: {_VERIFIERS[r.verifier]}"
    )


def _shaping(s: Settings) -> list[tuple[str, str]]:
    """Terms that are added to the reward, if any."""
    a, rows = s.algorithm, []
    if a.overlong_buffer:
        start = s.sampling.max_tokens - a.overlong_buffer
        rows.append(
            (
                "Overlong penalty",
                f"r_i − {a.overlong_penalty:g} · min(1, max(0, |o_i| − {start}) / {a.overlong_buffer}): nothing up to "
                f"{start} tokens, the whole penalty at {s.sampling.max_tokens}",
            )
        )
    return rows


def _advantage(s: Settings) -> list[tuple[str, str]]:
    a = s.algorithm
    centred, mean = _BASELINES[a.baseline]
    divided = a.scale != "none"
    std, about_std = _SCALES[a.scale] if divided else ("", "")
    numerator = f"({centred})" if divided and a.baseline != "none" else centred
    formula = f"{numerator} / ({std} + {a.scale_epsilon:g})" if divided else numerator
    silent = a.baseline == "none" and s.reward.wrong == 0
    group = f" ({s.data.samples_per_prompt} samples)"
    return [
        ("Advantage", f"A_i = {formula}, for every token of completion i"),
        ("Mean", mean.format(group=group) + ("; a reward of 0 gives no gradient" if silent else "")),
        ("Std", f"{about_std.format(group=group)}; where it is 0, A is 0" if divided else "none divides it"),
        *([("Std ddof", _ddof(a.scale_ddof))] if divided else []),
        *([("Std epsilon", f"{a.scale_epsilon:g}, added to the std")] if divided else []),
    ]


def _ddof(ddof: int) -> str:
    return f"{ddof}: the variance divides by count − {ddof}" if ddof else "0: the variance divides by the count"


def _after_advantage(a: Algorithm) -> list[tuple[str, str]]:
    rows = []
    if a.whiten:
        rows.append(("Whitening", "A to mean 0 and std 1 over the tokens of the step"))
    if a.advantage_clip is not None:
        rows.append(("Advantage clip", f"A to [−{a.advantage_clip:g}, {a.advantage_clip:g}]"))
    return rows


def _surrogate(a: Algorithm) -> list[tuple[str, str]]:
    extra = f" + {a.kl_coefficient:g}·{a.kl_estimator}" if a.kl_placement == "loss" else ""
    extra += f" − {a.entropy_coefficient:g}·H" if a.entropy_coefficient else ""
    if a.surrogate == "reinforce":
        return [("Token loss", f"ℓ_it = −A_i · log π(o_t){extra}; no ratio, no clip")]
    formula, level = _RATIOS[a.ratio]
    low, high = 1 - a.clip_low, 1 + a.clip_high
    kind = "symmetric" if a.clip_low == a.clip_high else "the upper bound is its own (clip-higher)"
    rows = [
        ("Ratio", f"{formula}, the difference within ±{LOG_RATIO_CLAMP:g}; {level}; {_OLD[a.old_logprobs]}"),
        ("Token loss", f"ℓ_it = −min(ρ·A_i, clip(ρ, {low:g}, {high:g})·A_i){extra}"),
        ("Clip", f"[1 − {a.clip_low:g}, 1 + {a.clip_high:g}] = [{low:g}, {high:g}], {kind}"),
    ]
    if a.dual_clip is not None:
        rows.append(("Dual clip", f"for A_i < 0 the token loss is at most {a.dual_clip:g} · |A_i|"))
    return rows


def _kl(a: Algorithm) -> str:
    if a.kl_placement == "none":
        return "none: no reference model is kept"
    where = {
        "loss": "added to the token loss",
        "reward": "taken from the reward of its token, so that A_it loses the sum of it from t on",
    }[a.kl_placement]
    estimator = f"{a.kl_estimator} = {_ESTIMATORS[a.kl_estimator]} within ±{KL_CLAMP:g}"
    difference = f"x = log π(o_t) − log π_ref(o_t) within ±{LOG_RATIO_CLAMP:g}"
    return f"{a.kl_coefficient:g} · {a.kl_estimator}, {where}; {estimator}, {difference}; π_ref is the starting policy"


def _filters(a: Algorithm) -> str:
    texts = []
    if a.overlong_filter:
        texts.append("truncated completions get no gradient (overlong filter)")
    if a.group_filter == "zero_variance":
        texts.append("groups whose rewards are all equal get no gradient")
    if a.resample_rounds > 1:
        texts.append(
            f"prompts are drawn in up to {a.resample_rounds} rollouts a step until the batch is full of other groups "
            "(dynamic sampling), and mean and std are those of that batch"
        )
    elif texts:
        texts.append("mean and std see all completions of the step, filtered ones too")
    return "; ".join(texts) or "none"


def _denominator(s: Settings) -> str:
    formula, meaning = _AGGREGATIONS[s.algorithm.aggregation]
    constant = s.algorithm.aggregation_constant
    value = s.sampling.max_tokens if constant is None else constant
    filtered = s.algorithm.overlong_filter or s.algorithm.group_filter != "none"
    note = "; filtered completions do not count" if filtered and s.algorithm.aggregation != "constant" else ""
    return f"L = {formula.format(constant=f'{value:g}')} ({s.algorithm.aggregation}): {meaning}{note}"


def _steps(s: Settings) -> str:
    t = s.training
    count = t.epochs * t.mini_batches
    rows = s.data.prompts_per_step * s.data.samples_per_prompt // t.mini_batches
    text = f"epochs {t.epochs} × mini-batches {t.mini_batches} = {count} a rollout, of {rows} completions each"
    if s.algorithm.surrogate == "reinforce" or count > 1:
        return text
    return (
        f"{text}: the policy has not moved since it sampled, so the ratio is 1 (up to rounding) and clipping cannot "
        "bind; more mini-batches or epochs make it matter"
    )


def _optimizer(s: Settings) -> str:
    o = s.optimizer
    clip = "no gradient clipping" if o.clip_norm is None else f"gradient norm at most {o.clip_norm:g}"
    warmup = f"{o.warmup_steps} steps of warm-up, then " if o.warmup_steps else ""
    return (
        f"AdamW, learning rate {o.learning_rate:g} ({warmup}{o.schedule}), betas {o.beta1:g} and {o.beta2:g}, epsilon "
        f"{o.epsilon:g}, weight decay {o.weight_decay:g}, {clip}"
    )


def rows(settings: Settings) -> list[tuple[str, str]]:
    """(heading, text) of every part of the objective, in the order in which a step computes them."""
    a = settings.algorithm
    entropy = (
        f"{a.entropy_coefficient:g} · H, the entropy of π at each token, nats" if a.entropy_coefficient else "none"
    )
    return [
        ("Rollout", _rollout(settings)),
        ("Sampling", _support(settings)),
        ("Reward", _reward(settings)),
        *_shaping(settings),
        *_advantage(settings),
        *_after_advantage(a),
        *_surrogate(a),
        ("KL", _kl(a)),
        ("Entropy bonus", entropy),
        ("Filters", _filters(a)),
        ("Denominator", _denominator(settings)),
        ("Optimizer steps", _steps(settings)),
        ("Optimizer", _optimizer(settings)),
    ]


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
