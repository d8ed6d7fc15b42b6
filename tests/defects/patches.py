"""Deliberate defects of shimproxy: each breaks a guarantee, or says what is not so, by a change of a line or two."""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class Defect:
    """One change for the worse."""

    name: str
    file: str
    """In shimproxy/."""
    old: str
    """What stands there, once."""
    new: str
    cases: tuple[str, ...] = ()
    """Which dialogues of the explorer are held for it; all if there are none."""
    test: str = ""
    """The test that catches it, where it is not the explorer."""


_TELLS_OF_VANISHED: Final = (
    '        self.events.repaired(Violation.VANISHED_IN_DATA, how=how.value if how else "", octets=octets)\n'
)

# What answers what, and what is relayed (guarantees 1 to 4)
_OF_REPLIES: Final = (
    Defect(
        "a 421 takes the place of the verdict",
        "session/lingering_close.py",
        "        if ruling(what, reply)[0] not in DECIDES:\n            return False\n",
        "        if decided and reply.code == 421:\n            decided[0] = reply\n            return True\n"
        "        if ruling(what, reply)[0] not in DECIDES:\n            return False\n",
    ),
    Defect(
        "an early 250 is believed",
        "session/mail_data_reply.py",
        "[self._corrected(each) if each.refuses else self.policy.early_success for each in decided]",
        "[*decided]",
    ),
    Defect(
        "a 250 that overtakes mail data on their way is believed",
        "smtp/dialogue.py",
        "return _END_OF_DATA if ended and not unacknowledged_octets else _IN_MAIL_DATA",
        "return _END_OF_DATA if ended else _IN_MAIL_DATA",
    ),
    Defect(
        "an early refusal is given before the end of mail data",
        "session/mail_data_handler.py",
        "                events.phase = SessionPhase.DRAINING\n",
        "                events.phase = SessionPhase.DRAINING\n"
        "                if owed.early:\n"
        "                    self.sender.put(owed.early)\n"
        "                    self.sender.pour_now()\n",
    ),
    Defect(
        "a later refusal is relayed instead of the first",
        "session/lingering_close.py",
        "            if not earlier.refuses:\n",
        "            if earlier:\n",
    ),
    Defect(
        "a refusal behind an early 250 is lost",
        "smtp/dialogue.py",
        "    (ReplyTo.AFTER_EARLY_REPLY, 5): _HELD,",
        "    (ReplyTo.AFTER_EARLY_REPLY, 5): _DROPPED_IN_MAIL_DATA,",
    ),
    Defect(
        "a reply is paired with the command behind",
        "session/pending.py",
        "        verb = self.outstanding[0]\n        if times := self.events.reply_times:\n",
        "        verb = self.outstanding[-1]\n        if times := self.events.reply_times:\n",
    ),
    Defect(
        "an extra reply answers the next command",
        "session/in_step.py",
        "    has_more = look_for_unasked(receiver)\n    # If a part",
        "    return True\n    # If a part",
    ),
    Defect(
        "half an extra reply is taken for the next one's beginning",
        "session/in_step.py",
        "        while not receiver.gone and (has_more or not receiver.replies.empty):",
        "        while False:",
        test="tests/session/test_transcripts.py -k half-an-extra-reply",
    ),
    Defect(
        "a repeated greeting answers EHLO",
        "smtp/dialogue.py",
        "    return reply.code == GREETED and answered in HELLOS",
        "    return False",
    ),
    Defect(
        "a 250 to DATA is relayed",
        "smtp/dialogue.py",
        "    (ReplyTo.DATA, 4): _NEXT,",
        "    (ReplyTo.DATA, 2): _NEXT,\n    (ReplyTo.DATA, 4): _NEXT,",
        test="tests/session/test_transcripts.py -k implausible-250-to-data",
    ),
    Defect(
        "a 354 to RCPT is relayed",
        "smtp/dialogue.py",
        "    (ReplyTo.COMMAND, 4): _NEXT,",
        "    (ReplyTo.COMMAND, 354): _NEXT,\n    (ReplyTo.COMMAND, 4): _NEXT,",
    ),
    Defect(
        "a repeated 354 is a verdict",
        "smtp/dialogue.py",
        "    (ReplyTo.END_OF_DATA, 354): _DROPPED,",
        "    (ReplyTo.END_OF_DATA, 354): _NEXT,",
    ),
    Defect(
        "a receiver that goes without a verdict rejects",
        "session/replies.py",
        'MAIL_UNANSWERED = LocalReply.make(451, "4.4.2"',
        'MAIL_UNANSWERED = LocalReply.make(554, "5.4.2"',
    ),
    Defect(
        "a command that is left unanswered is rejected",
        "session/replies.py",
        'RECEIVER_LOST = LocalReply.make(421, "4.4.2"',
        'RECEIVER_LOST = LocalReply.make(521, "5.4.2"',
    ),
    Defect(
        "commands behind a receiver that has gone get no reply",
        "session/pending.py",
        "                self.sender.put(COMMAND_UNANSWERED)",
        "                pass",
    ),
    Defect(
        "QUIT behind a lost receiver gets no 221",
        "session/commands.py",
        "        if verb is Verb.QUIT:\n            raise SessionEnded(Closing.BY_SENDER, BYE)\n",
        "",
        test="tests/session/test_transcripts.py -k closed-in-data",
    ),
    Defect(
        "a sender is greeted before its receiver has been",
        "session/session.py",
        "        reply = await self._connector.greeting()\n",
        '        self.sender.leg.send_now(b"220 welcome\\r\\n")\n        reply = await self._connector.greeting()\n',
    ),
    Defect(
        "a reply that is not taken at once is given twice",
        "session/sender.py",
        "            self._unsaid = octets[self.leg.send_now(octets) :]",
        '            self._unsaid = octets if self.leg.send_now(octets) < len(octets) else b""',
    ),
    Defect(
        "LMTP: a lone verdict is not given to all",
        "session/mail_data_reply.py",
        "        return verdicts + [verdicts[0] if len(verdicts) == 1 else MAIL_UNANSWERED] * lacking",
        "        return verdicts",
        ("lmtp",),
    ),
)
# What becomes of mail data (guarantees 5 to 7)
_OF_MAIL_DATA: Final = (
    Defect(
        "mail data go on behind an early reply",
        "session/forwarder.py",
        "        if self._look() and receiver.replies.empty:",
        "        if receiver.replies.empty:",
    ),
    Defect(
        "QUIT is said behind an early reply",
        "session/lingering_close.py",
        "        if self._data.is_open and self._has_its_verdict and not self._leaves_politely:",
        '        self.leg.send_now(b"QUIT\\r\\n") if early and not self.leg.broken else 0\n'
        "        if self._data.is_open and self._has_its_verdict and not self._leaves_politely:",
    ),
    Defect(
        "a receiver is half-closed instead of reset in the midst of a mail",
        "session/receiver_parting.py",
        "        receiver.leg.reset()  # or it was dropped",
        "        receiver.leg.half_close()  # or it was dropped",
    ),
    Defect(
        "a receiver that may say 354 is half-closed",
        "session/data_state.py",
        "        return state is _OPEN or state is _MAY_BEGIN",
        "        return state is _OPEN",
        test="tests/session/test_data_state.py",
    ),
    Defect(
        "a receiver that has spoken early is half-closed",
        "session/lingering_close.py",
        "        if not self._data.is_open:\n            return True\n        leaving =",
        "        if not self._data.is_open or self.decided:\n            return True\n        leaving =",
    ),
    Defect(
        "a mail is ended that its sender has not ended",
        "session/mail_data_reply.py",
        _TELLS_OF_VANISHED,
        _TELLS_OF_VANISHED + "        with contextlib.suppress(Exception):\n"
        '            self.earlier.receiver.leg.send_now(b"\\r\\n.\\r\\n")\n',
    ),
    Defect(
        "the end of mail data is written twice",
        "session/forwarder.py",
        "        mail.octets_out_at_end = leg.octets_out\n        return",
        "        mail.octets_out_at_end = leg.octets_out\n"
        "        if reader.of_lines and not leg.broken:\n"
        '            leg.send_now(b".\\r\\n")\n'
        "        return",
    ),
    Defect(
        "the octets behind the end of mail data are mail data",
        "session/mail_data_reader.py",
        "            stop = end\n        self.octets_taken",
        "        self.octets_taken",
    ),
    Defect(
        "the command behind the end of mail data is lost",
        "session/mail_data_reader.py",
        "                commands.feed(bytes(block.view[end:stop]))",
        "                pass",
    ),
    Defect(
        "an end that is split over two blocks is missed",
        "smtp/mail_data.py",
        "        if found >= 0:\n            return start + found + 5 - len(self._tail)",
        "        if found >= len(self._tail):\n            return start + found + 5 - len(self._tail)",
    ),
    Defect(
        "LF dot LF ends mail data",
        "smtp/mail_data.py",
        "        found = border.find(END_OF_DATA)\n",
        '        if (lax := bytes(block[start:stop]).find(b"\\n.\\n")) >= 0:\n            return start + lax + 3\n'
        "        found = border.find(END_OF_DATA)\n",
    ),
    Defect(
        "an end of mail data at the bound of a portion is not seen",
        "smtp/mail_data.py",
        "            begin, end = max(dot - 2, start), min(at + 2, stop)\n",
        "            begin, end = max(dot - 2, start), at\n",
        test="tests/smtp/test_mail_data.py",
    ),
    Defect(
        "an end of mail data whose dot comes first is not seen",
        "smtp/mail_data.py",
        "            begin, end = max(dot - 2, start), min(at + 2, stop)\n",
        "            begin, end = dot, min(at + 2, stop)\n",
        test="tests/smtp/test_mail_data.py",
    ),
    Defect(
        "a line end at the bound of a portion is stray",
        "smtp/stray.py",
        "                end += 1\n",
        "                pass\n",
        test="tests/smtp/test_stray.py",
    ),
    Defect(
        "a stray LF passes between lines of one length",
        "smtp/stray.py",
        ' or octets.find(b"\\n") >= 0 or ',
        " or ",
        test="tests/smtp/test_stray.py",
    ),
    Defect(
        "an LF without CR passes at the end of lines of one length",
        "smtp/stray.py",
        ' or block[first - 1 : end - 1 : line_octets] != b"\\r" * count:',
        ":",
        test="tests/smtp/test_stray.py",
    ),
    Defect(
        "a NUL passes in long lines",
        "smtp/stray.py",
        ' == octets and octets.find(b"\\0") < 0\n',
        " == octets\n",
        test="tests/smtp/test_stray.py",
    ),
    Defect(
        "a stray CR passes behind many long lines",
        "smtp/stray.py",
        '    return without.find(b"\\r") < 0 and ',
        "    return ",
        test="tests/smtp/test_stray.py",
    ),
    Defect(
        "a bare LF in mail data passes",
        "session/mail_data_reader.py",
        "            normaliser = Normaliser(lf_ends_lines=policy.lf_only_devices)",
        "            normaliser = None",
    ),
    Defect(
        "mail data behind a refused DATA are commands",
        "session/commands.py",
        "        if octets_behind:\n            self._end_at_mail_data(octets_behind)",
        "        if octets_behind:\n            return",
        ("refused-data", "refused-mail", "pipelined-all-refused"),
    ),
    Defect(
        "the sender is not drained",
        "session/mail_data_reader.py",
        "        while not self.ended:\n            if await self.next_block() == 0:",
        "        while not self.ended:\n            await self._sender.leg.takes_or_speaks()\n"
        "            self._sender.leg.readable = self._sender.leg.writable = False\n"
        "            await self._sender.leg.wait_to_read()\n"
        "            if await self.next_block() == 0:",
    ),
    Defect(
        "a pause in mail data is deaf to the receiver",
        "session/mail_data_reader.py",
        "                await leg.speaks_or(receiver)",
        "                await leg.wait_to_read()",
    ),
    Defect(
        "a chunk goes to a receiver that has refused the one before",
        "session/mail_data_handler.py",
        "        if transaction.chunk_refusal:\n            await",
        "        if False:\n            await",
        ("chunks-refused",),
    ),
    Defect(
        "a chunk's size is read short by one",
        "smtp/mail_data.py",
        "        end = start + self.left_octets\n",
        "        end = start + max(0, self.left_octets - 1)\n",
        ("chunks",),
    ),
    Defect(
        "a resumed session goes on in a transaction that was lost",
        "session/commands.py",
        "        if (pending.transaction.is_open and verb not in _BEGINS_ANEW) or not (may and",
        "        if not ((may or verb in _FOR_ITS_RECEIVER) and",
        ("resume", "resume-after-refusal"),
    ),
)
# Waits and ends (guarantee 8)
_OF_TIME: Final = (
    Defect(
        "a verdict is waited for without an end",
        "session/pending.py",
        'deadlines.end_of_data_reply, "the end of mail data")',
        'float("inf"), "the end of mail data")',
    ),
    Defect(
        "a reply is waited for without an end",
        "session/pending.py",
        "            watch.allow(seconds, entry)",
        '            watch.allow(float("inf"), entry)',
    ),
    Defect(
        "a silent sender is waited for without an end",
        "session/command_stream.py",
        '        watch.allow(seconds, "a command")',
        '        watch.allow(float("inf"), "a command")',
    ),
    Defect(
        "a peer that stays is waited for without an end",
        "net/lingering.py",
        '            watch.allow(min(idle_seconds, end - watch.now), "FIN")',
        '            watch.allow(float("inf"), "FIN")',
    ),
    Defect(
        "a sender that stops in mail data is waited for without an end",
        "session/mail_data_reader.py",
        "        self._watch.allow(self._seconds, doing)",
        '        self._watch.allow(float("inf"), doing)',
    ),
    Defect(
        "an idle sender is waited for, and not its receiver",
        "session/command_stream.py",
        "        await leg.speaks_or(receiver.leg)\n",
        "        await leg.wait_to_read()\n",
    ),
    Defect(
        "the receiver's leg leaks where the session is cut short",
        "session/session.py",
        "        if receiver and not receiver.lingering:\n            receiver.leg.reset()\n",
        "",
        test="tests/session/test_limits.py tests/session/test_backpressure_and_time.py",
    ),
    Defect(
        "a watch wakes nobody once it was told of both legs",
        "net/pollable.py",
        "            self.wanted = other.wanted = READABLE\n",
        "            self.wanted = READABLE\n",
    ),
    Defect(
        "a deadline passes two minutes early",
        "net/watch.py",
        "        return deadline < self.now - self.tick_seconds",
        "        return deadline - 120 < self.now - self.tick_seconds",
    ),
    Defect(
        "a write that came short is not gone on with",
        "net/leg.py",
        "            rest = rest[self.send_now(rest) :]",
        "            self.send_now(rest)\n            break",
    ),
)
# What nobody is to notice, and what is to be told (guarantees 9 to 11, and the record)
_OF_TRACES: Final = (
    Defect(
        "a refused recipient's 550 becomes 551",
        "session/sender.py",
        "        self._unsaid = self._unsaid + octets if self._unsaid else octets",
        '        self._unsaid = self._unsaid + octets.replace(b"550", b"551")',
    ),
    Defect(
        "a keyword of EHLO is lost",
        "session/capabilities.py",
        "        removed, added = [], []\n",
        '        removed, added = [b"SIZE"], []\n',
    ),
    Defect(
        "plaintext behind STARTTLS is read as if it came inside TLS",
        "session/security.py",
        '        self._discard(sender.commands.take_ahead(), "sender")\n        sender.leg.watch',
        "        sender.leg.watch",
        ("starttls-terminated", "starttls-on-both"),
    ),
    Defect(
        "an early reply is not told",
        "session/mail_data_reply.py",
        "            tell(Violation.EARLY_REPLY, code=refusal.code, reply=refusal.octets, **figures)",
        "            pass",
    ),
    Defect(
        "replies that are dropped are not told",
        "session/record.py",
        "            repaired(self._violation, count=self._count, first=self._first)",
        "            pass",
    ),
    Defect(
        "a repair is counted twice",
        "session/record.py",
        "self.repairs[repair.violation] += 1",
        "self.repairs[repair.violation] += 2",
    ),
    Defect(
        "a refused mail counts as accepted",
        "session/mail_data_reply.py",
        "                record.accepted += self._accepted",
        "                record.accepted += 1",
    ),
    Defect(
        "octets that are read ahead are not counted",
        "net/leg.py",
        "        self.octets_in += size_octets\n        return octets",
        "        return octets",
    ),
    Defect(
        "a reply is counted in the wrong class",
        "session/sender.py",
        "        events.record.replies[given.code // 100] += 1",
        "        events.record.replies[given.code // 110] += 1",
    ),
    Defect(
        "a size over the limit is accepted by one octet",
        "session/size_limit.py",
        "        return limit_octets is not None and octets > limit_octets",
        "        return limit_octets is not None and octets > limit_octets + 1",
        ("max-size-declared", "max-size"),
    ),
    Defect(
        "a mail in the clear goes to a receiver that must have TLS",
        "session/security.py",
        "                return False  # also over TLS, with one whom nobody trusts",
        "                return True",
        ("starttls-to-receiver",),
    ),
    Defect(
        "a sender that vanishes is not told",
        "session/mail_data_reply.py",
        _TELLS_OF_VANISHED,
        "",
    ),
)
# Plain turns, which leave to the handlers what is not plain
_OF_PLAIN_TURNS: Final = (
    Defect(
        "a plain turn relays any reply of one line",
        "session/plain_turns.py",
        "if reply is None or reply.kind != _ACCEPTS[verb] or ",
        "if reply is None or ",
    ),
    Defect(
        "what a receiver does not take of a plain command is lost",
        "session/plain_turns.py",
        "                receiver.commands.unwritten = octets[taken_octets:]\n",
        "",
    ),
    Defect(
        "plain mail data are written although the receiver has spoken",
        "session/plain_turns.py",
        "        if spoke is None:\n",
        "        if not receiver_leg.ended:\n",
        test="tests/session/test_plain_turns.py",
    ),
    Defect(
        "an end within plain mail data is not seen",
        "session/plain_turns.py",
        "            or buffer.find(END_OF_DATA, BLOCK_START, stop) < stop - len(END_OF_DATA)\n",
        "",
        test="tests/session/test_plain_turns.py",
    ),
    Defect(
        "a stray octet passes in plain mail data",
        "session/plain_turns.py",
        "            or has_stray(buffer, BLOCK_START, stop)\n",
        "",
    ),
    Defect(
        "what the receiver has of plain mail data is written twice",
        "session/plain_turns.py",
        "handler.reader_of_mail().begin_with(since, size_octets, taken_octets, is_traced=True)",
        "handler.reader_of_mail().begin_with(since, size_octets, is_traced=True)",
    ),
    Defect(
        "a 250 that overtakes plain mail data is believed",
        "session/plain_turns.py",
        " or receiver_leg.unacknowledged_octets:",
        ":",
    ),
    Defect(
        "the reply to plain mail data is waited for without an end",
        "session/plain_turns.py",
        "watch.now + deadlines.end_of_data_reply",
        'float("inf")',
    ),
)

DEFECTS: Final = (*_OF_REPLIES, *_OF_MAIL_DATA, *_OF_TIME, *_OF_TRACES, *_OF_PLAIN_TURNS)
