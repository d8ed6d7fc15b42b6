"""Mail data as they come from the sender, up to their end and not an octet further.

Invariants:

1. What lies behind the end is the sender's next command, and goes back to its reader.
2. What is to be forwarded is canonical, unless the operator has newlines passed (smtp/newlines.py).
3. A sender is waited for as long as `MinRateTimer` lets it: an octet a minute does not pay for long, unless it is
   drained for what the receiver did.

It does not know where the mail data go.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol, Self

import attrs

from shimproxy.net.block import BLOCK_START
from shimproxy.net.errors import DeadlinePassed
from shimproxy.session.replies import BAD_NEWLINES, TOO_BIG
from shimproxy.session.trace import Kind
from shimproxy.smtp.mail_data import EndOfChunk, EndOfData, EndOfDeviceData, Size
from shimproxy.smtp.newlines import Newlines, Normaliser

if TYPE_CHECKING:
    from shimproxy.net.errors import Interrupted
    from shimproxy.net.leg import Leg
    from shimproxy.net.watch import Watch
    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.session.size_limit import SizeLimit
    from shimproxy.smtp.reply import LocalReply

END_OCTETS: Final = len(b".\r\n")  # what stands before it is the mail's last line end
_DEVICE_END_OCTETS: Final = len(b".\n")


class EndFinder(Protocol):
    """What finds the end of the mail data (smtp/mail_data.py)."""

    def feed(self, block: bytes | bytearray, start: int, stop: int) -> int | None:
        """The index behind the end in `block` between `start` and `stop`, or None."""


@attrs.define(eq=False)
class MinRateTimer:
    """How long a peer may still be waited for: used up by waiting, regained by octets.

    It is never more than the deadline for one block, and a peer that gives or takes fewer octets than
    `least_octets_per_second` uses it up. The timer of a session's sender serves all of its mails.
    """

    _watch: Watch
    _block_seconds: float
    _least_octets_per_second: float
    until: float = math.inf
    """When all its time is over, as the watch tells it."""
    _seconds: float = attrs.field(init=False)
    _rate: float = attrs.field(init=False)
    """How many octets regain a second; with 0 any octet regains all of the time."""
    _since: float | None = None

    def __attrs_post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """The peer has all its time again, as at first."""
        self._seconds, self._rate = self._block_seconds, self._least_octets_per_second
        self.until, self._since = math.inf, None

    def forgive_slowness(self, until: float) -> None:
        """From now on only silence uses up the peer's time, or the end of it: `until` is a time of the watch."""
        self.renew()
        self.until, self._rate = until, 0

    def begin(self, doing: str) -> None:
        """From now on the peer is waited for. Raises DeadlinePassed if it has used up its time."""
        now = self._watch.now
        if self._seconds <= 0 or now > self.until:
            raise DeadlinePassed(doing)
        self._since = now
        self._watch.allow(self._seconds, doing)

    def spent(self, since: float, octets: int) -> None:
        """The peer was waited for from then on, and gave that many octets."""
        self._since = since
        self.end(octets)

    def end(self, octets: int) -> None:
        """The peer is not waited for, or no longer; it gave or took that many octets."""
        seconds = self._seconds
        if self._since is not None:
            seconds -= self._watch.now - self._since
            self._since = None
        if octets:
            rate = self._rate
            seconds = seconds + octets / rate if rate else self._block_seconds
        self._seconds = min(self._block_seconds, seconds)


