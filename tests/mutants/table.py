"""All mutants."""

from tests.mutants import Mutant, advantages, losses, sampling

MUTANTS: tuple[Mutant, ...] = (*losses.MUTANTS, *advantages.MUTANTS, *sampling.MUTANTS)
