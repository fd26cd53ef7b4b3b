"""What `explain` says of a run beside its algorithm: rollout, sampling, reward, optimizer, adapter; a text of each."""

from __future__ import annotations

from jaxrl_llm.models.lora import ALL_LINEAR
from jaxrl_llm.training.settings import Settings

_VERIFIERS = {
    "exact": "the same text after normalization",
    "math": "math-verify",
    "program": "runs it on the problem's tests",
}
_SANDBOXES = {
    "bubblewrap": ", in a sandbox of bubblewrap",
    "none": ", with the rights of the run",
}
_FORMATS = {
    "boxed": "in \\boxed{}",
    "hash": "after ####",
    "first_number": "the first number",
    "last_number": "the last number",
    "any": "boxed, after ####, or the last number, whichever is found first",
    "code": "the last block of code",
}


def rollout(s: Settings) -> str:
    rows = s.data.prompts_per_step * s.data.samples_per_prompt
    return (
        f"{s.data.prompts_per_step} prompts × {s.data.samples_per_prompt} samples = {rows} completions of at most "
        f"{s.sampling.max_tokens} tokens, from {s.data.source} with {s.model.source}"
    )


def support(s: Settings) -> str:
    kept = [
        text
        for on, text in (
            (s.sampling.top_k > 0, f"the {s.sampling.top_k} likeliest tokens (top-k)"),
            (s.sampling.top_p < 1, f"the smallest set with mass {s.sampling.top_p:g} (top-p)"),
            (s.sampling.min_p > 0, f"tokens of at least {s.sampling.min_p:g} × the likeliest (min-p)"),
        )
        if on
    ]
    named = "all tokens" if not kept else "of " + ", then of ".join(kept)
    note = "" if not kept else "; sampler and trainer normalize over the same kept tokens"
    return f"temperature {s.sampling.temperature:g}, {named}{note}"


def reward(s: Settings) -> str:
    r = s.reward
    truncated = "judged like any other" if r.truncated is None else f"always {r.truncated:g}"
    return (
        f"r = {r.correct:g} correct, {r.wrong:g} wrong, {r.unparseable:g} without an answer, {r.timeout:g} when the "
        f"verifier takes over {r.timeout_seconds:g} s; a truncated completion is {truncated}. Answer: "
        f"{_FORMATS[r.answer_format]}; verifier: {_VERIFIERS[r.verifier]}"
        + (_SANDBOXES[r.sandbox] if r.verifier == "program" else "")
    )


def steps(s: Settings) -> str:
    training = s.training
    count = training.epochs * training.mini_batches
    rows = s.data.prompts_per_step * s.data.samples_per_prompt // training.mini_batches
    text = f"epochs {training.epochs} × mini-batches {training.mini_batches} = {count} a rollout, of {rows} completions"
    text += " each"
    if s.algorithm.surrogate == "reinforce" or count > 1:
        return text
    return (
        f"{text}: the policy has not moved since it sampled, so the ratio is 1 (up to rounding) and clipping cannot "
        "bind; more mini-batches or epochs make it matter"
    )


def optimizer(s: Settings) -> str:
    o = s.optimizer
    clip = "no gradient clipping" if o.clip_norm is None else f"gradient norm at most {o.clip_norm:g}"
    warmup = f"{o.warmup_steps} steps of warm-up, then " if o.warmup_steps else ""
    return (
        f"AdamW, learning rate {o.learning_rate:g} ({warmup}{o.schedule}), betas {o.beta1:g} and {o.beta2:g}, epsilon "
        f"{o.epsilon:g}, weight decay {o.weight_decay:g}, {clip}"
    )


def adapter(s: Settings) -> str:
    """Of a config that has one."""
    lora = s.lora
    where = f"the matrices of a layer whose names {lora.targets} matches"
    if lora.targets == ALL_LINEAR:
        where = f"every matrix of a layer but experts and their router ({ALL_LINEAR})"
    root = "√" if lora.rank_stabilized else ""
    return (
        f"y = x W + s · (x A) B with A [in, {lora.rank}], B [{lora.rank}, out] and s = alpha / {root}rank = "
        f"{lora.alpha:g} / {root}{lora.rank} = {lora.scale:g}, beside {where}; only A and B are trained, the model "
        "itself is frozen"
    )
