"""What the demo says it saw: each line is judged from what the peers and the shim's observer have written down.

A claim is printed only if it was observed; what was not is printed as such, with what was seen instead. Pure but for
the Witness, which shimproxy tells of its session.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.demo.peers import REPLY_421, REPLY_552
from shimproxy.program.terminal import Style
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.demo.peers import ReceiverAccount, SenderAccount
    from shimproxy.demo.wire import WireTrace
    from shimproxy.faulty.mail import Mail
    from shimproxy.program.terminal import Screen
    from shimproxy.session.record import Repair, SessionRecord


@attrs.define(eq=False)
class Witness:
    """Sees shimproxy's session: its repairs go into the trace, its record is kept. An Observer."""

    trace: WireTrace
    record: SessionRecord | None = None
    forwarded_when_noticed_octets: int = -1
    """How much mail data had gone to the receiver when its early reply was noticed; -1 if none was."""
    bug: str = ""
    _over: trio.Event = attrs.field(factory=trio.Event)
    wants_dialogue: bool = False

    def said(self, record: SessionRecord, who: str, octets: bytes) -> None:
        """The peers write down themselves what was said."""

    def repaired(self, record: SessionRecord, repair: Repair) -> None:
        """Note a repair."""
        self.trace.note("shimproxy", f"repairs: {repair.violation}")
        if repair.violation is Violation.EARLY_REPLY:
            octets = repair.detail["octets_forwarded"]
            self.forwarded_when_noticed_octets = octets if isinstance(octets, int) else -1

    def ended(self, record: SessionRecord) -> None:
        """Keep the record."""
        self.record = record
        self._over.set()

    def failed(self, record: SessionRecord, error: BaseException) -> None:
        """Keep the bug."""
        self.bug = repr(error)

    async def over(self) -> None:
        """Return when the session is over."""
        await self._over.wait()


@attrs.frozen
class Check:
    """One line below the ladders."""

    seen: bool
    claim: str
    """What was seen; printed only if it was."""
    instead: str = ""
    """What was to be seen and what was seen instead; printed otherwise."""

    @classmethod
    def that(cls, seen: bool, claim: str, expected: str, instead: str = "no reply") -> Check:
        """A check of `claim`, which says more than `expected`."""
        return cls(seen, claim, f"{expected}; instead: {instead}")


def how_it_went(account: SenderAccount) -> str:
    """The sender's run in one clause."""
    lay_unread = f"; unread in its socket: {account.unread}" if account.unread else ""
    if account.blocked_seconds:
        blocked = f"it was blocked after {account.mail_octets:,} octets of mail data, for {account.blocked_seconds:g} s"
        return blocked + lay_unread
    if account.trouble:
        return account.trouble + lay_unread
    return f"the replies after the final dot were {', '.join(account.replies) or 'none'}"


@attrs.frozen
class RunResult:
    """What one run has shown."""

    heading: str
    checks: Sequence[Check]
    conclusion: str = ""
    """All of its checks in a few words."""

    @property
    def title(self) -> str:
        """Its heading, with its conclusion if that was seen."""
        return f"{self.heading}: {self.conclusion}" if self.conclusion and not self.unseen else self.heading

    @property
    def unseen(self) -> list[str]:
        """What was to be seen and was not."""
        return [check.instead.partition("; instead: ")[0] for check in self.checks if not check.seen]


def judge_without(account: SenderAccount) -> RunResult:
    """What the run without shimproxy should have shown."""
    blocked = account.blocked_seconds > 0 and not account.end_written
    unread = f"{REPLY_552} / {REPLY_421}"
    checks = [
        Check.that(
            blocked,
            f"The sender was blocked: after {account.mail_octets:,} octets, a write did not end within "
            f"{account.blocked_seconds:g} s.",
            "a blocked sender",
            how_it_went(account),
        ),
        Check.that(blocked, "It never wrote its final dot.", "a sender without a final dot", how_it_went(account)),
        Check.that(
            blocked and account.unread == unread,
            "The receiver's 552 lay unread in its socket, and the 421 after it.",
            "552 and 421 unread in the sender's socket",
            account.unread or "nothing lay there",
        ),
    ]
    return RunResult("Without shimproxy", checks, "the sender hangs and never reads its 552")


