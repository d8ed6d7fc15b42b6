"""The fuzzer, a few seconds of each target; `python -m tests.fuzz` goes on for as long as there is time.

Each target is known to find something, too: what is spoilt here in a parser is a fault to it.
"""

from __future__ import annotations

import itertools
import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from shimproxy.config import parsers
from shimproxy.net import proxy_header
from shimproxy.smtp import command, mail_data, newlines, reply
from tests.fuzz import regex, steps
from tests.fuzz.__main__ import main
from tests.fuzz.engine import fuzz
from tests.fuzz.target import Case
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from types import ModuleType

    from tests.fuzz.target import Target

pytestmark = [pytest.mark.slow, pytest.mark.once]

INPUTS = 400
MOST_INPUTS = 8000
MODULES = sorted({module for target in TARGETS.values() for module in target.parsers}, key=lambda each: each.__name__)

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


FOUND = {
    "a path that is not UTF-8 was not counted": ("addresses", (b"unix:/\x80", (), False)),
    "blanks in a hello took the cube of them": ("arguments", (b" \r", (0, 1), True)),
    "blanks before the end of a name took the square": ("arguments", (b"a b", (1, 2), True)),
    "a number took the square of its digits": ("values", (b"10x", (1, 2), True)),
    "blanks in a header took the square of them": ("requests", (b"GET / HTTP/1.1\r\nHost: \0", (21, 22), True)),
    "a key with many dots was a traceback": ("settings-file", (b"receiver." + b"a." * 3000 + b"b = 1", (), False)),
    "a large number was a traceback": ("settings-file", (b"receiver = 0x" + b"f" * 4000, (), False)),
    "a line without an object ended the supervisor": ("control-lines", (b"5\n", (), False)),
    "a signature in pieces was none at once": ("commands", (b"\r\nRSET\r\n\r\n\0\r\n", (), False)),
}


@pytest.mark.parametrize(("name", "literal"), FOUND.values(), ids=FOUND)
def test_what_was_found_once_is_a_fault_no_more(name: str, literal: tuple[bytes, tuple[int, ...], bool]) -> None:
    TARGETS[name].hold(Case.parse(repr(literal)), set())


@every_target
def test_no_input_is_a_fault(target: Target) -> None:
    """The same inputs each time: see what is printed for the one that fails."""
    found = fuzz(target, 0, inputs=INPUTS)

    assert found.fault is None, str(found)
    assert found.inputs >= INPUTS


def test_the_same_seed_tries_the_same() -> None:
    first, second = (fuzz(TARGETS["chunks"], 3, inputs=200) for _ in range(2))

    assert first.kept == second.kept
    assert first.places == second.places


# -- it finds what is wrong

_AMBIGUOUS = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|-?inf|nan", re.IGNORECASE).fullmatch
SPOILT: dict[str, tuple[str, ModuleType | type, str, Any]] = {
    "a reply has no usable code": ("replies", reply, "_CODES", {b"%d" % code: code for code in range(200, 552)}),
    "the end of mail data is not seen across blocks": ("mail-data", mail_data.EndOfData, "_find", lambda *_: None),
    "a NUL goes to the receiver": (
        "commands",
        command,
        "_PLAIN",
        re.compile(rb"([A-Za-z0-9-]+)(?:[ \t][^\r\n]*)?\r\n").fullmatch,
    ),
    "a NUL is in a response": (
        "auth-lines",
        command,
        "response_from_line",
        lambda line, _newlines, **_: command.Command(command.Verb.AUTH, line),
    ),
    "nothing is held of a line": ("mail-data", newlines, "_unjudged", lambda _tail, _line_end: b""),
    "a large chunk is taken": ("arguments", command, "LARGEST_CHUNK_OCTETS", 2**32),
    "any checksum is right": ("proxy-headers", proxy_header, "_CRC32C_TYPE", 0xFF),
    "a number takes the square of its digits": ("values", parsers, "_DECIMAL", _AMBIGUOUS),
}


@pytest.mark.parametrize(("name", "where", "what", "spoilt"), SPOILT.values(), ids=SPOILT)
def test_what_is_spoilt_is_found(
    name: str, where: ModuleType | type, what: str, spoilt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an input that is small, and that is no fault once the parser is right again."""
    monkeypatch.setattr(where, what, spoilt)

    found = fuzz(TARGETS[name], 1, inputs=MOST_INPUTS)

    assert found.fault, str(found)
    case, _ = found.fault
    assert len(case.octets) <= 60
    monkeypatch.undo()
    TARGETS[name].hold(Case.parse(str(case)), set())


def test_a_fault_is_printed_and_replayed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(newlines, "_unjudged", lambda _tail, _line_end: b"")
    assert main(["--target", "mail-data", "--seconds", "60"]) == 1
    printed = capsys.readouterr().out
    replay = re.search(r"--replay '(.*)'$", printed, re.MULTILINE)
    assert replay, printed

    with pytest.raises((AssertionError, ValueError)):
        main(["--target", "mail-data", "--replay", replay[1].replace("'\"'\"'", "'")])
    monkeypatch.undo()
    assert main(["--target", "mail-data", "--replay", replay[1].replace("'\"'\"'", "'")]) == 0


# -- its own means


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_counting_machine_matches_what_pythons_does(module: ModuleType) -> None:
    """Each pattern of a parser, against parts of the words and seeds of its targets."""
    chosen = random.Random(0)
    targets = [target for target in TARGETS.values() if module in target.parsers]
    words = [word for target in targets for word in (*target.words, *target.seeds)]
    for name, pattern in regex.patterns(module).items():
        machine = regex.Machine(pattern)
        for _ in range(150):
            octets = b"".join(chosen.choices(words, k=chosen.randint(0, 3)))[:200]
            subject: Any = octets if isinstance(pattern.pattern, bytes) else octets.decode("latin-1")
            for full in (False, True):
                found = pattern.fullmatch(subject) if full else pattern.match(subject)
                end = machine.end(subject, 0, steps.Counter(10**7), full=full)
                assert end == (found.end() if found else None), (name, subject)


def test_copies_and_what_is_tried_again_are_counted() -> None:
    """Twice the input, twice the steps, but for what takes the square of it."""

    def steps_of(octets: bytes) -> tuple[int, int]:
        counter = steps.Counter(10**9)
        with steps.counted(counter):
            rest = steps.Octets(octets).counted_by(counter)
            while rest:
                rest = rest[1:]
        again = steps.Counter(10**9)
        regex.Machine(re.compile(rb"(?:a+)+b")).end(octets[:12], 0, again)
        return counter.steps, again.steps

    sizes = [steps_of(b"a" * size) for size in (4, 8, 12)]
    assert all(second[1] > 4 * first[1] for first, second in itertools.pairwise(sizes))
    copied = [steps_of(b"a" * size)[0] for size in (4000, 8000)]
    assert copied[1] > 3 * copied[0]
