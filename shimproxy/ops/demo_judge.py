"""What the demo says it saw: each line is judged from what the peers and the shim's observer have written down.

A claim is printed only if it was observed; what was not is printed as such, with what was seen instead. Pure but for
the Witness, which the shim tells of its session.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import attrs
import trio

from shimproxy.ops.demo_peers import REPLY_421, REPLY_552
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.ops.demo_peers import ReceiverAccount, SenderAccount
    from shimproxy.ops.demo_wire import Mail, Trace
    from shimproxy.session.record import Repair, SessionRecord


@attrs.define(eq=False)
class Witness:
    """Sees the shim's session: its repairs go into the trace, its record is kept. An Observer."""

    trace: Trace
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
        self.trace.note("Shim", f"repairs: {repair.violation}")
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
    def that(cls, seen: bool, claim: str, expected: str, instead: str = "nothing of it") -> Check:
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
    if account.refusal:
        return account.refusal
    return f"the replies after the final dot were {', '.join(account.replies) or 'none'}"


def judge_without(account: SenderAccount) -> list[Check]:
    """What the run without the shim should have shown."""
    blocked = account.blocked_seconds > 0 and not account.end_written
    unread = f"{REPLY_552} / {REPLY_421}"
    return [
        Check.that(
            blocked,
            f"The sender was blocked: after {account.mail_octets:,} octets its next write had not ended within "
            f"{account.blocked_seconds:g} s. It came to no final dot.",
            "a blocked sender",
            how_it_went(account),
        ),
        Check.that(
            blocked and account.unread == unread,
            "The 552 that it should have had lay unread in its socket, and the 421 behind it.",
            "552 and 421 unread in the sender's socket",
            account.unread or "nothing lay there",
        ),
    ]


def judge_with(account: SenderAccount, receiver: ReceiverAccount, witness: Witness, mail: Mail) -> list[Check]:
    """What the run with the shim should have shown."""
    replies, went = account.replies, how_it_went(account)
    to_mail_data = [reply for reply in replies if not reply.startswith("221")]
    got_octets, record = len(receiver.mail_data), witness.record
    names = list(record.repairs) if record else []
    return [
        Check.that(
            account.end_written and not account.unread,
            f"The sender wrote all its {account.mail_octets:,} octets of mail data and the final dot, undisturbed.",
            "a sender that comes to its final dot undisturbed",
            f"{account.unread} came before the dot" if account.unread else went,
        ),
        Check.that(
            to_mail_data == [REPLY_552],
            f"Then it had the receiver's own reply, once: {REPLY_552}.",
            "the receiver's 552 after the final dot, once",
            went,
        ),
        Check.that(
            account.end_written and not any(reply.startswith("421") for reply in replies),
            "It never saw the 421.",
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
            account.ended == "FIN", "The sender leg is closed, FIN from both sides.", "FIN on the sender leg", went
        ),
        Check.that(
            record is not None and bool(receiver.ended),
            f"The receiver leg is closed: the receiver read on to the shim's {receiver.ended}.",
            "a closed receiver leg",
            witness.bug or "no end of it",
        ),
        Check.that(
            got_octets == witness.forwarded_when_noticed_octets and mail.begins_with(receiver.mail_data),
            f"Not one octet went to the receiver once its early reply was noticed, no QUIT either: it got the first "
            f"{got_octets:,} octets of the mail and nothing else.",
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


def judge_real(account: SenderAccount, witness: Witness) -> list[Check]:
    """What a run through the shim has to show with any receiver."""
    went, record = how_it_went(account), witness.record
    to_mail_data = [reply for reply in account.replies if not reply.startswith("221")]
    names = ", ".join(f"{each} ({each.repair})" for each in record.repairs) if record else ""
    return [
        Check.that(
            account.end_written and not account.unread and len(to_mail_data) == 1,
            f"The sender wrote {account.mail_octets:,} octets of mail data and the final dot, then had its reply, "
            f"once: {', '.join(to_mail_data)}.",
            "one reply to mail data, after the final dot",
            f"{account.unread} came before the dot" if account.unread else went,
        ),
        Check.that(account.ended == "FIN", "The sender leg is closed.", "FIN on the sender leg", went),
        Check.that(
            record is not None and not witness.bug,
            f"The receiver leg is closed. Repaired: {names or 'nothing, nothing was amiss'}.",
            "the end of the shim's session",
            witness.bug or "it goes on",
        ),
    ]


def report(checks: Sequence[tuple[str, Sequence[Check]]], columns: int) -> list[str]:
    """The lines below the ladders: what was seen, and what was not."""
    lines: list[str] = []
    for heading, group in checks:
        lines += ["", heading]
        for check in group:
            mark, text = ("  seen      ", check.claim) if check.seen else ("  NOT SEEN  ", check.instead)
            lines += textwrap.wrap(
                text, columns, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False
            )
    return lines