def judge_with(account: SenderAccount, receiver: ReceiverAccount, witness: Witness, mail: Mail) -> RunResult:
    """What the run with shimproxy should have shown."""
    replies, went = account.replies, how_it_went(account)
    to_mail_data = [reply for reply in replies if not reply.startswith("221")]
    got_octets, record = len(receiver.mail_data), witness.record
    names = list(record.repairs) if record else []
    checks = [
        Check.that(
            account.end_written and not account.unread,
            f"The sender wrote all its {account.mail_octets:,} octets and the final dot, undisturbed.",
            "a sender that comes to its final dot undisturbed",
            f"{account.unread} came before the dot" if account.unread else went,
        ),
        Check.that(
            to_mail_data == [REPLY_552],
            f"Then it got the receiver's own reply, once: {REPLY_552}.",
            "the receiver's 552 after the final dot, once",
            went,
        ),
        Check.that(
            account.end_written and not any(reply.startswith("421") for reply in replies),
            "It never got the 421.",
            "no 421 for the sender",
            went,
        ),
        Check.that(
            len(replies) > 1 and replies[-1].startswith("221"),
            f"Its QUIT got {replies[-1] if replies else ''}.",
            "221 for QUIT",
            went,
        ),
        Check.that(
            account.ended == "FIN", "The sender leg is closed, with FIN from both sides.", "FIN on the sender leg", went
        ),
        Check.that(
            record is not None and bool(receiver.ended),
            f"The receiver leg is closed: the receiver read to shimproxy's {receiver.ended}.",
            "a closed receiver leg",
            witness.bug or "no end of it",
        ),
        Check.that(
            got_octets == witness.forwarded_when_noticed_octets and mail.data.startswith(receiver.mail_data),
            f"The receiver got the first {got_octets:,} octets of the mail. After shimproxy noticed its early reply, "
            "it got nothing more, and no QUIT.",
            "nothing for the receiver after its early reply",
            f"it got {got_octets:,} octets, {witness.forwarded_when_noticed_octets:,} of them before",
        ),
        Check.that(
            set(names) == {Violation.EARLY_REPLY, Violation.FURTHER_REPLY},
            f"The session's record names what was repaired: {', '.join(sorted(map(str, names)))}.",
            "early-reply and further-reply in the session's record",
            ", ".join(map(str, names)) or "no repair",
        ),
    ]
    return RunResult("With shimproxy", checks, "the sender gets the receiver's own 552")


def judge_real(account: SenderAccount, witness: Witness) -> RunResult:
    """What a run through shimproxy has to show with any receiver."""
    went, record = how_it_went(account), witness.record
    to_mail_data = [reply for reply in account.replies if not reply.startswith("221")]
    names = ", ".join(f"{each} ({each.repair})" for each in record.repairs) if record else ""
    checks = [
        Check.that(
            account.end_written and not account.unread and len(to_mail_data) == 1,
            f"The sender wrote {account.mail_octets:,} octets of mail data and the final dot, then got its reply, "
            f"once: {', '.join(to_mail_data)}.",
            "one reply to mail data, after the final dot",
            f"{account.unread} came before the dot" if account.unread else went,
        ),
        Check.that(account.ended == "FIN", "The sender leg is closed.", "FIN on the sender leg", went),
        Check.that(
            record is not None and not witness.bug,
            f"The receiver leg is closed. Repaired: {names or 'nothing, there was no violation'}.",
            "the end of shimproxy's session",
            witness.bug or "it is still open",
        ),
    ]
    return RunResult("With shimproxy", checks)


def report(verdicts: Sequence[RunResult], screen: Screen) -> list[str]:
    """The lines below the ladders: what was seen, and what was not."""
    lines: list[str] = []
    for verdict in verdicts:
        lines += ["", screen.paint(verdict.title, Style.BOLD)]
        for check in verdict.checks:
            word, style, text = (
                ("seen", Style.GOOD, check.claim) if check.seen else ("NOT SEEN", Style.BAD, check.instead)
            )
            first, *more = textwrap.wrap(text, screen.columns - len(word) - 4, break_on_hyphens=False)
            lines.append(f"  {screen.paint(word, style)}  {first}")
            lines += (" " * (len(word) + 4) + line for line in more)
    return lines
