"""From settings to what a run works with. Cheap checks come first; nothing compiles before all of them have passed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxrl_llm import distributed
from jaxrl_llm.algorithm import needs_critic, needs_reference
from jaxrl_llm.data import tokens
from jaxrl_llm.data.prompts import Problem, Problems, first, load_problems
from jaxrl_llm.data.templates import encode_prompts, keep_fitting
from jaxrl_llm.data.tokens import Tokenizer
from jaxrl_llm.models import decoder, hub, lora, prepared, value_head
from jaxrl_llm.models.config import ModelConfig
from jaxrl_llm.models.lora import LoraSettings
from jaxrl_llm.rewards.combine import Judge
from jaxrl_llm.sampling.keys import ADAPTER, step_key
from jaxrl_llm.sharding import make_mesh
from jaxrl_llm.training import balancing
from jaxrl_llm.training.offload import to_host_memory
from jaxrl_llm.training.settings import Settings
from jaxrl_llm.types import Critic, Model, Params, join_policy


@dataclasses.dataclass(frozen=True)
class Session:
    """What sampling, training and evaluation share.

    Attributes:
      source: the folder or file of the checkpoint that ``params`` came from.
      params: as loaded, on the mesh.
      stop_ids: end-of-text tokens of the tokenizer, and those of ``sampling.stop``.
      transposed: of the sampling layout, see :func:`~jaxrl_llm.models.prepared.transposes`.
      apart: of an adapter that sampling computes beside the weights.
      critic: None where the algorithm has none.
      critic_config: of its trunk.
      critic_source: the checkpoint that it starts from; None where it starts from the policy's weights.
      critic_params: of that checkpoint, see :func:`with_critic`.
    """

    mesh: Mesh
    source: Path
    config: ModelConfig
    model: Model
    params: Params
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]
    transposed: bool = False
    apart: LoraSettings | None = None
    critic: Critic | None = None
    critic_config: ModelConfig | None = None
    critic_source: Path | None = None
    critic_params: Params | None = None

    @property
    def configs(self) -> tuple[ModelConfig, ...]:
        """Of the networks that score and learn."""
        return (self.config,) if self.critic_config is None else (self.config, self.critic_config)

    def prepare(self, policy: Params) -> Params:
        """The sampling layout of a policy: compute dtype, whole along fsdp, still split along tensor."""
        apart = self.apart if lora.KEY in policy else None
        placed = prepared.shardings(self.config, self.mesh, apart, transposed=self.transposed)
        return jax.jit(self.model.prepare, out_shardings=placed)(policy)


def open_session(settings: Settings) -> Session:
    """Loads tokenizer and model onto the mesh, and judges a critic's checkpoint without loading it.

    Raises:
      AgreedError: processes have found different checkpoints, or have different devices.
      FileNotFoundError: no checkpoint where ``model.source`` or ``model.critic_source`` says.
      ValueError: a damaged checkpoint; a stop text that is not one token; a context that is too short; a critic's
        checkpoint with another tokenizer; an adapter for matrices that the model does not have.
    """
    of_model = settings.model
    source, of_critic = hub.resolve(of_model.source), None
    if of_model.critic_source is not None:
        of_critic = hub.resolve(of_model.critic_source, key="model.critic_source")
    found = {"model.source": source} | ({} if of_critic is None else {"model.critic_source": of_critic})
    distributed.agree(lambda: {key: hub.fingerprint(path) for key, path in found.items()} | {"devices": _devices()})
    config = hub.load_config(source)
    tokenizer = tokens.load(source)
    check_model(settings, of_model.source, config, tokenizer)
    balancing.check(settings.training.balancing_coefficient, config)
    critic_config = config if of_critic is None else _critic_config(settings, of_critic, tokenizer)
    mesh = make_mesh(settings.mesh)
    options = {"dtype": of_model.dtype, "remat": of_model.remat, "attention": of_model.attention}
    turned = prepared.transposes(config, jnp.dtype(of_model.dtype), mesh)
    # refuses an adapter that the model cannot have
    model = decoder.functions(config, **options, lora=settings.lora, transposed=turned)
    params = hub.load_params(source, config, dtype=of_model.param_dtype, mesh=mesh)
    session = Session(mesh, source, config, model, params, tokenizer, stop_ids(settings, tokenizer), turned)
    if settings.lora.rank is not None and prepared.kept_apart(jnp.dtype(of_model.dtype)):
        session = dataclasses.replace(session, apart=settings.lora)
    if not needs_critic(settings.algorithm):
        return session
    critic = value_head.functions(critic_config, **options)
    return dataclasses.replace(session, critic=critic, critic_config=critic_config, critic_source=of_critic)


def with_critic(session: Session) -> Session:
    """The session with the parameters of a critic that starts from a checkpoint of its own, which only training needs.

    Raises:
      FileNotFoundError, ValueError: the checkpoint is damaged.
    """
    if session.critic is None or session.critic_config is None or session.critic_source is None:
        return session
    loaded = hub.load_params(session.critic_source, session.critic_config, mesh=session.mesh)
    return dataclasses.replace(session, critic_params=session.critic.init(loaded))


def first_policy(settings: Settings, session: Session) -> Params:
    """The policy tree that a run starts from: as loaded, and where one is wanted, with an adapter that changes nothing
    yet, drawn from the run's seed."""
    if settings.lora.rank is None:
        return session.params
    key = step_key(settings.seed, ADAPTER, 0)
    return join_policy(lora.init(session.config, settings.lora, key, session.mesh), session.params)


