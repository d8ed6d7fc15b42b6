"""The replies that the shim gives itself: to whom nobody else has given one (guarantees 1 and 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.reply import Own

if TYPE_CHECKING:
    from collections.abc import Mapping

DONE = Own.make(250, "2.0.0", "OK")
BYE = Own.make(221, "2.0.0", "closing connection")
READY_FOR_TLS = Own.make(220, "2.0.0", "ready to start TLS")
NOT_OFFERED = Own.make(502, "5.5.1", "command not offered through this proxy")
OUT_OF_ORDER = Own.make(503, "5.5.1", "say EHLO again behind STARTTLS")
BAD_LINE = Own.make(500, "5.5.2", "command line too long, or with a bare CR, bare LF or NUL in it")
SPOKE_EARLY = Own.make(554, "5.5.1", "sent before the greeting, closing connection")
EMPTY_LINE = Own.make(500, "5.5.2", "empty line where a command is due")
NOT_SMTP = Own.make(421, "4.5.0", "this port speaks SMTP and nothing else, closing connection")
AUTH_TOO_LONG = Own.make(500, "5.5.6", "AUTH line too long")
BAD_NEWLINES = Own.make(550, "5.5.2", "mail data with a bare CR, bare LF or NUL in them")
TOO_BIG = Own.make(552, "5.3.4", "message size exceeds the limit")
SHUTTING_DOWN = Own.make(421, "4.3.2", "service shutting down")
SENDER_LATE = Own.make(421, "4.4.2", "timeout, closing connection")
RECEIVER_LOST = Own.make(421, "4.4.2", "lost the connection to the receiver")
RECEIVER_LATE = Own.make(421, "4.4.2", "the receiver did not reply in time")
MAIL_STOPPED = Own.make(421, "4.3.0", "closing connection behind the mail that was refused")
COMMAND_UNANSWERED = Own.make(451, "4.4.2", "the receiver gave no reply, try again later")
MAIL_UNANSWERED = Own.make(451, "4.4.2", "the receiver gave no verdict, try again later")
NO_SERVICE = Own.make(421, "4.3.2", "the receiver gave no greeting, try again later")
NO_CONNECTION = Own.make(421, "4.4.1", "the receiver cannot be reached, try again later")
SENDER_UNUSABLE = Own.make(421, "4.4.1", "your link-local address is of no use beyond here, closing connection")
DESTINATION_REFUSED = Own.make(421, "4.7.1", "this proxy does not go there, closing connection")
RECEIVER_NOT_SECURE = Own.make(421, "4.7.4", "no TLS with the receiver, closing connection")
NOT_AS_BEFORE = Own.make(421, "4.4.1", "the receiver is not as it was before, closing connection")
NOT_INTRODUCED = Own.make(421, "4.7.0", "the receiver does not take who you are from this proxy, closing connection")
NO_LOGIN = Own.make(421, "4.7.0", "the receiver does not let this proxy log in, closing connection")
IN_DISORDER = Own.make(421, "4.5.0", "the receiver's replies are out of step, closing connection")
TOO_MANY_SESSIONS = Own.make(421, "4.7.0", "too many sessions, try again later")
TOO_MANY_OF_YOURS = Own.make(421, "4.7.0", "too many sessions from your network, try again later")
TOO_MANY_CONNECTIONS = Own.make(421, "4.7.0", "too many connections from your network, try again later")
NO_MEANS = Own.make(421, "4.3.2", "no means left to serve anybody else, try again later")
AT_A_LIMIT = Own.make(421, "4.7.0", "more than is served in a session, closing connection")
SENT_TOO_SOON = Own.make(421, "4.5.0", "sent without waiting for replies, closing connection")
EARLY_SUCCESS = Own.make(451, "4.3.0", "the receiver replied before the end of mail data, try again later")

_BAD_LINES: Mapping[Violation | None, Own] = {
    Violation.AUTH_TOO_LONG: AUTH_TOO_LONG,
    Violation.EMPTY_LINE: EMPTY_LINE,
}


def to_bad_line(violation: Violation | None) -> Own:
    """What answers a line that no receiver is given, for what is wrong with it."""
    return _BAD_LINES.get(violation, BAD_LINE)
