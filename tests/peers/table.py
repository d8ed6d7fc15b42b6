"""The table of faulty receivers, and what a sender must believe of each through the shim.

`large` is for a mail that can't have reached the receiver whole, `small` for one that may have. Guarantee 2 makes both
the same, but for early success. Of a receiver that refuses in good form, its refusal is to be believed, word for word.

Mail data come by DATA, or in chunks to the same receivers where these offer CHUNKING (RFC 3030).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import attrs

from shimproxy import Deadlines
from shimproxy.faulty.receivers import FAULTS
from shimproxy.faulty.talk import TAKEN
from tests.peers.outcome import EARLY_SUCCESS, LOST, NO_VERDICT, OUT_OF_STEP, Expected, accepted, refused

if TYPE_CHECKING:
    from shimproxy.faulty.fault import Fault
    from shimproxy.faulty.receiving import FaultyReceiver

QUICK_TO_RESET: Final = Deadlines(linger_idle=0.3, linger_total=1.0)
QUICK_TO_GIVE_UP: Final = Deadlines(
    receiver_block=0.5, end_of_data_reply=0.5, reply=1.0, linger_idle=0.3, linger_total=1.0
)


@attrs.frozen
class Row:
    """A faulty receiver, and what a sender must believe of it through the shim."""

    fault: Fault
    large: tuple[Expected, ...]
    small: tuple[Expected, ...]
    deadlines: Deadlines
    """The shim's; the default ones, but for what the fault makes it wait for."""
    between_chunks: tuple[Expected, ...]
    """What may come of it besides `small` where its early reply is an honest one to the first of several chunks."""
    chunked: bool = False
    """Whether it offers CHUNKING and takes chunks."""

    @property
    def name(self) -> str:
        return self.fault.name

    def start(self) -> FaultyReceiver:
        """The receiver, listening."""
        return self.fault.start(chunked=self.chunked)

    def in_chunks(self) -> Self:
        """The same that offers CHUNKING."""
        assert not self.fault.not_in_chunks, self.fault.not_in_chunks
        return attrs.evolve(self, chunked=True, small=(*self.small, *self.between_chunks))


def row(
    name: str,
    large: Expected | None = None,
    *,
    small: tuple[Expected, ...] = (),
    deadlines: Deadlines | None = None,
    between_chunks: tuple[Expected, ...] = (),
) -> Row:
    """A row of the table; without `large`, the receiver's own refusal is expected."""
    fault = FAULTS[name]
    assert fault.reply or large, f"{name}: nothing is expected"
    large = large or refused(fault.reply)
    return Row(fault, (large,), small or (large,), deadlines or Deadlines(), between_chunks)


_EARLY_SUCCESSES: Final = (EARLY_SUCCESS, accepted(b"250 Ok: queued early\r\n"))
_EXPECTED: Final = (
    row("well-behaved", accepted(TAKEN)),
    row("smtpserver-two-replies-at-dot", refused(b"554 ")),
    # form
    row("no-crlf-before-fin", refused(b"552 5.3.4 too big\r\n")),
    row("half-a-code-before-fin", NO_VERDICT),
    row("early-bare-newline", refused(b"552 5.3.4 too big\r\n")),
    row("early-mixed-refusals", refused(b"552-5.3.4 too\r\n552 5.3.4 big\r\n")),
    row("early-refusal-mixed-with-success", NO_VERDICT, deadlines=QUICK_TO_RESET),
    row("early-nonsense", NO_VERDICT),
    row("repeated-354", accepted(TAKEN)),
    row("says-250-to-data", OUT_OF_STEP),
    row("says-250-twice-at-the-dot", accepted(TAKEN)),
    row("accepts-then-421", accepted(TAKEN)),
    row("code-without-text-at-the-dot", refused(b"552 ")),
    row("says-334-at-the-dot", NO_VERDICT),
    # silence
    row("early-250", EARLY_SUCCESS, small=_EARLY_SUCCESSES),
    # The reply may be that of a chunk which was whole, and others are to follow.
    row("early-250-then-fin", EARLY_SUCCESS, small=_EARLY_SUCCESSES, between_chunks=(NO_VERDICT, LOST)),
    row("early-552-shuts-its-window", deadlines=QUICK_TO_GIVE_UP),
    row("shuts-its-window-in-silence", NO_VERDICT, deadlines=QUICK_TO_GIVE_UP),
    row("no-reply-at-all", NO_VERDICT, deadlines=QUICK_TO_GIVE_UP),
    row("fin-without-a-verdict", NO_VERDICT),
    row("rst-without-a-verdict", NO_VERDICT),
    row("fin-at-the-dot", NO_VERDICT),
)

TABLE: Final = {name: row(name) for name, fault in FAULTS.items() if fault.reply} | {
    each.name: each for each in _EXPECTED
}