def reference_policy(settings: Settings, session: Session) -> Params | None:
    """The policy that a run starts from, to be scored beside the one that learns; None where the algorithm reads none.

    An update donates the state, so a copy is kept. With an adapter, the base is frozen and is the reference itself.
    """
    if not needs_reference(settings.algorithm):
        return None
    if settings.lora.rank is not None:
        return session.params
    reference = jax.tree.map(jnp.copy, session.params)
    return to_host_memory(reference) if settings.training.offload_reference else reference


def check_trainable(settings: Settings) -> None:
    """Raises ValueError where an optimizer's steps would be lost in parameters of bfloat16, which have 8 bits."""
    if settings.model.param_dtype != "float32" and settings.lora.rank is None:
        raise ValueError(
            f"model.param_dtype = {settings.model.param_dtype!r} with lora.rank = None: expected float32, or an "
            "adapter, which is float32 itself: steps of training are smaller than what bfloat16 can hold"
        )


def _critic_config(settings: Settings, path: Path, tokenizer: Tokenizer) -> ModelConfig:
    """The architecture of the critic's own checkpoint.

    Raises:
      ValueError: its tokens are not those of the policy's ``tokenizer``, or its context is too short.
    """
    source, config, own = settings.model.critic_source, hub.load_config(path), tokens.load(path)
    assert source is not None
    differing = sorted(dict(tokenizer.vocabulary.items() ^ own.vocabulary.items()))
    if differing:
        raise ValueError(
            f"model.critic_source = {source!r}: {len(differing)} tokens are not there or have another id than in "
            f"model.source = {settings.model.source!r}, {differing[0]!r} first; expected the policy's vocabulary"
        )
    check_model(settings, source, config, own)
    return config


def check_model(settings: Settings, source: str, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raises ValueError where the context or vocabulary of the model from ``source`` is too small for a run."""
    needed = settings.data.max_prompt_tokens + settings.sampling.max_tokens
    if needed > config.max_positions:
        raise ValueError(
            f"data.max_prompt_tokens = {settings.data.max_prompt_tokens} and sampling.max_tokens = "
            f"{settings.sampling.max_tokens} need {needed} positions; "
            f"{source} has {config.max_positions}"
        )
    if tokenizer.vocabulary_size > config.vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has ids up to {tokenizer.vocabulary_size - 1}, "
            f"the model's vocabulary only {config.vocab_size} entries"
        )


def stop_ids(settings: Settings, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a completion, most specific source first.

    Raises:
      ValueError: a stop text is not one token.
    """
    return tuple(dict.fromkeys([*tokenizer.stop_ids, *(tokenizer.token_id(text) for text in settings.sampling.stop)]))


def _devices() -> str:
    """Of this process."""
    return f"{jax.local_device_count()} × {jax.local_devices()[0].device_kind}"


def training_problems(settings: Settings, tokenizer: Tokenizer, judge: Judge) -> tuple[Problems, int]:
    """The problems to train on, and how many were dropped for their length.

    Raises:
      FileNotFoundError, ValueError: as `load_problems`, `keep_fitting` and `Judge.check` say, naming the row.
    """
    data = settings.data
    problems, dropped = keep_fitting(
        load_problems(
            data.source,
            tier=data.tier,
            split=data.split,
            question_key=data.question_key,
            answer_key=data.answer_key,
            source_key=data.source_key,
        ),
        data,
        tokenizer,
    )
    checked = list(problems) if isinstance(problems, list) else first(problems, data.prompts_per_step)
    judge.check([problem.answer for problem in checked], [problem.name for problem in checked])
    return problems, dropped


def evaluation_problems(settings: Settings, tokenizer: Tokenizer, judge: Judge) -> list[Problem]:
    """The first ``evaluation.problems`` rows of the held-out source.

    Raises:
      FileNotFoundError, ValueError: as for :func:`training_problems`; a prompt that is too long is always an error.
    """
    problems = first(
        load_problems(
            settings.evaluation.source,
            tier=settings.evaluation.tier,
            split=settings.evaluation.split,
            question_key=settings.evaluation.question_key,
            answer_key=settings.evaluation.answer_key,
            source_key=settings.evaluation.source_key,
        ),
        settings.evaluation.problems,
    )
    encode_prompts(problems, settings.data, tokenizer)
    judge.check([problem.answer for problem in problems], [problem.name for problem in problems])
    return problems
