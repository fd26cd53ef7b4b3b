"""Prints each mutant and the tests that kill it; fails if one survives."""

from __future__ import annotations

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

from tests.mutants import applied, fails
from tests.mutants.table import MUTANTS


def main() -> int:
    survivors = 0
    print("| mutant | found in | killed by |\n| --- | --- | --- |")
    for mutant in MUTANTS:
        with applied(mutant):
            killers = [law.name for law in mutant.laws if fails(law)]
        survivors += len(killers) < len(mutant.laws)
        print(f"| {mutant.name} | {mutant.source} | {', '.join(killers) or 'NOTHING'} |", flush=True)
    print(f"\n{len(MUTANTS) - survivors} of {len(MUTANTS)} mutants are killed by every test that should")
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main())
