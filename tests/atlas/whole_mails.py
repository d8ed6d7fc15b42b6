"""What a receiver does with whole mails, which a probe never sends: each on a connection of its own.

Only mails that any receiver may be sent: whole ones, one too large, one with a line that ends in LF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.atlas.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.probe.habits import Mask

SENDER: Final = "sender@sender.example"
_HEADER: Final = f"From: <{SENDER}>\r\nTo: <recipient@host.example>\r\nSubject: atlas\r\n\r\n".encode()
_LINE: Final = b"The last line sent is signified by a dot on a line by itself, says RFC 821.\r\n"
_PIECES: Final = 16


def whole_mails(
    port: int, hello: str, recipient: str, size_octets: int | None, offered: set[str], mask: Mask
) -> dict[str, str]:
    """Name -> what it does. What does not apply is not there."""

    def told(reply: str, wire: Wire) -> str:
        text = " / ".join(mask.text(line) for line in reply.split(" / ")) if reply else "no reply"
        return f"{text}; {wire.end}" if wire.end else text

    def begun(wire: Wire) -> bool:
        wire.open(f"{hello} probe.example")
        return all(
            wire.ask(command).startswith(code)
            for command, code in ((f"MAIL FROM:<{SENDER}>", "2"), (f"RCPT TO:<{recipient}>", "2"), ("DATA", "354"))
        )

    found: dict[str, str] = {}
    parts: list[tuple[str, Callable[[Wire], str]]] = [("a mail", lambda wire: _small(wire, begun, told))]
    parts.append(("line that ends in LF", lambda wire: _bare(wire, begun, told)))
    if size_octets:
        parts.append(("too large", lambda wire: _too_large(wire, begun, told, size_octets)))
    if "PIPELINING" in offered:
        parts.append(("mail in groups", lambda wire: _groups(wire, f"{hello} probe.example", recipient)))
    if "CHUNKING" in offered:
        parts.append(("chunks", lambda wire: _chunks(wire, f"{hello} probe.example", recipient)))
    for name, part in parts:
        try:
            with Wire.to(port) as wire:
                text = part(wire)
        except OSError:
            text = "does not answer"
        if text:
            found[name] = text
    return found


def _small(wire: Wire, begun: Callable[[Wire], bool], told: Callable[[str, Wire], str]) -> str:
    if not begun(wire):
        return ""
    wire.write(_HEADER + _LINE + b".\r\n")
    return told(wire.reply(), wire)


def _bare(wire: Wire, begun: Callable[[Wire], bool], told: Callable[[str, Wire], str]) -> str:
    if not begun(wire):
        return ""
    wire.write(_HEADER + b"one line\nand another\r\n" + _LINE)
    if early := wire.replies():
        return f"{told(early[0], wire)}; before the end"
    wire.write(b".\r\n")
    return told(wire.reply(), wire)


def _too_large(wire: Wire, begun: Callable[[Wire], bool], told: Callable[[str, Wire], str], size_octets: int) -> str:
    """A mail of twice the limit that was not declared, with a pause before its end, so that an early reply shows."""
    if not begun(wire):
        return ""
    wire.write(_HEADER)
    block = _LINE * (2 * size_octets // _PIECES // len(_LINE) + 1)
    for piece in range(_PIECES):
        wire.write(block)
        if early := wire.replies(QUIET_IN_DATA_SECONDS):
            more = _rest(wire, block, _PIECES - piece - 1)
            return f"{told(early[0], wire)}; before the end{more}"
        if wire.end:
            return f"{wire.end} before the end, without a reply"
    wire.write(b".\r\n")
    text = told(wire.reply(30.0), wire)
    further = wire.replies()
    return f"{text}; after the end" + (f", and {len(further)} more" if further else "")


QUIET_IN_DATA_SECONDS: Final = 0.3


def _rest(wire: Wire, block: bytes, pieces: int) -> str:
    """What it does with the rest of the mail, once it has refused."""
    if wire.end:
        return ", and closes"
    taken = sum(wire.write(block, 5.0) for _ in range(pieces))
    wire.write(b".\r\n", 5.0)
    further = wire.replies()
    if wire.end:
        return ", takes no more, and closes" if taken < pieces * len(block) else ", takes the rest, and closes"
    if len(further) > 2:
        return ", and reads the rest as commands"
    return f", takes the rest, and replies {len(further)} times more" if further else ", and takes the rest"


def _groups(wire: Wire, hello: str, recipient: str) -> str:
    """MAIL, RCPT and DATA in one write; then the mail, and the same commands of the next one, in another."""
    envelope = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
    wire.open(hello)
    wire.write(envelope)
    first = [wire.reply()[:3] or "none" for _ in range(3)]
    if first[2] != "354":
        return " ".join(first)
    wire.write(_HEADER + _LINE + b".\r\n" + envelope)
    second = [wire.reply(5.0)[:3] or "none" for _ in range(4)]
    return f"{' '.join(first)}, then with the mail {' '.join(second)}"


def _chunks(wire: Wire, hello: str, recipient: str) -> str:
    """A mail in two chunks and a last one that is empty."""
    wire.open(hello)
    if not all(wire.ask(each)[:1] == "2" for each in (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{recipient}>")):
        return ""
    replies = []
    for octets, last in ((_HEADER, ""), (_LINE, ""), (b"", " LAST")):
        wire.write(f"BDAT {len(octets)}{last}\r\n".encode() + octets)
        replies.append(wire.reply()[:3] or "none")
    return " ".join(replies)
