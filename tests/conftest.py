"""Eight fake CPU devices for the whole suite, so that meshes are tested everywhere; compiled cheaply, and never before.

Set before jax starts. Files that take longest come first: the processes that share the suite end together.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
from tests.compilation import CHEAP_FLAGS

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {CHEAP_FLAGS}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    ""  # the user's own programs neither speed a test up nor hide what it compiles
)

# By their time, longest first; pytest-xdist left alone starts with the files of many tests, and ends with these.
LONGEST = (
    "training/test_step.py",
    "test_laws_loss.py",
    "training/test_run.py",
    "training/test_multihost.py",
    "training/test_update.py",
    "planning/test_compiler.py",
    "models/test_parity.py",
    "training/test_knobs.py",
    "test_mutants.py",
    "training/test_critic.py",
    "planning/test_flops.py",
    "planning/test_plan.py",
    "test_startup.py",
)


def pytest_collection_modifyitems(items):
    def place(item) -> int:
        return next(
            (at for at, file in enumerate(LONGEST) if item.path.as_posix().endswith("tests/" + file)), len(LONGEST)
        )

    items.sort(key=place)
