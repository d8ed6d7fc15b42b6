"""Refusals of receivers that the operator has corrected by rule (smtp/rewrite.py), and how that is told.

A refusal is corrected before anything is decided by it, so that shimproxy goes on as after a receiver that has said so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Verb
from shimproxy.smtp.rewrite import RewritePlace, rewritten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shimproxy.session.policy import Policy
    from shimproxy.session.sender import Sender
    from shimproxy.smtp.reply import Reply

END_OF_DATA: Final = RewritePlace.END_OF_DATA
PLACES: Final[Mapping[Verb, RewritePlace]] = {
    Verb.MAIL: RewritePlace.MAIL,
    Verb.RCPT: RewritePlace.RCPT,
    Verb.DATA: RewritePlace.DATA,
}


def corrected(reply: Reply, place: RewritePlace | None, policy: Policy, sender: Sender) -> Reply:
    """The reply as the sender is to be given it, where it answers `place`; the same without a rule for it."""
    found = rewritten(reply, place, policy.rewrites, enhanced=sender.enhanced_codes) if place else None
    if not found:
        return reply
    made, rule = found
    sender.events.repaired(Violation.REWRITTEN_REPLY, rule=str(rule), reply=reply.octets, given=made.octets)
    sender.events.said(made)
    return made
