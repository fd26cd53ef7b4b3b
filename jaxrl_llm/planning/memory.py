"""Bytes that one device holds, by formula."""

from __future__ import annotations

import math

from jax.sharding import AbstractMesh, PartitionSpec

from jaxrl_llm.models import weights
from jaxrl_llm.models.lora import adapter_table
from jaxrl_llm.planning.work import FLOAT, Work
from jaxrl_llm.sharding import spec


def _ways(partition: PartitionSpec, mesh: dict[str, int]) -> int:
    return math.prod(mesh[axis] for axis in partition if isinstance(axis, str))


def _split_size(work: Work, axes: tuple[str, ...], shape: tuple[int, ...], *, whole: tuple[str, ...] = ()) -> float:
    """Numbers of an array on one device."""
    mesh = AbstractMesh(tuple(work.mesh.values()), tuple(work.mesh))
    return math.prod(shape) / _ways(spec(axes, shape, mesh, whole=whole), work.mesh)


def _weight_numbers(work: Work) -> float:
    """Weights of the model on one device."""
    return sum(_split_size(work, weight.axes, weight.shape) for weight in weights.weight_table(work.config))


def _adapter_numbers(work: Work, whole: tuple[str, ...] = ()) -> float:
    """Parameters of the adapter on one device."""
    table = () if work.lora is None else adapter_table(work.config, work.lora)
    return sum(
        _split_size(work, of.axes[factor], of.shapes[factor], whole=whole) for of in table for factor in of.shapes
    )


def base_bytes(work: Work) -> float:
    """Weights of the model on one device, trained or frozen; a reference policy has as many."""
    return work.parameter * _weight_numbers(work)


def parameter_bytes(work: Work) -> float:
    """Parameters of the policy on one device: its weights, and its adapter in float32."""
    return base_bytes(work) + FLOAT * _adapter_numbers(work)


def trained_bytes(work: Work) -> float:
    """Parameters on one device that the optimizer trains; gradients are as large."""
    return base_bytes(work) if work.lora is None else FLOAT * _adapter_numbers(work)


def moment_bytes(work: Work) -> float:
    """One of Adam's two moments on one device."""
    return work.moment * (_weight_numbers(work) if work.lora is None else _adapter_numbers(work))


def sampling_bytes(work: Work) -> float:
    """The sampling layout on one device: compute dtype, whole along fsdp, with a head of its own, and with the adapter
    that is not merged."""
    table = weights.weight_table(work.config)
    total = work.number * _adapter_numbers(work, whole=("fsdp",)) if work.apart else 0.0
    for weight in table:
        size = _split_size(work, weight.axes, weight.shape, whole=("fsdp",))
        total += size * (work.parameter if weight.of_norm else work.number)
        if weight.path[0] == "embed" and work.config.tied:
            total += size * work.number
    return total


def held_parameters(work: Work, program: str) -> float:
    """Parameters on one device while a program runs: the reference may lie on the hosts where it is not read, and is
    the frozen base where there is an adapter."""
    reads = program == "score" or (program == "update" and work.exact_kl)
    reference = work.reference and work.lora is None and (reads or not work.offload_reference)
    layout = sampling_bytes(work) if program == "rollout" else 0.0
    return parameter_bytes(work) + reference * base_bytes(work) + layout


def _token_bytes_of_cache(work: Work) -> float:
    c, tensor = work.config, work.mesh["tensor"]
    heads = c.kv_heads / tensor if c.kv_heads % tensor == 0 else c.kv_heads
    return 2 * c.layers * heads * c.head_size * work.number


def cache_bytes(work: Work, width: int | None = None) -> float:
    """Keys and values on one device: of its prompts (once a group), and of ``width`` completion tokens of its rows."""
    prompts, rows = work.sampled
    positions = prompts * work.prompt_width + rows * (work.width if width is None else width)
    return positions * _token_bytes_of_cache(work)


def tokens_on_device(work: Work, program: str) -> float:
    """Columns of a pass on one device."""
    passes = work.passes(program)
    return passes.rows / work.row_ways * passes.width / work.mesh["sequence"]


def layer_numbers(work: Work) -> float:
    """Numbers that the products of one layer make of a token, on one device, without the scores of attention."""
    c = work.config
    split = (2 * c.heads + 2 * c.kv_heads) * c.head_size + c.mlp_matrices * c.active_mlp_width
    return split / work.mesh["tensor"] + 4 * c.width


def score_numbers(work: Work, program: str) -> float:
    """Scores of attention that one layer holds of a pass, on one device; kernels hold none."""
    if work.attention != "xla":
        return 0.0
    passes = work.passes(program)
    ways = work.row_ways * work.mesh["tensor"] * work.mesh["sequence"]
    prompt, lane = passes.packing.prompt, passes.lane
    pairs = prompt * (prompt + 1) / 2 + passes.packing.lanes * lane * (prompt + (lane + 1) / 2)
    return passes.rows * work.config.heads * pairs / ways


def _gathered(work: Work) -> float:
    """One layer's weights whole along fsdp in the compute dtype."""
    c = work.config
    matrices = 2 * c.width * (c.heads + c.kv_heads) * c.head_size
    matrices += c.mlp_matrices * c.width * c.mlp_width * max(1, c.experts)
    return matrices / work.mesh["tensor"] * work.number


def _head(work: Work, size: int) -> float:
    """The output head whole along fsdp, in numbers of ``size`` bytes."""
    return work.config.width * work.config.vocab_size / work.mesh["tensor"] * size


def gradient_bytes(work: Work) -> float:
    """Gradients of a step while a pass computes its own: the sum is there too where there are several."""
    return trained_bytes(work) * (1 if work.update.count == 1 else 2)


def activation_bytes(work: Work, program: str) -> float:
    """An estimate of everything else that a program holds at its peak: activations, gradients, gathered weights.

    What XLA fuses and reuses is not modelled; where a topology can be compiled for, its own figure is taken.
    """
    c, tensor = work.config, work.mesh["tensor"]
    if program == "rollout":
        prompts, rows = work.sampled
        of_token = layer_numbers(work) * work.number + c.heads / tensor * work.prompt_width * (FLOAT + work.number)
        logits = rows * c.vocab_size / tensor * FLOAT * 2
        return max(prompts * work.prompt_width * of_token, logits)
    if program == "apply":
        on_the_way = 4 * moment_bytes(work) if work.offload else 0.0  # moments, the old beside the new
        return trained_bytes(work) + on_the_way  # the gradients
    tokens, chunks = tokens_on_device(work, program), work.chunks(program)
    logits = work.passes(program).rows / work.row_ways * chunks.columns * chunks.entries / tensor * FLOAT
    residual = tokens * c.width * work.number
    layer = tokens * layer_numbers(work) * work.number + score_numbers(work, program) * (FLOAT + work.number)
    if program == "score":
        return residual + max(layer + _gathered(work), 2 * logits + _head(work, work.number))
    projected = residual + tokens * ((c.heads + 2 * c.kv_heads) * c.head_size / tensor + c.width) * work.number
    saved = {
        "none": layer,
        "layer": residual,
        "mlp": projected,
        "dots": projected + tokens * ((c.mlp_matrices - 1) * c.active_mlp_width / tensor + c.width) * work.number,
    }[work.remat]
    of_layer = (1 if work.remat == "none" else 2) * layer + 2 * _gathered(work)
    of_logits = (2 + chunks.count * chunks.kept) * logits + _head(work, work.number + FLOAT)
    return gradient_bytes(work) + c.layers * saved + max(of_layer, of_logits)
