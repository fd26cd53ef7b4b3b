"""Who may import whom: the layers of the package, the third-party packages, and that each of these is declared."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jaxrl_llm"

CORE = {"types", "core"}
ALGORITHM = CORE | {"knobs", "algorithm", "sharding", "sampling"}
EVERYTHING_BELOW_TRAINING = ALGORITHM | {"models", "data", "rewards"}
TRAINING = EVERYTHING_BELOW_TRAINING | {"environment", "distributed", "training", "evaluation"}
CONFIG = TRAINING | {"schema", "config"}

# Layer -> layers it may import. A module belongs to the longest name that fits it.
LAYERS: dict[str, set[str]] = {
    "": set(),
    "types": set(),
    "schema": set(),
    "environment": set(),
    "core": CORE,
    "knobs": {"knob_rules"},
    "knob_rules": {"knobs"},
    "techniques": {"knobs", "knob_rules", "techniques"},
    "algorithm": CORE | {"knobs", "algorithm"},
    "sharding": CORE,
    "sampling": CORE | {"sharding", "sampling"},
    "distributed": set(),
    "models": CORE | {"environment", "sharding", "models"},
    "data": {"data", "rewards.gold"},
    "rewards": {"environment", "rewards"},
    "evaluation.metrics": set(),
    "training": TRAINING,
    "evaluation": TRAINING,
    "config": CONFIG,
    "explain_run": TRAINING,
    "explain": TRAINING | {"explain_run", "techniques"},
    "diff": CONFIG | {"explain"},
    "report": CONFIG | {"techniques", "explain", "report"},
    "microscope": CONFIG | {"report", "microscope"},
    "planning": CONFIG | {"planning"},
    "study": CONFIG | {"techniques", "explain", "report", "microscope.statistics", "planning.models", "study"},
    "cli_study": {"distributed", "training.log", "study"},
    "cli_tiers": {"schema", "config", "data", "rewards"},
    "cli_arguments": {"cli_study"},
    "cli_unread": {"training.settings"},
    "cli": CONFIG
    | {
        "cli_arguments",
        "cli_study",
        "cli_tiers",
        "cli_unread",
        "study",
        "explain",
        "diff",
        "report",
        "microscope",
        "planning",
    },
}

WITHOUT_JAX = (
    "schema",
    "environment",
    "knobs",
    "techniques",
    "data",
    "rewards",
    "evaluation.metrics",
    "config",
    "explain_run",
    "explain",
    "diff",
    "report",
    "study.records",
    "study.tricks",
    "study.catalogue",
    "study.arms",
    "study.plan",
    "study.statistics",
    "study.summary",
    "study.budget",
    "study.code",
    "study.claims",
    "study.queue",
    "study.workers",
    "study.paper",
    "study.takeaways",
    "study.rules",
    "study.advise",
    "cli_study",
    "cli_tiers",
)

# Third-party package -> the only modules that may import it.
FENCES: dict[str, tuple[str, ...]] = {
    "flax": ("models",),
    "safetensors": ("models",),
    "huggingface_hub": ("models.hub",),
    "gguf": ("models.gguf", "data.tokens"),
    "datasets": ("data.prompts",),
    "tokenizers": ("data.tokens",),
    "jinja2": ("data.tokens",),
    "math_verify": ("rewards.equivalence",),
    "optax": ("training.optimizer", "training.step", "training.update", "training.pretrain", "planning.programs"),
    "orbax": ("training.checkpoint",),
    "tensorboardX": ("training.log",),
    "torch": ("models.certificate",),
    "transformers": ("models.certificate",),
    "peft": ("models.certificate",),
    "ml_collections": ("config", "study"),
    "scipy": ("study.statistics",),
    "matplotlib": ("report", "microscope", "study.figures"),
}
JAX_AND_NUMPY = {"jax", "numpy"}

SLOW_TO_IMPORT = {
    "torch",
    "transformers",
    "datasets",
    "math_verify",
    "matplotlib",
    "gguf",
    "huggingface_hub",
    "tensorboardX",
    "jinja2",
}


@functools.cache
def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names of every module that a file imports, inside functions too unless ``top_level``."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module(path: Path) -> str:
    """The dotted name inside the package: "core.masks", "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def belongs(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def layer_of(name: str) -> str:
    fitting = [layer for layer in LAYERS if belongs(name, layer) or layer == ""]
    return max(fitting, key=len)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_module_imports_only_layers_below_its_own(path):
    allowed = LAYERS[layer_of(module(path))]
    assert layer_of(module(path)) or path.name == "__init__.py", f"{path.name} has no layer in this table"
    for name in imports(path):
        if name.split(".")[0] != "jaxrl_llm":
            continue
        imported = name.partition(".")[2]
        assert any(belongs(imported, layer) for layer in allowed), f"{module(path)} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_third_party_package_is_imported_only_behind_its_fence(path):
    for root in {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"jaxrl_llm"}:
        if root in FENCES:
            assert any(belongs(module(path), place) for place in FENCES[root]), f"{module(path)} imports {root}"
        else:
            assert root in JAX_AND_NUMPY, f"{module(path)} imports {root}, which no fence knows"
        jax_is_foreign = any(belongs(module(path), layer) for layer in WITHOUT_JAX)
        assert not (root == "jax" and jax_is_foreign), f"{module(path)} imports jax"


def test_core_and_sampling_know_arrays_only():
    for path in FILES:
        if any(belongs(module(path), layer) for layer in ("types", "core", "algorithm", "sampling")):
            foreign = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
            assert foreign <= {"jax", "jaxrl_llm"}, module(path)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_slow_packages_are_imported_where_they_are_used_and_not_at_start_up(path):
    roots = {name.split(".")[0] for name in imports(path, top_level=True)}
    assert not roots & SLOW_TO_IMPORT


def test_every_fence_stands_around_something():
    used = {name.split(".")[0] for path in FILES for name in imports(path)}
    assert set(FENCES) <= used
    assert {layer_of(module(path)) for path in FILES} == set(LAYERS)


def declared(group: str | None = None) -> set[str]:
    """Import names of the packages that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["dependencies"] if group is None else project["optional-dependencies"][group]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in listed}
    return {{"orbax-checkpoint": "orbax"}.get(name, name.replace("-", "_")) for name in names}


def test_every_package_that_is_imported_is_a_dependency_and_the_reverse():
    used = {name.split(".")[0] for path in FILES for name in imports(path)} - set(sys.stdlib_module_names)
    assert used - {"jaxrl_llm"} == declared() | declared("gguf") | declared("parity")


def test_every_package_that_the_tests_import_is_declared():
    used = {name.split(".")[0] for path in (ROOT / "tests").rglob("*.py") for name in imports(path)}
    extras = declared("gguf") | declared("dev") | declared("parity") | {"ml_dtypes"}  # the last is a part of jax
    assert used - set(sys.stdlib_module_names) <= declared() | extras | {"jaxrl_llm", "tests", "configs"}
