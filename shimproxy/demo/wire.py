"""What both peers of the demo use: the trace of a run, and the mail that is sent."""

from __future__ import annotations

import threading
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.mail import PIECE_OCTETS, Mail
from shimproxy.records.ladder import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

_FILLER: Final = b"This line is one of many that are in a mail of considerable size\r\n".rjust(67, b">")


@attrs.define(eq=False)
class WireTrace:
    """The frames of a run, numbered as they come from the peers' threads; the window of a network monitor."""

    frames: list[Frame] = attrs.field(factory=list)
    watched_by: Callable[[Frame], None] = lambda _: None
    """Gets each frame as it is written down, one at a time."""
    _count: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def add(self, who: str, whom: str, *said: str, mail_octets: int = 0) -> None:
        """Write down what was said at once, each in a frame of its own; or mail data."""
        with self._lock:
            for what in said or ("",):
                self._count += 1
                self._append(Frame(str(self._count), who, whom, what, mail_octets))

    def note(self, party: str, what: str) -> None:
        """Write down what befell a party."""
        with self._lock:
            self._append(Frame("", party, party, what))

    def _append(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.watched_by(frame)


def mail_of(octets: int, reverse_path: str, recipient: str) -> Mail:
    """A mail of at least `octets` in whole pieces of the sender of 1999; no line of it begins with a dot."""
    header = (
        f"From: {reverse_path}\r\nTo: {recipient}\r\nDate: {formatdate(localtime=True)}\r\n"
        "Subject: shimproxy demo\r\nX-Filler: "
    ).encode()
    header += b"-" * (-(len(header) + 4) % PIECE_OCTETS) + b"\r\n\r\n"
    pieces = max(0, -((len(header) - octets) // PIECE_OCTETS))
    return Mail("demo", octets, _FILLER * (PIECE_OCTETS // len(_FILLER)) * pieces, header)
