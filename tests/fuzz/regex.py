"""Regular expressions, with their steps counted: what Python's own engine tries, tried one by one.

The patterns that a module has compiled are replaced, while it is counted, by ones that are first run here: by a machine
that goes back where it has to, as Python's engine does, and without what that does to be faster.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from tests.fuzz.steps import Counter

_PARSER: Final = importlib.import_module("re._parser")
_METHODS: Final = ("match", "fullmatch", "search", "sub", "subn", "findall", "finditer", "split")
_CATEGORIES: Final = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


@attrs.define(eq=False)
class Machine:
    """A pattern as instructions: ("one", test), ("split", first, second), ("jump", to), ("look", ...),
    ("atomic", part without a way back), ("at", where).

    Raises NotImplementedError for what no pattern of the product has.
    """

    pattern: re.Pattern[Any]
    _program: list[tuple[Any, ...]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._emit(_PARSER.parse(self.pattern.pattern, self.pattern.flags), self.pattern.flags)

    # -- compiled

    def _emit(self, nodes: Any, flags: int) -> None:
        for what, value in nodes:
            match str(what):
                case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
                    self._program.append(("one", self._test(str(what), value, flags)))
                case "BRANCH":
                    self._emit_branch(value[1], flags)
                case "SUBPATTERN":
                    self._emit(value[3], (flags | value[1]) & ~value[2])
                case "MAX_REPEAT" | "MIN_REPEAT":
                    least, most, inner = value
                    self._emit_repeat(least, most, inner, flags, greedy=str(what) == "MAX_REPEAT")
                case "POSSESSIVE_REPEAT":
                    least, most, repeated = value
                    part = self._part()
                    part._emit_repeat(least, most, repeated, flags, greedy=True)
                    self._program.append(("atomic", part))
                case "ASSERT" | "ASSERT_NOT":
                    self._emit_look(value[0], value[1], flags, wanted=str(what) == "ASSERT")
                case "AT":
                    self._program.append(("at", str(value)))
                case other:
                    raise NotImplementedError(other)

    def _emit_branch(self, choices: Sequence[Any], flags: int) -> None:
        jumps = []
        for choice in choices[:-1]:
            split = self._reserve()
            self._emit(choice, flags)
            jumps.append(self._reserve())
            self._program[split] = ("split", split + 1, len(self._program))
        self._emit(choices[-1], flags)
        for jump in jumps:
            self._program[jump] = ("jump", len(self._program))

    def _emit_repeat(self, least: int, most: int, nodes: Any, flags: int, *, greedy: bool) -> None:
        if nodes.getwidth()[0] == 0 and most == _PARSER.MAXREPEAT:
            raise NotImplementedError("repetition of what may be empty")
        for _ in range(least):
            self._emit(nodes, flags)
        splits = []
        if most == _PARSER.MAXREPEAT:
            splits.append(self._reserve())
            self._emit(nodes, flags)
            self._program.append(("jump", splits[0]))
        else:
            for _ in range(most - least):
                splits.append(self._reserve())
                self._emit(nodes, flags)
        for split in splits:
            into, past = split + 1, len(self._program)
            self._program[split] = ("split", into, past) if greedy else ("split", past, into)

    def _emit_look(self, direction: int, nodes: Any, flags: int, *, wanted: bool) -> None:
        inner = self._part()
        inner._emit(nodes, flags)
        self._program.append(("look", inner, nodes.getwidth()[0] if direction < 0 else 0, wanted))

    def _part(self) -> Machine:
        """A machine for a part of the pattern, with no instructions yet."""
        inner = Machine.__new__(Machine)
        inner.pattern, inner._program = self.pattern, []
        return inner

    def _reserve(self) -> int:
        self._program.append(())
        return len(self._program) - 1

    def _test(self, what: str, value: Any, flags: int) -> Callable[[int], bool]:
        """Whether one octet or character is that."""
        parts = value if what == "IN" else [(what, value)]
        is_text = isinstance(self.pattern.pattern, str)
        known: dict[int, bool] = {}

        def is_one(code: int) -> bool:
            for part, inside in parts:
                match str(part):
                    case "LITERAL" if code == inside:
                        return True
                    case "NOT_LITERAL" if code != inside:
                        return True
                    case "RANGE" if inside[0] <= code <= inside[1]:
                        return True
                    case "ANY" if flags & re.DOTALL or code != ord("\n"):
                        return True
                    case "CATEGORY":
                        category = _CATEGORIES[str(inside)]
                        if is_text and re.match(category, chr(code), flags & re.ASCII):
                            return True
                        if not is_text and re.match(category.encode(), bytes([code])):
                            return True
            return False

        negated = what == "IN" and str(parts[0][0]) == "NEGATE"

        def test(code: int) -> bool:
            if code not in known:
                cases = {code}
                if flags & re.IGNORECASE and (is_text or code < 128):
                    cases |= {ord(chr(code).lower()[0]), ord(chr(code).upper()[0])}
                known[code] = any(map(is_one, cases)) is not negated
            return known[code]

        return test

    # -- run

    def end(self, subject: Any, start: int, counter: Counter, *, full: bool = False) -> int | None:
        """Where a match that begins at `start` ends, None if there is none."""
        return self._end(_codes(subject), start, counter, full=full)

    def _end(self, codes: Any, start: int, counter: Counter, *, full: bool = False) -> int | None:
        program, size, steps = self._program, len(codes), 0
        stack = [(0, start)]
        while stack:
            at, place = stack.pop()
            while True:
                steps += 1
                if not steps % 64:
                    counter.count(64)
                if at == len(program):
                    if full and place != size:
                        break
                    counter.count(steps % 64)
                    return place
                instruction = program[at]
                kind = instruction[0]
                if kind == "one":
                    if place == size or not instruction[1](codes[place]):
                        break
                    place += 1
                    at += 1
                elif kind == "split":
                    stack.append((instruction[2], place))
                    at = instruction[1]
                elif kind == "jump":
                    at = instruction[1]
                elif kind == "atomic":
                    end = instruction[1]._end(codes, place, counter)
                    if end is None:
                        break
                    place = end
                    at += 1
                elif kind == "look":
                    _, inner, width, wanted = instruction
                    found = place >= width and inner._end(codes, place - width, counter) is not None
                    if found is not wanted:
                        break
                    at += 1
                else:
                    if not self._is_at(instruction[1], codes, place):
                        break
                    at += 1
        counter.count(steps % 64)
        return None

    @staticmethod
    def _is_at(where: str, codes: Any, place: int) -> bool:
        match where:
            case "AT_BEGINNING" | "AT_BEGINNING_STRING":
                return place == 0
            case "AT_END_STRING":
                return place == len(codes)
            case "AT_END":
                return place == len(codes) or (place == len(codes) - 1 and codes[place] == ord("\n"))
            case other:
                raise NotImplementedError(other)

    def count(self, method: str, subject: Any, counter: Counter) -> None:
        """Count what that method of the pattern costs for a subject. Raises TooManySteps."""
        if method in ("match", "fullmatch"):
            self.end(subject, 0, counter, full=method == "fullmatch")
            return
        codes, start = _codes(subject), 0
        while start <= len(codes):
            end = self._end(codes, start, counter)
            if end is not None and method == "search":
                return
            start = start + 1 if end is None else max(end, start + 1)


@attrs.define(eq=False)
class _Pattern:
    """A compiled pattern that counts."""

    plain: re.Pattern[Any]
    _counter: Counter

    def method(self, name: str) -> Callable[..., Any]:
        plain = getattr(self.plain, name)

        def method(*arguments: Any, **more: Any) -> Any:
            machine = _machine(self.plain)
            subject = arguments[1] if name in ("sub", "subn") else arguments[0]
            machine.count(name, subject, self._counter)
            return plain(*arguments, **more)

        return method

    def __getattr__(self, name: str) -> Any:
        return self.method(name) if name in _METHODS else getattr(self.plain, name)


_machine = functools.cache(Machine)


def _codes(subject: Any) -> Sequence[int]:
    return [*map(ord, subject)] if isinstance(subject, str) else bytes(subject)


def patterns(module: ModuleType) -> dict[str, re.Pattern[Any]]:
    """What a module has compiled, by the name of it or of its method."""
    found = {}
    for name, value in vars(module).items():
        pattern = getattr(value, "__self__", value)
        if isinstance(pattern, re.Pattern):
            found[name] = pattern
    return found


@contextlib.contextmanager
def counted(modules: Sequence[ModuleType], counter: Counter) -> Iterator[None]:
    """Have the patterns of the modules count their steps; what functions of theirs have cached is forgotten."""
    before = [(module, name, getattr(module, name)) for module in modules for name in patterns(module)]
    for module, name, value in before:
        pattern = _Pattern(getattr(value, "__self__", value), counter)
        _machine(pattern.plain)  # so that making it is not counted
        setattr(module, name, pattern if isinstance(value, re.Pattern) else pattern.method(value.__name__))
    _forget(modules)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        _forget(modules)


def _forget(modules: Sequence[ModuleType]) -> None:
    for module in modules:
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
