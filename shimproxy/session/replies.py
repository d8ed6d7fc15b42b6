"""The replies that the shim gives itself: to whom nobody else has given one (guarantees 1 and 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.reply import LocalReply

if TYPE_CHECKING:
    from collections.abc import Mapping

DONE = LocalReply.make(250, "2.0.0", "OK")
BYE = LocalReply.make(221, "2.0.0", "closing connection")
READY_FOR_TLS = LocalReply.make(220, "2.0.0", "ready to start TLS")
NOT_OFFERED = LocalReply.make(502, "5.5.1", "command not offered through this proxy")
MECHANISM_NOT_OFFERED = LocalReply.make(504, "5.5.4", "AUTH mechanism not offered through this proxy")
NOT_LET_THROUGH = LocalReply.make(421, "4.7.0", "not let through by this proxy, closing connection")
OUT_OF_ORDER = LocalReply.make(503, "5.5.1", "send EHLO again after STARTTLS")
BAD_LINE = LocalReply.make(500, "5.5.2", "command line too long, or with a bare CR, bare LF or NUL in it")
SPOKE_EARLY = LocalReply.make(554, "5.5.1", "sent before the greeting, closing connection")
EMPTY_LINE = LocalReply.make(500, "5.5.2", "empty line where a command is due")
NOT_SMTP = LocalReply.make(421, "4.5.0", "this port speaks SMTP and nothing else, closing connection")
AUTH_TOO_LONG = LocalReply.make(500, "5.5.6", "AUTH line too long")
BAD_NEWLINES = LocalReply.make(550, "5.5.2", "mail data with a bare CR, bare LF or NUL in them")
TOO_BIG = LocalReply.make(552, "5.3.4", "message size exceeds the limit")
SHUTTING_DOWN = LocalReply.make(421, "4.3.2", "service shutting down")
SENDER_LATE = LocalReply.make(421, "4.4.2", "timeout, closing connection")
RECEIVER_LOST = LocalReply.make(421, "4.4.2", "lost the connection to the receiver")
RECEIVER_LATE = LocalReply.make(421, "4.4.2", "the receiver did not reply in time")
MAIL_STOPPED = LocalReply.make(421, "4.3.0", "closing connection after the refused mail")
COMMAND_UNANSWERED = LocalReply.make(451, "4.4.2", "the receiver gave no reply, try again later")
MAIL_UNANSWERED = LocalReply.make(451, "4.4.2", "the receiver gave no verdict, try again later")
NO_SERVICE = LocalReply.make(421, "4.3.2", "the receiver gave no greeting, try again later")
RECEIVER_FULL = LocalReply.make(421, "4.3.2", "the receiver has no free connection, try again later")
NO_CONNECTION = LocalReply.make(421, "4.4.1", "the receiver cannot be reached, try again later")
SENDER_UNUSABLE = LocalReply.make(421, "4.4.1", "link-local sender addresses are not served here, closing connection")
DESTINATION_REFUSED = LocalReply.make(421, "4.7.1", "destination not allowed through this proxy, closing connection")
LOOP = LocalReply.make(421, "4.4.6", "mail loop: the receiver's address leads back here, closing connection")
RECEIVER_NOT_SECURE = LocalReply.make(421, "4.7.4", "no TLS with the receiver, closing connection")
NOT_AS_BEFORE = LocalReply.make(421, "4.4.1", "the receiver's capabilities have changed, closing connection")
NOT_INTRODUCED = LocalReply.make(421, "4.7.0", "the receiver rejected the client's identity, closing connection")
NO_LOGIN = LocalReply.make(421, "4.7.0", "login to the receiver failed, closing connection")
IN_DISORDER = LocalReply.make(421, "4.5.0", "the receiver's replies are out of step, closing connection")
TOO_MANY_SESSIONS = LocalReply.make(421, "4.7.0", "too many sessions, try again later")
TOO_MANY_OF_YOURS = LocalReply.make(421, "4.7.0", "too many sessions from your network, try again later")
TOO_MANY_CONNECTIONS = LocalReply.make(421, "4.7.0", "too many connections from your network, try again later")
SENDER_NOT_ALLOWED = LocalReply.make(554, "5.7.1", "this address may not send mail through this server")
NO_MEANS = LocalReply.make(421, "4.3.2", "out of resources, try again later")
AT_A_LIMIT = LocalReply.make(421, "4.7.0", "session limit reached, closing connection")
SENT_TOO_SOON = LocalReply.make(421, "4.5.0", "sent without waiting for replies, closing connection")
EARLY_SUCCESS = LocalReply.make(451, "4.3.0", "the receiver replied before the end of mail data, try again later")

_BAD_LINES: Mapping[Violation | None, LocalReply] = {
    Violation.AUTH_TOO_LONG: AUTH_TOO_LONG,
    Violation.EMPTY_LINE: EMPTY_LINE,
}


def to_bad_line(violation: Violation | None) -> LocalReply:
    """What answers a line that no receiver is given, for what is wrong with it."""
    return _BAD_LINES.get(violation, BAD_LINE)
