"""Real bugs of other libraries as patches of this one, each with the tests that notice it.

    python -m tests.mutants

prints which test kills which. A mutant replaces a function where it is used; a law is a test of the suite, called as
the function it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests import test_laws_loss


class Patch(NamedTuple):
    """``value`` in place of attribute (of a dict: entry) ``name`` of ``holder``."""

    holder: Any
    name: str
    value: Any


class Law(NamedTuple):
    """A test of the suite and what it is called with: arguments, or a function that makes them under the mutant."""

    test: Callable[..., None]
    arguments: tuple[Any, ...] | Callable[[], tuple[Any, ...]] = ()

    @property
    def name(self) -> str:
        return f"{self.test.__module__.removeprefix('tests.')}.{self.test.__name__}"


class Mutant(NamedTuple):
    """A bug.

    Attributes:
      name: what is wrong, as a sentence.
      source: where it was found.
      patches: the wrong functions.
      laws: tests that must fail under it, and pass without it.
    """

    name: str
    source: str
    patches: tuple[Patch, ...]
    laws: tuple[Law, ...]


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The library under a mutant; what laws keep from each other is computed anew under it, and after it."""
    before = []
    test_laws_loss.plain.cache_clear()
    for holder, name, value in mutant.patches:
        is_dict = isinstance(holder, dict)
        before.append((holder, name, holder[name] if is_dict else getattr(holder, name)))
        if is_dict:
            holder[name] = value
        else:
            setattr(holder, name, value)
    try:
        yield
    finally:
        test_laws_loss.plain.cache_clear()
        for holder, name, value in reversed(before):
            if isinstance(holder, dict):
                holder[name] = value
            else:
                setattr(holder, name, value)


def fails(law: Law) -> bool:
    """Whether the test finds something wrong; any other error than its own assertion is one of the mutant."""
    try:
        law.test(*(law.arguments() if callable(law.arguments) else law.arguments))
    except AssertionError:
        return True
    return False
