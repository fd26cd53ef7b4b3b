"""A look at what losses do, token by token, on saved completions: for trying an idea as a function before a run."""

from collections.abc import Mapping
from pathlib import Path

from jaxrl_llm.microscope.compare import Comparison, Recipe, compare, load_recipe, table
from jaxrl_llm.microscope.figure import draw
from jaxrl_llm.microscope.parameters import of_run
from jaxrl_llm.training.rollouts import load

__all__ = ["Comparison", "Recipe", "compare", "compare_folder", "draw", "load_recipe", "table"]


def compare_folder(recipes: Mapping[str, Recipe], folder: str | Path, *, parameters: bool = False) -> Comparison:
    """:func:`compare` on all rollouts of a run.

    Args:
      folder: ``rollouts`` in the folder of a run.
      parameters: gradients by the parameters of the run's last checkpoint, and at that policy.

    Raises:
      FileNotFoundError: the folder holds no rollout, or the run no checkpoint.
      ValueError: as :func:`compare` and :func:`jaxrl_llm.training.rollouts.load` say.
    """
    folder = Path(folder)
    rollouts = [load(path) for path in sorted(folder.glob("step_*.npz"))]
    if not rollouts:
        raise FileNotFoundError(f"{folder} holds no step_*.npz: train with --config.log.rollouts_every=N")
    if not parameters:
        return compare(recipes, rollouts)
    moved, pull_back = of_run(folder.resolve().parent, rollouts, recipes=len(recipes))
    return compare(recipes, moved, pull_back=pull_back)
