"""Host memory and speed of loading a checkpoint: a random one in the shape of Qwen3, in a fresh process each time.

On the CPU backend a device's shard lies in the memory of the process, so that what loading takes beside it is the peak
of the resident memory, less that of the process before, less the shards. It is compared with the largest tensor of the
file; the bound is 1.3 times that.

Command: python benchmarks/loading.py [--gb 3] [--gguf Q8_0] [--folder DIR | --source package:NAME/FILE.gguf] [--save]
         (minutes; --save also times writing). The largest tensor counts as bfloat16, whatever the file holds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GB = 10**9
# As Qwen3-1.7B, whose embedding is its largest tensor; the number of layers is chosen by the size that is asked for.
SHAPE = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}


def make(folder: Path, size: float) -> None:
    """Writes a bfloat16 checkpoint of about ``size`` bytes; its numbers are drawn once and used for every layer."""
    import jax
    import jax.numpy as jnp

    from jaxrl_llm.models import weights, writer
    from jaxrl_llm.models.config import from_hf

    def count(layers: int) -> int:
        return 2 * weights.parameter_count(from_hf(SHAPE | {"num_hidden_layers": layers}, "shape"))

    layers = max(1, round(1 + (size - count(1)) / (count(2) - count(1))))
    config = from_hf(SHAPE | {"num_hidden_layers": layers}, "shape")

    def random(weight: weights.Weight) -> jax.Array:
        layer = 0.02 * jax.random.normal(jax.random.key(len(weight.path)), weight.layer_shape, jnp.bfloat16)
        return jnp.broadcast_to(layer, weight.shape)

    writer.save(config, weights.tree(config, random), folder, dtype="bfloat16")


def make_gguf(folder: Path, path: Path, kind: str) -> None:
    """Writes that checkpoint as GGUF, quantized, with a tokenizer's lists as long as a real one's."""
    import gguf
    import numpy as np
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, "qwen3")
    for key, field in (
        ("num_hidden_layers", "block_count"),
        ("hidden_size", "embedding_length"),
        ("intermediate_size", "feed_forward_length"),
        ("num_attention_heads", "head_count"),
        ("num_key_value_heads", "head_count_kv"),
        ("head_dim", "key_length"),
        ("max_position_embeddings", "context_length"),
        ("rms_norm_eps", "layer_norm_rms_eps"),
        ("rope_theta", "rope_freq_base"),
    ):
        getattr(writer, f"add_{field}")(config[key])
    writer.add_token_list([f"w{i}" for i in range(config["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    quantized = gguf.GGMLQuantizationType[kind]
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "flax") as tensors:
            for name in tensors.keys():  # noqa: SIM118  no mapping
                array = np.asarray(tensors.get_tensor(name), np.float32)
                own = names.get_name(name, (".weight",)) or name
                matrix = array.ndim > 1
                stored = gguf.quantize(array, quantized) if matrix else array
                writer.add_tensor(own, stored, raw_dtype=quantized if matrix else None)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def peak() -> float:
    """Largest resident memory of this program so far, in bytes; what getrusage says begins with that of its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * float(line.split()[1])


def load(source: str, devices: int, param_dtype: str, save: bool) -> None:
    """Prints what one process sees, as JSON."""
    import jax
    import jax.numpy as jnp

    from jaxrl_llm.models import hub, weights
    from jaxrl_llm.sharding import MeshSettings, make_mesh

    mesh = None if devices == 1 else make_mesh(MeshSettings(data=1, fsdp=devices, tensor=1, sequence=1))
    jnp.zeros(8).block_until_ready()  # what every process of jax takes
    hub.load("embedded:tiny", mesh=mesh)
    before, begun, worked = peak(), time.perf_counter(), time.process_time()
    policy = hub.load(source, param_dtype=param_dtype, mesh=mesh)
    jax.block_until_ready(policy.params)
    seconds, worked, loaded = time.perf_counter() - begun, time.process_time() - worked, peak()
    leaves = jax.tree.leaves(policy.params)
    shards = sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)
    largest = 2 * max(math.prod(weight.layer_shape) for weight in weights.weight_table(policy.config))
    path = hub.resolve(source)
    files = sum(file.stat().st_size for file in ([path] if path.is_file() else path.glob("*.safetensors")))
    found = {
        "devices": devices,
        "param_dtype": param_dtype,
        "shards_gb": shards / GB,
        "largest_tensor_gb": largest / GB,
        "beside_gb": (loaded - before - shards) / GB,
        "share_of_largest": (loaded - before - shards) / largest,
        "file_gb_per_second": files / GB / seconds,
        "file_gb_per_core_second": files / GB / worked,
    }
    if save:
        from jaxrl_llm import models

        with tempfile.TemporaryDirectory(dir=path.parent if path.is_dir() else None) as to:
            begun = time.perf_counter()
            models.save(policy, to, dtype="bfloat16")
            found["write_gb_per_second"] = files / GB / (time.perf_counter() - begun)
            found["save_beside_gb"] = (peak() - loaded) / GB
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=3, help="of the checkpoint, bfloat16")
    parser.add_argument("--gguf", metavar="KIND", help="load it as a GGUF file whose matrices are Q8_0, Q4_0, F16, ...")
    parser.add_argument("--folder", type=Path, help="where it is made, or already lies; a temporary one without it")
    parser.add_argument("--source", help="another model in its place, as model.source names it")
    parser.add_argument("--save", action="store_true", help="write each loaded model again, too")
    parser.add_argument("--one", nargs=2, metavar=("DEVICES", "DTYPE"), help="load in this process, and nothing else")
    options = parser.parse_args()
    if options.gguf and options.source:
        parser.error("--gguf is of the checkpoint that is made or lies in --folder: none beside --source")
    if options.one:
        return load(options.source, int(options.one[0]), options.one[1], options.save)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "model"
        if not options.source and not (folder / "config.json").is_file():
            make(folder, options.gb * GB)
        source = options.source or str(folder)
        if options.gguf:
            source = str(Path(temporary) / f"{options.gguf}.gguf")
            make_gguf(folder, Path(source), options.gguf)
        for dtype in ("bfloat16", "float32"):
            for devices in (1, 4):
                command = [sys.executable, __file__, "--source", source, "--one", str(devices), dtype]
                flags = f"--xla_force_host_platform_device_count={devices}"
                environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
                subprocess.run(command + ["--save"] * options.save, env=environment, check=True)


if __name__ == "__main__":
    main()
