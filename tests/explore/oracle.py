"""The guarantees, checked on what both peers of a dialogue saw. It shares no code with shimproxy.

What it goes by is the log of the kernel (kernel.py): octets and ends in the order in which they happened. From these it
reads the dialogue anew (naive.py). The numbers are those of the README.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from tests.explore import programs, record
from tests.explore.naive import Replies, Reply, Request, code_of, has_strays, replies, squashed
from tests.explore.seen import Leg, end_of, legs_of, passed, said_on, same_mail

if TYPE_CHECKING:
    from tests.explore.world import World

_OWN_SUCCESS: Final = {b"QUIT": 221, b"NOOP": 250, b"RSET": 250, b"STARTTLS": 220}
_HELLOS: Final = (b"EHLO", b"HELO", b"LHLO")


class Oracle:
    """One dialogue that is over."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.errors = list(world.errors)
        self.legs = legs_of(world)
        self.sender = self.legs["S"]
        self.receivers = [self.legs[peer.sock.who] for peer in world.receivers]
        self.faults = world.faults
        self.mangled = any(reply.octets not in world.said for leg in self.receivers for reply in said_on(leg))
        self.speaks = world.receiver_speaks
        self.replies = replies(bytes(self.sender.written.octets))
        self.requests = world.sender.requests
        if self.requests.mode == "TLS":
            self.replies = self._up_to_opaque()
        for reply in self.replies.found[max(1, len(world.sender.replies.found)) :]:
            self.requests.got(reply.code)
        self.pairs = self._paired()

    def fail(self, number: int, what: str) -> None:
        """Guarantee `number` is broken."""
        self.errors.append(f"guarantee {number}: {what}")

    def check(self) -> list[str]:
        """All guarantees; what is broken."""
        if self.world.account.failures:
            error = self.world.account.failures[0]
            self.errors.append(f"an error of shimproxy's own: {type(error).__name__}: {error}")
        self._check_replies()
        self._check_order()
        for request, answers in self.pairs:
            self._check_source(request, answers)
        self._check_mails()
        self._check_refused_chunks()
        self.errors += programs.check(self)
        self._check_trace()
        self.errors += record.check(self)
        return self.errors

    # -- guarantee 1

    def _up_to_opaque(self) -> Replies:
        """The replies before octets that pass unread."""
        found = Replies()
        for reply in self.replies.found:
            found.found.append(reply)
            if len(found.found) > self.requests.due:
                break
        return found

    def _paired(self) -> list[tuple[Request, list[Reply]]]:
        """Each request with its replies."""
        pairs, place = [], 1
        for request in self.requests.done:
            pairs.append((request, self.replies.found[place : place + request.due]))
            place += request.due
        return pairs

    @property
    def sender_is_gone(self) -> bool:
        """Whether the sender has ended its direction, or takes nothing."""
        peer = self.world.sender
        return (peer.closed and not peer.saw_end) or self.sender.peer_rst < math.inf or self.sender.peer_fin < math.inf

    @property
    def is_hindered(self) -> bool:
        """Whether the sender may not have got all that shimproxy had for it."""
        return self.sender_is_gone or self.world.sender.deaf or ("S", "pause-after-deadline") in self.faults

    @property
    def _has_quit(self) -> bool:
        """Whether the sender has its reply to QUIT, behind which nothing is answered."""
        return any(request.verb == b"QUIT" and answers for request, answers in self.pairs)

    def _check_replies(self) -> None:
        found = self.replies.found
        for reply in found:
            if not reply.well_formed:
                self.fail(1, f"the sender got what is no reply: {reply.octets!r}")
        unhindered = not self.is_hindered
        if self.replies.rest and unhindered:
            self.fail(1, f"the sender got half a reply: {self.replies.rest!r}")
        due, got = 1 + self.requests.due, len(found)
        last = found[-1].code if found else 0
        if got > due:
            names = self.world.repair_names
            late = (
                "sender-stalled" in names
                or "limit-reached" in names
                or "not-smtp" in names
                or "outrun" in names
                or "data-without-354" in names
            )
            allowed = late and (last == 421 or self.requests.mode in ("MAIL", "CHUNK"))
            most = due + (1 if not self.world.case.lmtp else 2)
            if not allowed or got > most:
                self.fail(1, f"{got} replies to {due - 1} requests and the greeting: {found[-1].octets!r}")
        elif (
            got < due
            and unhindered
            and not self._has_quit
            and last not in (421, 221)
            and not (got == 1 and last // 100 == 5)
        ):
            self.fail(1, f"{got} replies to {due - 1} requests and the greeting, the last {last}")

    def _check_order(self) -> None:
        """No reply comes before what it answers."""
        written, read = self.sender.written, self.sender.read
        for request, answers in self.pairs:
            if answers and (start := written.time_of(answers[0].end - len(answers[0].octets) + 1)) < read.time_of(
                request.end
            ):
                stalled = request.kind in ("MAIL", "CHUNK") and "sender-stalled" in self.world.repair_names
                if not (stalled or answers[0].code == 421):
                    self.fail(1, f"{answers[0].octets!r} at {start} before the end of {request.octets!r}")

    # -- guarantees 3 and 4, and which reply answers what

    def _check_source(self, request: Request, answers: list[Reply]) -> None:
        world = self.world
        for reply in answers:
            said = world.said.get(reply.octets)
            kind = reply.code // 100
            if said:
                if (
                    said.answers is not None
                    and not self.speaks
                    and request.kind != "CHUNK"
                    and not self._answers(said.answers, request)
                ):
                    self.fail(1, f"{reply.octets!r} answers {said.answers!r}, and was given to {request.octets!r}")
                continue
            if self.mangled and reply.code in self._codes_said():
                continue
            verb = request.verb
            if kind == 5 and not self._is_own_refusal(request, reply):
                self.fail(4, f"no receiver has said {reply.octets!r}, to {request.octets[:60]!r}")
            if kind in (2, 3) and not self._is_own_success(request, reply):
                self.fail(3, f"no receiver has said {reply.octets!r}, to {request.octets[:60]!r}")
            if request.kind == "LINE" and kind == 4 and reply.code not in (421, 451):
                self.fail(4, f"what is {reply.octets!r}, to {verb!r}?")

    def _all_said(self) -> list[Reply]:
        return [reply for leg in self.receivers for reply in said_on(leg)]

    def _codes_said(self) -> set[int]:
        """The codes of all lines that receivers have said."""
        return {code_of(line) for leg in self.receivers for line in bytes(leg.sent.octets).split(b"\n")}

    def _answers(self, answered: bytes, request: Request) -> bool:
        if request.kind in ("MAIL", "CHUNK"):
            return squashed(request.octets).endswith(squashed(answered))
        return request.octets.split() == answered.split() or (request.kind == "RESPONSE" and answered == b"*\r\n")

    def _is_own_success(self, request: Request, reply: Reply) -> bool:
        verb = request.verb
        if verb in _HELLOS:
            return reply.code == 250 and any(each.code == 250 for each in self._all_said())
        if verb.rstrip(b"\0") == b"QUIT" and reply.code == 221:
            return True
        return request.kind == "LINE" and _OWN_SUCCESS.get(verb) == reply.code

    def _is_own_refusal(self, request: Request, reply: Reply) -> bool:
        policy, octets = self.world.case.policy, request.octets
        if policy.sizes and reply.octets.endswith(b"message size exceeds the limit\r\n"):
            return request.kind in ("MAIL", "CHUNK") or b"SIZE=" in octets
        if reply.code == 550:
            return policy.newlines.value == "reject" and request.kind == "MAIL" and has_strays(octets)
        if reply.code in (502, 503):
            return request.kind in ("LINE", "CHUNK")
        if reply.code == 504:
            return policy.hidden is not None and policy.hidden.has_mechanism(octets)
        if reply.code == 500:
            bare = b"\r" in octets.removesuffix(b"\n").removesuffix(b"\r")
            bare = bare or (policy.newlines.value == "reject" and not octets.endswith(b"\r\n"))
            bad = b"\0" in octets or len(octets) > policy.limits.command_octets or not octets.strip() or bare
            return request.kind == "LINE" and bad
        return False

    # -- guarantees 2, 3, 5 and 6

    def _check_mails(self) -> None:
        done = self.pairs
        for place, (request, answers) in enumerate(done):
            if request.kind == "CHUNK":
                self._check_chunk(request, answers)
            elif request.verb == b"DATA" and request.kind == "LINE" and answers and answers[0].code == 354:
                mail = done[place + 1] if place + 1 < len(done) else None
                self._check_mail(answers[0], mail)

    def _leg_at(self, time: float) -> Leg | None:
        """The receiver leg that was the last to be dialled by then."""
        return next((leg for leg in reversed(self.receivers) if leg.dialled < time), None)

    def _check_mail(self, go_on: Reply, mail: tuple[Request, list[Reply]] | None) -> None:
        begun = self.sender.written.time_of(go_on.end)
        leg = self._leg_at(begun)
        if leg is None:
            return self.fail(3, "a 354 without a receiver")
        place = end_of(leg.sent.octets, go_on.octets)
        if place < 0:
            if not self.mangled:
                self.fail(4, f"no receiver has said {go_on.octets!r}")
            return None
        said_at = leg.sent.time_of(place)
        if not bytes(leg.written.octets[: leg.written.length_at(said_at)]).upper().endswith(b"DATA\r\n"):
            return None  # it was not asked, or not yet: what it says answers nothing
        start = leg.written.length_at(begun)
        data = bytes(leg.written.octets[start:])
        end = 3 if data.startswith(b".\r\n") else data.find(b"\r\n.\r\n") + 5
        if end < 5 and not data.startswith(b".\r\n"):
            end = 0
        ended_at = leg.written.time_of(start + end) if end else math.inf
        said = said_on(leg, place)
        self._check_early(leg, begun, ended_at, said)
        if mail is None:
            if end and self.sender.read.length_at(math.inf) < len(self.sender.sent.octets):
                pass
            elif end:
                self.fail(5, f"the receiver was given an end that the sender has not sent: {data[:end]!r}")
            if not end:
                self._check_ended_within(leg, said)
            return None
        request, answers = mail
        if end and not same_mail(data[:end], request.octets):
            self.fail(5, f"the receiver was given {data[:end]!r} for {request.octets!r}")
        if not end:
            self._check_ended_within(leg, said)
        for verdict in answers:
            self._check_verdict(leg, request, verdict, said, start + end, ended_at)
        return None

    def _check_early(self, leg: Leg, begun: float, ended_at: float, said: list[Reply]) -> None:
        """Guarantee 6: once an early reply was read, nothing is written; and it is looked for before each write."""
        early = min((leg.read.time_of(reply.end) for reply in said if reply.code // 100 in (2, 4, 5)), default=math.inf)
        for time, unread_octets in leg.writes:
            if begun < time <= ended_at:
                if unread_octets:
                    self.fail(6, f"{unread_octets} octets of the receiver lay unread when mail data were written to it")
                if time > early:
                    self.fail(6, "mail data were written to a receiver behind its early reply")
        if early < ended_at and leg.written.length_at(math.inf) > leg.written.length_at(early):
            self.fail(6, "something was written to a receiver behind its early reply")

    def _check_ended_within(self, leg: Leg, said: list[Reply]) -> None:
        """Guarantee 5: a receiver that may be in the midst of a mail gets no FIN, unless it refused and is leaving."""
        if leg.shim_fin == math.inf:
            return
        before = [reply for reply in said if leg.read.time_of(reply.end) < leg.shim_fin]
        refused = any(reply.code // 100 in (4, 5) for reply in before)
        leaving = any(reply.code == 421 for reply in before) or min(leg.peer_fin, leg.peer_rst) < leg.shim_fin
        cut = self.mangled and leaving
        if not (leaving and (refused or cut)):
            self.fail(5, "FIN was sent to a receiver in the midst of a mail")

    def _check_verdict(
        self, leg: Leg, request: Request, verdict: Reply, said: list[Reply], end: int, ended_at: float
    ) -> None:
        # With LMTP, shimproxy gives what it says for want of a verdict once for each recipient, and decides so once.
        alike = [each for r, answers in self.pairs if r is request for each in answers if each.octets == verdict.octets]
        first = verdict if not alike or verdict.octets in self.world.said else alike[0]
        given_at = self.sender.written.time_of(first.end - len(first.octets) + 1)
        heard = [reply for reply in said if leg.read.time_of(reply.end) < given_at]
        refusal = next((reply for reply in heard if reply.code // 100 in (4, 5)), None)
        same = next((reply for reply in heard if self._is_same(verdict, reply)), None)
        lmtp = self.world.case.lmtp
        if verdict.code // 100 not in (2, 4, 5):
            self.fail(2, f"{verdict.octets!r} is no verdict")
        if verdict.code // 100 == 2:
            if same is None:
                return self.fail(3, f"no receiver has said {verdict.octets!r} to the mail")
            said_at = leg.sent.time_of(same.end)
            if said_at < ended_at or leg.arrived_at(said_at) < end:
                self.fail(3, f"{verdict.octets!r} was said before the receiver had the end of mail data")
            if refusal and refusal.end < same.end and not (lmtp or self.mangled):
                self.fail(2, f"{refusal.octets!r} came before {verdict.octets!r}")
        elif (same and verdict.octets in self.world.said) or (same and self.mangled):
            if refusal and not (lmtp or self.mangled or self._is_same(verdict, refusal)):
                self.fail(2, f"{refusal.octets!r} came before {verdict.octets!r}")
        else:
            own = self.world.case.policy.sizes is not None or self._is_own_refusal(request, verdict)
            sent_at = self.sender.sent.time_of(request.end)
            lost = next(
                (each for each in said if each.code // 100 in (4, 5) and leg.sent.time_of(each.end) < sent_at), None
            )
            lost = refusal or lost
            if lost and lost.code == 421 and any(each.code // 100 == 2 and each.end < lost.end for each in said):
                lost = None  # behind a verdict, whatever that is worth, it speaks of the connection
            # A reply that cannot answer mail data says that the legs are out of step: nothing behind it is a verdict.
            disorder = any(each.code in (0, 221, 334) and lost and each.end < lost.end for each in said)
            others = [each.octets for r, answers in self.pairs if r is request for each in answers]
            if lost and lost.octets not in others and not (own or self.mangled or disorder):
                self.fail(2, f"the verdict {lost.octets!r} was lost, and {verdict.octets!r} given")
        return None

    def _is_same(self, given: Reply, said: Reply) -> bool:
        if given.octets == said.octets:
            return True
        return self.mangled and given.code == said.code

    def _check_refused_chunks(self) -> None:
        """Guarantee 6: behind a chunk that was refused none is forwarded until a new transaction begins."""
        refused_at = math.inf
        for request, answers in self.pairs:
            if request.kind != "CHUNK":
                refused_at = math.inf if request.verb in (b"MAIL", b"RSET", *_HELLOS) else refused_at
                continue
            for leg in self.receivers:
                end = leg.written.octets.find(request.octets) + len(request.octets)
                if end >= len(request.octets) and leg.written.time_of(end) > refused_at:
                    self.fail(6, f"{request.octets!r} was forwarded behind a chunk that was refused")
            if request.last:
                refused_at = math.inf
            elif answers and answers[0].code >= 400 and not self.speaks:
                refused_at = min(refused_at, self.sender.written.time_of(answers[0].end))

    def _check_chunk(self, request: Request, answers: list[Reply]) -> None:
        for verdict in answers:
            if verdict.code // 100 != 2:
                continue
            given_at = self.sender.written.time_of(verdict.end)
            leg = self._leg_at(given_at)
            command, _, content = request.octets.partition(b"\n")
            chunk = command.rstrip(b"\r") + b"\r\n" + content
            end = leg.written.octets.find(chunk) + len(chunk) if leg else 0
            if leg is None or end < len(chunk):
                return self.fail(3, f"{verdict.octets!r} to a chunk that no receiver was given whole")
            last = max(
                (reply for reply in said_on(leg) if self._is_same(verdict, reply)),
                key=lambda each: each.end,
                default=None,
            )
            if last is None:
                return self.fail(3, f"no receiver has said {verdict.octets!r}")
            said_at = leg.sent.time_of(last.end)
            if said_at < leg.written.time_of(end) or leg.arrived_at(said_at) < end:
                self.fail(3, f"{verdict.octets!r} was said before the receiver had the chunk")
        return None

    # -- guarantees 9 and 11

    @property
    def is_pure(self) -> bool:
        """Whether both peers saw exactly what the other one sent."""
        if len(self.receivers) != 1:
            return False
        (receiver,) = self.receivers
        # What comes behind the reply to QUIT, or a 421, is nobody's; a QUIT that was refused may be said again.
        is_over = any(request.verb == b"QUIT" and request.kind == "LINE" for request, _ in self.pairs)
        is_over = is_over or (bool(self.replies.found) and self.replies.found[-1].code == 421)
        last = self.replies.found[-1].octets if self.replies.found else b""
        told = bytes(self.sender.written.octets)
        if is_over and told.endswith(last + last):  # a receiver's 421 answers each command that is left
            told = told.removesuffix(last)
        if [reply.code for reply in self.replies.found][-2:] == [421, 221]:
            told = told.removesuffix(last)  # its receiver has said that it leaves: QUIT is shimproxy's to answer
        given = bytes(receiver.written.octets)
        if is_over and given.endswith(b"QUIT\r\nQUIT\r\n"):
            given = given.removesuffix(b"QUIT\r\n")
        # A sender that has reset its connection is not told that its receiver is leaving, nor what that says after it,
        # and neither has to say QUIT.
        both_leave = any(reply.code == 421 for reply in said_on(receiver)) and self.sender.peer_rst < math.inf
        is_over = is_over or both_leave
        # It has reset its connection while the greeting was not whole: nothing of that is said to it.
        of_greeting = said_on(receiver) if not told and self.sender.peer_rst < math.inf else ()
        is_over = is_over or (len(of_greeting) == 1 and not of_greeting[0].well_formed)
        return passed(self.sender.read, given, is_over) and passed(receiver.sent, told, is_over)

    @property
    def _differs_by_design(self) -> bool:
        """Whether what one peer got is not what the other sent, and there is nothing to repair."""
        if self.requests.mode == "TLS":
            return True
        refused = any(each.code >= 400 for _, answers in self.pairs for each in answers)
        if refused and any(request.kind == "CHUNK" for request, _ in self.pairs):
            return True  # behind a chunk that was refused no other is forwarded, and a receiver may be asked by BDAT 0
        # One refusal may be that of all recipients (RFC 2033 section 4.2).
        return any(r.due > 1 and all(each.code >= 400 for each in answers) for r, answers in self.pairs)

    def _check_trace(self) -> None:
        world = self.world
        names = world.repair_names
        may_differ = world.case.own_commands or self._differs_by_design or self.is_pure
        if self.requests.mode == "MAIL" and not names:
            self.fail(11, "a mail that its sender has not ended is not told")
        if world.is_regular:
            unexpected = [name for name in names if name not in world.case.violations]
            if unexpected:
                self.fail(9, f"repairs without a violation: {unexpected}")
            missing = world.case.violations - set(names)
            if missing:
                self.fail(11, f"not told: {sorted(missing)}")
            if not (may_differ or world.case.violations):
                self.fail(9, "octets out are not octets in")
        if not (names or may_differ):
            self.fail(11, "octets out are not octets in, and nothing is told")
