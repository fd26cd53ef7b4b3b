"""Eight fake CPU devices for the whole suite, so that meshes are tested everywhere, and nothing compiled before.

Set before jax starts.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    ""  # the user's own programs neither speed a test up nor hide what it compiles
)
