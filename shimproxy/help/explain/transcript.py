"""Transcripts: dialogues written by hand, which a real session plays in memory.

They stand in `shimproxy/transcripts/*.txt`. The tests play each one whole and in pieces, and `shimproxy explain` draws
them. A line begins with who and which way:

    S> text     the sender sends the line, and CRLF; \\r \\n \\0 \\xNN are escapes; a final \\ means: no CRLF
    S< text     the sender has got exactly this line next
    R> text     the receiver sends; R< text: it has got
    S> [FIN]    also [RST]; S< [FIN], S< [RST]: what shimproxy did; S< [nothing]: nothing more has come
    S> [x * N]  N times "x" and CRLF; R< [x * N] likewise
    S> [takes nothing]         the peer reads no more; [acknowledges nothing]: its host is silent, too
    redialled   shimproxy has opened another connection to the receiver: R is that one from here on
    wait N      N seconds pass
    repairs: a, b    the repairs so far, by name, in any order
    ended: who/phase the session is over and its record says so
    #           a comment; the first one says what the dialogue shows
    # with NAME = VALUE    a decision of the operator, named as in `Policy` or `Limits`, or `max_size`, `hide`,
                           `rewrite`, `observe`, `login`, `trusted`, `destinations` or `loop`
    # with NAME   that switch of the policy is on; # without NAME: it is off
    # in one piece    what a peer says at once comes at once: cut elsewhere, it would be another dialogue
    # unreachable    no connection to the receiver comes about
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import attrs
import trio
import trio.testing

from shimproxy.help.explain.stage import LoopOfOne, Stage
from shimproxy.net.errors import TlsFailed
from shimproxy.session.connection_origin import OriginPolicy
from shimproxy.session.limits import Limits
from shimproxy.session.policy import EarlyTalk, Login, Policy, ReceiverTls, Repairs, SenderTls, Sizes
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.ehlo import Hidden, HiddenKeyword
from shimproxy.smtp.newlines import Newlines
from shimproxy.smtp.rewrite import Rewrite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.resources.abc import Traversable

    from shimproxy.help.explain.stage import MemorySocket
    from shimproxy.net.leg import Leg
    from shimproxy.net.tls import ReceiverSecurity

    Pieces = Callable[[bytes], Sequence[bytes]]

_Result = TypeVar("_Result")
FOLDER: Final = resources.files("shimproxy").joinpath("transcripts")
_SWITCHES: Final = {"with": "true", "without": "false"}
_VALUES: Final[dict[str, Callable[[str], object]]] = {
    "early_talk": EarlyTalk,
    "newlines": Newlines,
    "repairs": Repairs,
    "receiver_tls": ReceiverTls,
    "sender_tls": SenderTls,
}
_LIMITS: Final = frozenset(attrs.fields_dict(Limits))


class NotAsWritten(AssertionError):
    """A dialogue went another way than its transcript says; the text names the line and what came instead."""


@attrs.frozen
class Transcript:
    """One written dialogue."""

    name: str
    lines: tuple[str, ...]

    @classmethod
    def named(cls, name: str) -> Transcript:
        """The one of that name in the package. Raises FileNotFoundError."""
        return cls.read(FOLDER.joinpath(f"{name}.txt"))

    @classmethod
    def all(cls) -> list[Transcript]:
        """Those that the package has, by name."""
        files = [file for file in FOLDER.iterdir() if file.name.endswith(".txt")]
        return [cls.read(file) for file in sorted(files, key=lambda file: file.name)]

    @classmethod
    def read(cls, file: Traversable) -> Transcript:
        """The one in that file."""
        return cls(file.name.removesuffix(".txt"), tuple(file.read_text(encoding="utf-8").splitlines()))

    @property
    def caption(self) -> str:
        """What it shows, in a sentence or two: its first comment."""
        return self.lines[0].removeprefix("#").strip()

    @property
    def in_one_piece(self) -> bool:
        """Whether it depends on how what the peers say is cut."""
        return "# in one piece" in self.lines

    @property
    def fed(self) -> list[bytes]:
        """What the peers say in it, a line each."""
        return [line_octets(line[3:]) for line in self.lines if line[1:3] == "> "]

    @property
    def given(self) -> dict[str, str]:
        """What the operator has decided, by name, in words."""
        given = {}
        for line in self.lines:
            if found := re.fullmatch(r"# (with|without) (\w+)(?: = (.+))?", line):
                given[found[2]] = found[3] or _SWITCHES[found[1]]
        return given


def line_octets(text: str) -> bytes:
    """The octets that a line of a transcript stands for."""
    if repeated := re.fullmatch(r"\[(.+) \* (\d+)\]", text):
        return line_octets(repeated[1]) * int(repeated[2])
    open_ended = text.endswith("\\") and not text.endswith("\\\\")
    raw = text.removesuffix("\\") if open_ended else text
    return raw.encode().decode("unicode_escape").encode("latin-1") + (b"" if open_ended else b"\r\n")


def whole(octets: bytes) -> list[bytes]:
    """What the peers say, in one piece each."""
    return [octets]


def play(
    transcript: Transcript,
    seen: Callable[[Stage], _Result],
    *,
    pieces: Pieces = whole,
    make: Callable[..., Stage] = Stage,
    never_short: bool = False,
) -> _Result:
    """Play a transcript, and say what was `seen` at its end.

    Args:
        transcript: the dialogue.
        seen: asked once it is over, before the session is broken off that may go on.
        pieces: how what a peer says at once is cut.
        make: what makes the stage.
        never_short: whether no read is ever said to be short, as with TLS.

    Raises NotAsWritten.
    """
    clock = trio.testing.MockClock()

    async def main() -> _Result | NotAsWritten:
        result: _Result | NotAsWritten
        async with trio.open_nursery() as nursery:
            stage = make(nursery, clock, never_short=never_short)
            stage.reachable = "# unreachable" not in transcript.lines
            decide(stage, transcript.given)
            try:
                await _perform(transcript.lines, stage, pieces)
                result = seen(stage)
            except NotAsWritten as other:  # a nursery would put it into a group
                result = other
            nursery.cancel_scope.cancel()
        return result

    result = trio.run(main, clock=clock)
    if isinstance(result, NotAsWritten):
        raise result
    return result


def decide(stage: Stage, given: dict[str, str]) -> None:
    """Put what the operator has decided, by name and in words, into the stage."""
    decided: dict[str, Any] = {}
    for name, text in given.items():
        match name:
            case "max_size":
                decided["sizes"] = Sizes(int(text))
            case "rewrite":
                decided["rewrites"] = (Rewrite.parse(text),)
            case "observe":
                decided["observed"] = frozenset(each for each in Violation if str(each) in text.split(","))
            case "hide":
                decided["hidden"] = Hidden.of([HiddenKeyword.parse(each) for each in text.split(",")])
            case "login":
                decided["login"] = Login(text, "secret", in_clear=True)
            case "trusted":
                stage.origin_policy = OriginPolicy()
            case "destinations":
                stage.origin_policy = OriginPolicy(original=True, tproxy=True)
            case "loop":
                stage.loops = LoopOfOne()
            case _ if name in _LIMITS:
                stage.limits = attrs.evolve(stage.limits, **{name: int(text)})
            case _ if name in _VALUES:
                decided[name] = _VALUES[name](text)
            case _:
                decided[name] = {"true": True, "false": False}[text]
    stage.policy = Policy(receiver_security=cast("ReceiverSecurity", _NoTls()), **decided)


class _NoTls:
    """TLS with a receiver in memory: there is none, so that each handshake fails."""

    async def secure(self, leg: Leg) -> None:
        leg.broken = True
        raise TlsFailed(leg.name, "no shared cipher")


async def _perform(lines: Sequence[str], stage: Stage, pieces: Pieces) -> None:
    """Play the lines one by one. Raises NotAsWritten."""
    seen = {"S": 0, "R": 0}
    await stage.start()
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                await _step(line, stage, pieces, seen)
            except NotAsWritten as other:
                raise NotAsWritten(f"line {number}: {line}: {other}") from None
    for who, sock in ("S", stage.sender), ("R", stage.receiver):
        if more := bytes(sock.written[seen[who] :]):
            raise NotAsWritten(f"{who} got more than is written: {more!r}")


async def _step(line: str, stage: Stage, pieces: Pieces, seen: dict[str, int]) -> None:
    if line == "redialled":
        if not stage.earlier_receivers:
            raise NotAsWritten("there was one connection only")
        _expect(b"", bytes(stage.earlier_receivers[-1].written[seen["R"] :]))
        seen["R"] = 0
    elif line.startswith("wait "):
        await stage.pass_time(float(line[5:]))
    elif line.startswith("repairs:"):
        expected = sorted(name.strip() for name in line[8:].split(",") if name.strip())
        _expect(expected, sorted(str(each) for each in stage.repaired))
    elif line.startswith("ended:"):
        _expect(line[6:].strip(), f"{stage.record.ended_by}/{stage.record.ended_in}" if stage.over else "not over")
    else:
        sock, text = (stage.sender if line[0] == "S" else stage.receiver), line[3:]
        if line[1] == ">":
            await _send(stage, sock, text, pieces)
        else:
            _look(sock, text, seen, line[0])


async def _send(stage: Stage, sock: MemorySocket, text: str, pieces: Pieces) -> None:
    match text:
        case "[FIN]":
            sock.feed_fin()
            await stage.settle()
        case "[RST]":
            sock.feed_rst()
            await stage.settle()
        case "[takes nothing]":
            sock.room_octets = 0
        case "[acknowledges nothing]":
            sock.acknowledges = False
        case _:
            for piece in pieces(line_octets(text)):
                await stage.feed(sock, piece)


def _look(sock: MemorySocket, text: str, seen: dict[str, int], who: str) -> None:
    match text:
        case "[FIN]":
            _expect(True, sock.got_fin)
        case "[RST]":
            _expect(True, sock.got_rst)
        case "[open]":
            _expect(False, sock.got_fin or sock.got_rst or sock.closed)
        case _:
            expected = b"" if text == "[nothing]" else line_octets(text)
            end = seen[who] + len(expected) if expected else None
            _expect(expected, bytes(sock.written[seen[who] : end]))
            seen[who] += len(expected)


def _expect(expected: object, found: object) -> None:
    if expected != found:
        raise NotAsWritten(f"expected {expected!r}, found {found!r}")
