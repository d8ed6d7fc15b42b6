"""What a parser does, counted: the places that it visits, and the steps that it takes.

A step is a line of Python, what a regular expression tries once (regex.py), or 64 octets that a method of bytes looks
at or copies. So a time that grows with the square of the input shows, on any machine, whatever else that is doing.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import CodeType, FrameType, ModuleType

Place = tuple[str, int, int]
"""A file, and two of its lines that were run one after the other; 0 where a function begins."""


_OCTETS_A_STEP: Final = 64


class TooManySteps(AssertionError):
    """An input costs more than its length allows."""


@attrs.define(eq=False)
class Counter:
    """Of steps."""

    most: int
    steps: int = 0
    octets: int = 0

    def count(self, steps: int) -> None:
        """Count some more. Raises TooManySteps."""
        self.steps += steps
        self._judge()

    def count_octets(self, octets: int) -> None:
        """Count octets that were looked at or copied. Raises TooManySteps."""
        self.octets += octets
        self.steps += self.octets // _OCTETS_A_STEP
        self.octets %= _OCTETS_A_STEP
        self._judge()

    def _judge(self) -> None:
        if self.steps > self.most:
            raise TooManySteps(f"more than {self.most} steps")


@contextlib.contextmanager
def _traced(trace: Callable[[FrameType, str, Any], Any]) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def counted(counter: Counter) -> Iterator[None]:
    """Count the lines of Python that are run. Raises TooManySteps."""
    own = {__file__, __file__.replace("steps.py", "regex.py")}

    def line(_frame: FrameType, event: str, _what: object) -> Any:
        if event == "line":
            counter.count(1)
        return line

    with _traced(lambda frame, _event, _what: None if frame.f_code.co_filename in own else line):
        yield


@contextlib.contextmanager
def placed(modules: Sequence[ModuleType], places: set[Place]) -> Iterator[None]:
    """Note the places of the modules that are visited."""
    files = {module.__file__ for module in modules}

    def call(frame: FrameType, _event: str, _what: object) -> Any:
        file = frame.f_code.co_filename
        if file not in files:
            return None
        before = 0

        def line(frame: FrameType, event: str, _what: object) -> Any:
            nonlocal before
            if event == "line":
                now = frame.f_lineno
                places.add((file, before, now))
                before = now
            return line

        return line

    with _traced(call):
        yield


def lines_of(modules: Sequence[ModuleType]) -> set[tuple[str, int]]:
    """The lines of all functions, as (file, line)."""
    found: set[tuple[str, int]] = set()
    for module in modules:
        assert module.__file__
        with open(module.__file__, encoding="utf-8") as source:
            _add_lines(compile(source.read(), module.__file__, "exec", dont_inherit=True), found, is_function=False)
    return found


def _add_lines(code: CodeType, found: set[tuple[str, int]], *, is_function: bool) -> None:
    if is_function:
        own = {line for _, _, line in code.co_lines() if line}
        found |= {(code.co_filename, line) for line in own if line != code.co_firstlineno or len(own) == 1}
    for each in code.co_consts:
        if hasattr(each, "co_lines"):
            # A class body has no locals of its own kind, and is run once, when the module is imported.
            _add_lines(each, found, is_function=bool(each.co_flags & 0x2))


class Octets(bytes):
    """Octets that count how many of them are looked at or copied."""

    _counter: Counter

    def counted_by(self, counter: Counter) -> Self:
        """The same, with a counter."""
        self._counter = counter
        return self

    def _of(self, octets: bytes) -> Octets:
        self._counter.count_octets(len(octets))
        return Octets(octets).counted_by(self._counter)

    def __add__(self, other: Any) -> Octets:
        return self._of(bytes(self) + other)

    def __radd__(self, other: Any) -> Octets:
        return self._of(other + bytes(self))

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return self._of(found) if isinstance(found, bytes) else found

    def find(self, sub: Any, start: Any = 0, stop: Any = None, /) -> int:
        stop = len(self) if stop is None else stop
        found = super().find(sub, start, stop)
        self._counter.count_octets(max(0, (stop if found < 0 else found) - start))
        return found

    def rfind(self, sub: Any, start: Any = 0, stop: Any = None, /) -> int:
        stop = len(self) if stop is None else stop
        found = super().rfind(sub, start, stop)
        self._counter.count_octets(max(0, stop - max(found, start)))
        return found


def _counting(name: str) -> Callable[..., Any]:
    plain = getattr(bytes, name)

    def method(self: Octets, *arguments: Any, **more: Any) -> Any:
        found = plain(self, *arguments, **more)
        self._counter.count_octets(len(self))
        if isinstance(found, bytes):
            return Octets(found).counted_by(self._counter)
        if isinstance(found, list | tuple):
            return type(found)(Octets(each).counted_by(self._counter) for each in found)
        return found

    return method


_WHOLE: Final = (
    *("split", "rsplit", "splitlines", "partition", "rpartition", "replace", "translate", "strip", "lstrip", "rstrip"),
    *("upper", "lower", "isspace", "isdigit", "removeprefix", "removesuffix", "count", "index", "rindex"),
    *("decode", "hex"),
)
"""Methods that look at all octets, or may."""
for _name in _WHOLE:
    setattr(Octets, _name, _counting(_name))
