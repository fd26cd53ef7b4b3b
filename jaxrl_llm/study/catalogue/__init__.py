"""The catalogue: every technique of the study and every knob of the core as a trick."""

from jaxrl_llm.study.catalogue import distance, losses, normalization, recipes, shaping
from jaxrl_llm.study.catalogue.record import Share, Trick

__all__ = ["CATALOGUE", "FAMILIES", "Share", "Trick"]

FAMILIES: dict[str, tuple[Trick, ...]] = {
    "Advantages": normalization.TRICKS,
    "Policy loss": losses.TRICKS,
    "Rewards, filters, sampling": shaping.TRICKS,
    "KL, entropy, gap": distance.TRICKS,
    "Recipes": recipes.TRICKS,
}


def _by_name() -> dict[str, Trick]:
    table: dict[str, Trick] = {}
    for trick in (trick for family in FAMILIES.values() for trick in family):
        if table.setdefault(trick.name, trick) is not trick:
            raise ValueError(f"two tricks have the name {trick.name}: expected one")
    return table


CATALOGUE = _by_name()
