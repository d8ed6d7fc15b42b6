"""Models of senders and receivers: programs that react to what they read, a fault at one place apart.

A peer acts when it is asked to (`act`): it reads, and writes a piece of what it has to say. Every reply of a receiver
is unique by a number in its text, so that it is known which one the sender was given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tests.explore.kernel import AMPLE_OCTETS
from tests.explore.naive import Replies, Requests

if TYPE_CHECKING:
    from tests.explore.cases import Case, ScriptedReplies
    from tests.explore.faults import Fault
    from tests.explore.kernel import Sock

_FOCUS_OCTETS = 8
_SIZE_OF_CHUNK = re.compile(rb"(?i)[ \t]*BDAT[ \t]+(\d+)([ \t]+LAST)?[ \t]*\r\n").fullmatch


@attrs.define(eq=False)
class Plan:
    """A fault of one peer, and where it comes."""

    direction: str
    """"in": behind so many octets that its program has read; "out": behind so many that it has written."""
    octets: int
    fault: Fault
    fired: bool = False


class Peer:
    """What senders and receivers have in common."""

    def __init__(self, sock: Sock, piece_octets: int, plans: list[Plan]) -> None:
        self.sock = sock
        self.piece_octets = piece_octets
        """How much it writes at a time."""
        self.plans = plans
        self._waiting = list(plans)
        self.focus: int | None = None
        """Around which of its octets it writes in pieces, if not everywhere."""
        self.in_octets = 0
        self.out_octets = 0
        self.pending = bytearray()
        """What it has to write."""
        self.silent = False
        """It writes nothing more, but for what a fault says."""
        self.deaf = False
        """It reads nothing more."""
        self.paused = ""
        """BEFORE or AFTER a deadline it goes on; until then it does nothing."""
        self.closed = False
        self.saw_end = False

    # -- for faults

    def say(self, octets: bytes) -> None:
        """Write that, before what is pending."""
        self._write(octets)

    def close(self) -> None:
        """Close: nothing is read or written any more."""
        self.pending.clear()
        self.closed = True
        self.sock.peer_close()

    # -- what it does

    def act(self) -> bool:
        """Do one thing; whether there was anything to do."""
        if self.closed or self.paused:
            return False
        most_octets = AMPLE_OCTETS
        for plan in self._waiting:
            left_octets = plan.octets - (self.in_octets if plan.direction == "in" else self.out_octets)
            if left_octets <= 0:
                plan.fired = True
                self._waiting.remove(plan)
                plan.fault.do(self)
                return True
            if plan.direction == "in" and left_octets < most_octets:
                most_octets = left_octets
        did = False
        if not self.deaf:
            octets = self.sock.peer_read(most_octets)
            if octets:
                self.in_octets += len(octets)
                self.read(octets)
                return True
            did = self._meet_end()
            if self.closed:
                return True
        return self._write_some() or did

    def _meet_end(self) -> bool:
        sock = self.sock
        if not self.saw_end and (sock.rst_arrived or (sock.fin_arrived and sock.read_octets == len(sock.written))):
            self.saw_end = True
            self.meet_end()
            return True
        return False

    def _write_some(self) -> bool:
        if self.silent:
            return False
        if not self.pending:
            self.more()
        if not self.pending:
            return self.end_if_done()
        size = len(self.pending)
        if self.piece_octets < size:
            # Where it is cut matters around the fault.
            before = 0 if self.focus is None else self.focus - _FOCUS_OCTETS - self.out_octets
            if before > 0:
                size = min(size, before)
            elif before >= -2 * _FOCUS_OCTETS:
                size = self.piece_octets
        for plan in self._waiting:
            if plan.direction == "out" and plan.octets > self.out_octets:
                size = min(size, plan.octets - self.out_octets)
        piece = bytes(self.pending[:size])
        del self.pending[:size]
        self._write(piece)
        if not self.pending:
            self.end_if_done()
        return True

    def _write(self, octets: bytes) -> None:
        self.out_octets += len(octets)
        self.wrote(octets)
        self.sock.peer_send(octets)

    def read(self, octets: bytes) -> None:
        """It has read these."""
        raise NotImplementedError

    def wrote(self, octets: bytes) -> None:
        """It is about to write these."""

    def more(self) -> None:
        """Put into `pending` what is to be written next, if anything is."""

    def end_if_done(self) -> bool:
        """Close if nothing is left to do; whether it did."""
        return False

    def meet_end(self) -> None:
        """The shim has closed or reset the connection."""
        self.close()


class SenderPeer(Peer):
    """A sender with a script."""

    def __init__(self, sock: Sock, piece_octets: int, plans: list[Plan], case: Case, *, greedy: bool) -> None:
        super().__init__(sock, piece_octets, plans)
        self.steps = case.steps
        self.stays = case.sender_stays
        self.greedy = greedy
        """Whether it waits for nothing."""
        self.next_step = 0
        self.replies = Replies()
        self.requests = Requests(lf_only=case.lf_only, lmtp=case.lmtp)
        self.last_code = 0
        self._opaque = case.answers[0].opaque
        self._opaque_octets = 0

    def read(self, octets: bytes) -> None:
        if self._opaque and self.requests.mode == "TLS":
            self._opaque_octets += len(octets)
            return
        before = len(self.replies.found)
        for place, reply in enumerate(self.replies.feed(octets), before):
            if place:
                self.requests.got(reply.code)
            self.last_code = reply.code
            if self.requests.mode == "TLS" and not self._opaque:
                self.sock.peer_secures()
                self.requests.secured()

    def wrote(self, octets: bytes) -> None:
        if not (self.sock.shim_closed or self.sock.got_rst_from_peer):
            self.requests.sent(octets)

    def more(self) -> None:
        got = len(self.replies.found)
        if not self.greedy and got < 1 + self.requests.due:
            return
        if not self.greedy and self.requests.mode in ("WAIT", "CHUNK"):
            return
        while self.next_step < len(self.steps):
            if self.last_code == 421:
                self.next_step = len(self.steps)
                return
            step = self.steps[self.next_step]
            self.next_step += 1
            if isinstance(step, bytes):
                self.pending += step
                return
            if self.greedy or self.last_code == step.after:
                self.pending += step.octets
                return

    def end_if_done(self) -> bool:
        if self.next_step < len(self.steps) or self.stays or self.greedy:
            return False
        if self._opaque and self.requests.mode == "TLS":
            if self._opaque_octets < len(self.requests.octets) - self.requests.begun:
                return False
        elif len(self.replies.found) < 1 + self.requests.due and self.last_code != 421:
            return False
        self.close()
        return True

    def meet_end(self) -> None:
        if not (self.stays and self.sock.fin_arrived):
            self.close()


@attrs.define(eq=False)
class Said:
    """A reply that a receiver has written."""

    octets: bytes
    code: int
    answers: bytes | None
    """The line, mail or chunk that it answers; None for one that no one has asked for."""
    kind: str = ""


class ReceiverPeer(Peer):
    """A receiver that answers commands from a table."""

    def __init__(
        self, sock: Sock, piece_octets: int, plans: list[Plan], answers: ScriptedReplies, said: dict[bytes, Said]
    ) -> None:
        super().__init__(sock, piece_octets, plans)
        self.answers = answers
        self.said = said
        """All that receivers of this dialogue have said, by its octets."""
        self.own_said: list[Said] = []
        self.mode = "LINE"
        """As Requests.mode, or LEFTOVER: it takes for commands what is left of a mail that it has refused."""
        self.lines: list[bytes] = []
        self.mails: list[tuple[bytes, int]] = []
        """Mail data and chunks that came to their end, and how its program answered them."""
        self.refused_in_mail = False
        self.fin_in = ""
        """In which mode it was when the shim's FIN came."""
        self.recipients = 0
        self.leaves = False
        self.double_next = False
        self.bare_next = False
        self._unread = bytearray()
        self._chunk_octets = 0
        self._counts: dict[bytes, int] = {}
        self.put(self._of(b"GREETING"), b"", "GREETING")

    def numbered(self, reply: bytes, answers: bytes | None = None, kind: str = "") -> bytes:
        """A reply with its number, put down as said."""
        first, separator, rest = reply.partition(b"\r\n")
        octets = b"%s #%02d\r\n%s" % (first, len(self.said), rest + separator)
        said = self.said[octets] = Said(octets, int(octets[:3]) if octets[:3].isdigit() else 0, answers, kind)
        self.own_said.append(said)
        return octets

    def put(self, reply: bytes, answers: bytes, kind: str) -> None:
        """Answer something."""
        if not reply:
            return
        octets = self.numbered(reply, answers, kind)
        if self.bare_next:
            self.bare_next, octets = False, octets.replace(b"\r\n", b"\n")
        self.pending += octets
        if self.double_next:
            self.double_next = False
            self.pending += octets

    def _of(self, verb: bytes) -> bytes:
        replies = self.answers.of(verb)
        count = self._counts[verb] = self._counts.get(verb, 0) + 1
        return replies[min(count, len(replies)) - 1]

    def read(self, octets: bytes) -> None:
        self._unread += octets
        while self._read_one():
            pass

    def _read_one(self) -> bool:
        unread = self._unread
        if self.mode == "OPAQUE":
            self.pending += bytes(unread).swapcase()
            unread.clear()
            return False
        if self.mode == "CHUNK":
            if len(unread) < self._chunk_octets:
                return False
            self._end_mail(self._chunk_octets, "CHUNK")
            return True
        if self.mode == "MAIL":
            end = 3 if unread.startswith(b".\r\n") else unread.find(b"\r\n.\r\n") + 5
            if end < 5 and not unread.startswith(b".\r\n"):
                return False
            self._end_mail(end, "MAIL")
            return True
        newline = unread.find(b"\r\n")
        if newline < 0:
            return False
        line = bytes(unread[: newline + 2])
        del unread[: newline + 2]
        self._line(line)
        return True

    def _end_mail(self, end: int, kind: str) -> None:
        mail = bytes(self._unread[:end])
        del self._unread[:end]
        self.mode = "LINE"
        verbs = [b"."] * (max(1, self.recipients) if self.answers.lmtp else 1)
        for verb in verbs:
            reply = self._of(verb)
            self.mails.append((mail, int(reply[:3]) if reply else 0))
            self.put(reply, mail, kind)
            if self.answers.leaves_after(verb, self._counts[verb]):
                self.leaves = True
        self.recipients = 0

    def _line(self, line: bytes) -> None:
        if self.mode == "LEFTOVER":
            self.put(b"500 5.5.2 what", line, "LEFTOVER")
            return
        self.lines.append(line)
        verb = line.split(None, 1)[0].upper() if line.strip() else b""
        if self.mode == "RESPONSE":
            verb = b"RESPONSE"
        chunk = _SIZE_OF_CHUNK(line)
        if chunk:
            self.mode, self._chunk_octets = "CHUNK", int(chunk[1])
            return
        self.mode = "LINE"
        reply = self._of(verb)
        self.put(reply, line, "LINE")
        if reply.startswith(b"354"):
            self.mode = "MAIL"
        elif reply.startswith(b"334"):
            self.mode = "RESPONSE"
        elif verb == b"STARTTLS" and reply.startswith(b"220"):
            self.mode = "OPAQUE" if self.answers.opaque else "LINE"
            self.sock.answers_hello = not self.answers.opaque
        elif verb == b"RCPT" and reply.startswith(b"2"):
            self.recipients += 1
        elif verb in (b"MAIL", b"RSET", b"EHLO", b"LHLO", b"HELO"):
            self.recipients = 0
        elif verb == b"QUIT" and reply[:1] in b"24":
            self.leaves = True
        if self.answers.leaves_after(verb, self._counts[verb]):
            self.leaves = True

    def meet_end(self) -> None:
        if not self.sock.rst_arrived:
            self.fin_in = self.mode
        self.close()

    def end_if_done(self) -> bool:
        if self.leaves:
            self.close()
            return True
        return False
