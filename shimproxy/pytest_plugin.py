"""pytest fixtures of shimproxy: nothing of it, and no trio, is imported before a test uses one.

What a fixture has started ends with the test, whatever that does: no thread and no socket is left. An error in
shimproxy's thread is an error of the test.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shimproxy import Misbehaving, Running

_Arguments = ParamSpec("_Arguments")
_Entered = TypeVar("_Entered")


@pytest.fixture(name="shimproxy")
def _shimproxy() -> Iterator[Callable[..., Running]]:
    """Run shimproxy in a thread: a function that takes what `shimproxy.running` takes and returns what that gives.

    It may be called several times in a test.
    """
    from shimproxy import running

    with contextlib.ExitStack() as stack:
        yield _entering(stack, running)


@pytest.fixture
def misbehaving_receiver() -> Iterator[Callable[..., Misbehaving]]:
    """Run a faulty receiver: a function that takes what `shimproxy.misbehaving` takes and returns what that gives.

    It may be called several times in a test.
    """
    from shimproxy import misbehaving

    with contextlib.ExitStack() as stack:
        yield _entering(stack, misbehaving)


def _entering(
    stack: contextlib.ExitStack, make: Callable[_Arguments, contextlib.AbstractContextManager[_Entered]]
) -> Callable[_Arguments, _Entered]:
    """A function that makes a context manager and enters it; it is left with the stack."""

    def enter(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Entered:
        return stack.enter_context(make(*arguments, **named))

    return enter