@attrs.define(eq=False)
class MailDataReader:
    """One mail's data, or one chunk's, read from the sender block by block."""

    _sender: Sender
    _policy: Policy
    _timer: MinRateTimer
    """How long the sender may still take."""
    _end: EndFinder
    _normaliser: Normaliser | None = None
    _measure: SizeLimit | None = None
    _size: Size | None = None
    octets_taken: int = 0
    """What was read from the sender, with the end."""
    ended: bool = False
    """Whether the end was read."""
    outrun: bool = False
    """More lay behind the end than is held; it was dropped, so that no command may follow."""
    has_begun: bool = False
    """Whether the first block was read, and `next_block` was not asked for it yet; see `begin_with`."""
    octets_forwarded_before: int = 0
    """How much of that block the receiver has."""
    _octets_in_block: int | None = None
    _is_traced: bool = False
    _failed: DeadlinePassed | Interrupted | None = None
    refusal: LocalReply | None = None
    """What the operator's own policy makes of the mail, as far as it was read."""

    def __attrs_post_init__(self) -> None:
        self._timer.renew()

    @classmethod
    def of_mail(cls, sender: Sender, policy: Policy, timer: MinRateTimer, measure: SizeLimit | None) -> MailDataReader:
        """The reader of mail data behind DATA."""
        size = Size() if measure else None
        end: EndFinder = EndOfDeviceData() if policy.lf_only_devices else EndOfData()
        normaliser = None
        if policy.lf_only_devices or policy.newlines is not Newlines.PASS:
            normaliser = Normaliser(lf_ends_lines=policy.lf_only_devices)
        return cls(sender, policy, timer, end, normaliser, measure, size)

    @classmethod
    def of_chunk(cls, sender: Sender, policy: Policy, timer: MinRateTimer, size_octets: int) -> MailDataReader:
        """The reader of a chunk of that many octets, which are nobody's lines."""
        return cls(sender, policy, timer, EndOfChunk(size_octets), ended=not size_octets)

    def begin_with(
        self,
        since: float,
        octets: int | None,
        forwarded_octets: int = 0,
        *,
        is_traced: bool = False,
        failed: DeadlinePassed | Interrupted | None = None,
    ) -> Self:
        """Go on with a first block that was read already (plain_turns.py), before the caller's next await.

        Args:
            since: from when on the sender was waited for, as the watch tells it.
            octets: how many lie in the driver's block; 0 if the sender has gone, None if nothing has come.
            forwarded_octets: how many of these the receiver has.
            is_traced: whether they stand in the trace.
            failed: what has ended the wait for them, if anything has.
        """
        self.has_begun, self._octets_in_block, self._is_traced, self._failed = True, octets, is_traced, failed
        self.octets_forwarded_before = forwarded_octets
        self._timer.spent(since, octets or 0)
        return self

    def forgive_slowness(self, until: float) -> None:
        """From now on only silence ends it, or the end of its session's time: `until` is a time of its watch.

        Slow as it is, it can be told what became of its mail behind the end only; where it is told before, that is
        lost on most.
        """
        self._timer.forgive_slowness(until)

    @property
    def octets_of_mail(self) -> int:
        """What was read from the sender of mail data behind DATA, without their end."""
        how, octets = type(self._end), self.octets_taken
        if how is EndOfChunk:
            return 0
        return octets - (END_OCTETS if how is EndOfData else _DEVICE_END_OCTETS) if self.ended else octets

    @property
    def of_lines(self) -> bool:
        """Whether it is mail data, and not a chunk."""
        return not isinstance(self._end, EndOfChunk)

    @property
    def stray_count(self) -> int:
        """How many octets of the mail data were not canonical, as far as they were to be forwarded."""
        return self._normaliser.stray_count if self._normaliser else 0

    @property
    def stray_seen(self) -> dict[str, int]:
        """What they were, and where the first one stands: its octet, and its line unless that is far behind."""
        seen = self._normaliser.seen if self._normaliser else None
        figures = attrs.asdict(seen) if seen else {}
        return {name: figure for name, figure in figures.items() if figure is not None}

    def portion(self, stop: int | None) -> memoryview | bytes:
        """What is to be forwarded of the block that was read last, up to `stop`, which `next_block` has said.

        It may be empty: the normaliser holds what came, or nothing came. It is the caller's until its next await.
        """
        if stop is None:
            return b""
        block = self._sender.leg.driver.block
        normaliser = self._normaliser
        portion: memoryview | bytes
        if normaliser is None:
            portion = block.view[BLOCK_START:stop]
        else:
            portion = normaliser.feed(block.buffer, BLOCK_START, stop, ended=self.ended)
            if normaliser.stray_count and self._policy.newlines is Newlines.REJECT:
                self.refusal = BAD_NEWLINES
        # What was made canonical is larger than what the sender sent: refused for that, it is not too big as well.
        if self._measure and self._size and not self.refusal:
            self._size.count(portion, ended=self.ended)
            self._measure.octets = self._size.octets
            if self._measure.exceeded:
                self.refusal = TOO_BIG
        return portion

    async def drain(self) -> bool:
        """Read and drop up to the end; whether the sender came to it. Raises DeadlinePassed, Interrupted."""
        while not self.ended:
            if await self.next_block() == 0:
                return False
        return True

    async def next_block(self, receiver: Leg | None = None) -> int | None:
        """Read into the driver's block; where the mail data stop in it, 0 if the sender has gone.

        This is the one wait for mail data. While they are forwarded it is for the `receiver` too, as its reply decides
        about them at any moment: None if that leg can be read and the sender's can't. Raises DeadlinePassed,
        Interrupted.
        """
        leg, commands = self._sender.leg, self._sender.commands
        block = leg.driver.block
        if self.has_begun:
            self.has_begun = False
            if self._failed:
                raise self._failed
            if not self._octets_in_block:
                return self._octets_in_block
            stop = BLOCK_START + self._octets_in_block
        elif ahead := commands.take_ahead():
            stop = block.put(ahead)
        else:
            self._timer.begin("mail data")
            # Behind a chunk there may be any number of others: what is not this one's stays in the kernel.
            most_octets = self._end.left_octets if isinstance(self._end, EndOfChunk) else None
            # A leg may be called readable and have nothing to read: with TLS after every read, else after one that has
            # filled the block to the octet.
            while True:
                if leg.readable:
                    if leg.watch.stretched():
                        await leg.watch.pause()
                    size_octets = leg.read_block_now(most_octets)
                    if size_octets is not None:
                        break
                if receiver is None:
                    await leg.wait_to_read()
                    continue
                await leg.speaks_or(receiver)
                if receiver.readable and not leg.readable:
                    size_octets = None
                    break
            self._timer.end(size_octets or 0)
            if not size_octets:
                return size_octets
            stop = BLOCK_START + size_octets
        end = self._end.feed(block.buffer, BLOCK_START, stop)
        if end is not None:
            self.ended = True
            if stop - end > self._policy.limits.held_octets:
                self.outrun = True
            elif end < stop:
                commands.feed(bytes(block.view[end:stop]))
            stop = end
        self.octets_taken += stop - BLOCK_START
        if (tracer := self._sender.events.tracer) and not self._is_traced:
            kind = Kind.MAIL_DATA if self.of_lines else Kind.CHUNK
            tracer.takes(kind, block.view[BLOCK_START:stop], ended=self.ended)
        self._is_traced = False
        return stop

    def slow_down(self, taken_octets: int) -> None:
        """Read less at a time, as that is what the other leg takes."""
        self._sender.leg.slow_down(taken_octets)
