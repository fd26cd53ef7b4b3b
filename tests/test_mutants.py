"""The tests of the suite notice the bugs that other libraries shipped."""

from __future__ import annotations

import pytest

from tests.mutants import Law, Mutant, applied, fails
from tests.mutants.table import MUTANTS

LAWS = {(law.name, str(law.arguments)): law for mutant in MUTANTS for law in mutant.laws}


@pytest.mark.parametrize("law", LAWS.values(), ids=[name for name, _ in LAWS])
def test_a_law_holds_without_a_mutant(law: Law):
    assert not fails(law)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed_by_the_laws_that_name_it(mutant: Mutant):
    with applied(mutant):
        survived = [law.name for law in mutant.laws if not fails(law)]
    assert not survived


def test_a_mutant_is_gone_afterwards():
    for mutant in MUTANTS:
        with applied(mutant):
            pass
        for holder, name, value in mutant.patches:
            assert (holder[name] if isinstance(holder, dict) else getattr(holder, name)) is not value
