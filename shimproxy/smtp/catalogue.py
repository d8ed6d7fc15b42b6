"""The catalogue of violations: everything that shimproxy repairs, by one name each.

The names stand in logs, session records and docs/violations.md. Each member carries who does it (`by`), the RFC rule
that it breaks (`rule`) and what shimproxy does about it (`repair`); the page's table is made of this.
"""

from __future__ import annotations

import enum


class Violation(enum.Enum):
    """What a peer did that the RFC does not allow; the value is its name in logs."""

    by: str
    rule: str
    repair: str

    def __new__(cls, name: str, by: str, rule: str, repair: str) -> Violation:
        """A member with the name `name`; the rest become its attributes."""
        member = object.__new__(cls)
        member._value_ = name
        member.by, member.rule, member.repair = by, rule, repair
        return member

    def __str__(self) -> str:
        return str(self.value)

    # by the receiver, in mail data
    EARLY_REPLY = (
        "early-reply",
        "receiver",
        "RFC 5321 4.2, 4.3.2",
        (
            "shimproxy holds the reply, resets the receiver and drains the sender; it relays the reply once, after "
            "the end of mail data"
        ),
    )
    EARLY_SUCCESS = (
        "early-success",
        "receiver",
        "RFC 5321 4.1.1.4, 4.2.5",
        (
            "never relayed as success: shimproxy resets the receiver, and replies 451 4.3.0 after the end of mail "
            "data (--early-success)"
        ),
    )
    FURTHER_REPLY = (
        "further-reply",
        "receiver",
        "RFC 5321 4.2",
        "a repeated 354, a 500 for each line, or a second 552: dropped; a 421 answers the next command",
    )
    CLOSED_IN_DATA = (
        "closed-in-data",
        "receiver",
        "RFC 5321 3.8",
        (
            "shimproxy drains the sender; after the end of mail data it relays the verdict, or replies 451 4.4.2 "
            "without one"
        ),
    )
    RESET_IN_DATA = (
        "reset-in-data",
        "receiver",
        "RFC 5321 3.8",
        (
            "shimproxy reads all that the receiver sent; after the end of mail data it relays the verdict, or replies "
            "451 4.4.2"
        ),
    )
    STALLED_IN_DATA = (
        "stalled-in-data",
        "receiver",
        "RFC 5321 4.5.3.2.5",
        "the receiver accepts nothing or too little, or stops within a reply: after the deadline shimproxy resets it, "
        "drains the sender, and replies 451 4.4.2",
    )
    # by the receiver, between commands
    EXTRA_REPLY = (
        "extra-reply",
        "receiver",
        "RFC 5321 4.2",
        "dropped; a 421 answers the next command; a 354, endless replies, or a refusal within a transaction: 421 "
        "4.5.0, close",
    )
    IMPLAUSIBLE_REPLY = (
        "implausible-reply",
        "receiver",
        "RFC 5321 4.3.2",
        "the code cannot answer the command, or the reply has no end: 421 4.5.0, close",
    )
    CLOSED_WITH_COMMANDS_OPEN = (
        "closed-with-commands-open",
        "receiver",
        "RFC 5321 3.8",
        "451 4.4.2 for each unanswered command, 421 4.4.2 for the last; close",
    )
    CLOSED_WHILE_IDLE = (
        "closed-while-idle",
        "receiver",
        "RFC 5321 3.8",
        ("the next command gets the receiver's 421, or 421 4.4.2; close (see --resume for a new connection instead)"),
    )
    NO_REPLY = (
        "no-reply",
        "receiver",
        "RFC 5321 4.5.3.2",
        "421 4.4.2 after the deadline (451 4.4.2 to mail data), close",
    )
    NO_221 = ("no-221", "receiver", "RFC 5321 4.1.1.10", "shimproxy replies 221 2.0.0, close")
    NO_CLOSE = (
        "no-close",
        "receiver or sender",
        "RFC 5321 4.1.1.10",
        "the peer stays open after 221 or 421: shimproxy waits for a moment, then resets the connection",
    )
    # by the receiver, in the form of a reply
    REPLY_BARE_NEWLINE = (
        "reply-bare-newline",
        "receiver",
        "RFC 5321 2.3.8",
        "shimproxy relays the reply with CRLF; a bare CR or NUL in it becomes a blank",
    )
    MISSING_TEXT = (
        "missing-text",
        "receiver",
        "RFC 5321 4.2",
        ("shimproxy adds a text to a code alone, or omits that line after others; a challenge (334) stays empty"),
    )
    REPLY_LONG_LINE = (
        "reply-long-line",
        "receiver",
        "RFC 5321 4.5.3.1.5",
        "folded into lines of at most 512 octets (a challenge: 12,288); text beyond the limit of a reply is cut",
    )
    MIXED_CODES = (
        "mixed-codes",
        "receiver",
        "RFC 5321 4.2.1",
        "every line gets the last line's code; a success among refusals is not a usable code",
    )
    CUT_OFF = (
        "cut-off",
        "receiver",
        "RFC 5321 4.2",
        "no CRLF before the end of the connection: shimproxy completes the reply and keeps its code",
    )
    NOT_A_REPLY = (
        "not-a-reply",
        "receiver",
        "RFC 5321 4.2",
        "no blank after the code (250OK): shimproxy adds it; no code: the code of the reply's other lines, otherwise "
        "421 (451 to mail data)",
    )
    # by the receiver, at the beginning
    NO_GREETING = (
        "no-greeting",
        "receiver",
        "RFC 5321 3.1",
        "the next receiver if there is one, otherwise 421 4.3.2 as greeting, close",
    )
    GREETING_THEN_CLOSE = (
        "greeting-then-close",
        "receiver",
        "RFC 5321 3.8",
        "the first command gets 421 4.4.2, close",
    )
    UNREACHABLE = (
        "unreachable",
        "receiver",
        "RFC 5321 3.1",
        "the next receiver if there is one, otherwise 421 4.4.1 as greeting, close",
    )
    XCLIENT_REFUSED = (
        "xclient-refused",
        "receiver",
        "Postfix XCLIENT_README, server response",
        "the receiver offers XCLIENT but refuses it, or refuses the EHLO before it (--xclient): 421 4.7.0 or the "
        "receiver's own 421, close",
    )
    TLS_REFUSED = (
        "tls-refused",
        "receiver",
        "RFC 3207 4, 4.1",
        "TLS is necessary (--receiver-tls required, or the sender used TLS); the receiver does not offer STARTTLS, "
        "refuses it, or disconnects: 421 4.7.4, close",
    )
    NOT_AS_BEFORE = (
        "not-as-before",
        "receiver",
        "RFC 5321 3.1, 4.1.1.1",
        "on a new connection the receiver does not greet, or does not offer the same: the next receiver if there is "
        "one, otherwise 421, close",
    )
    LOGIN_REFUSED = (
        "login-refused",
        "receiver",
        "RFC 4954 6",
        "the receiver does not let shimproxy log in (--login): 421 4.7.0, close",
    )
    # by the sender
    PROXY_HEADER = (
        "proxy-header",
        "sender",
        "PROXY protocol, section 2",
        (
            "a trusted proxy sends no header, or one that is cut, wrong, too long or late: shimproxy closes without a "
            "reply"
        ),
    )
    DESTINATION_REFUSED = (
        "destination-refused",
        "sender",
        "RFC 5321 3.8",
        (
            "a direct connection to the listener, a loop, or a destination outside --allow-destination: 421 4.7.1 as "
            "greeting, close"
        ),
    )
    EARLY_TALK = (
        "early-talk",
        "sender",
        "RFC 5321 3.1",
        "shimproxy holds octets before the greeting until it has relayed that, or replies 554 5.5.1 instead, close "
        "(--early-talk)",
    )
    NOT_SMTP = (
        "not-smtp",
        "sender",
        "RFC 5321 3.1, 4.1.1",
        "an unexpected TLS ClientHello, HTTP request or PROXY header: 421 4.5.0, close; the log says how to correct "
        "the setup",
    )
    WITHHELD_COMMAND = (
        "withheld-command",
        "sender",
        "RFC 5321 2.2.1, 4.2.4",
        (
            "a command that shimproxy does not offer: 502 5.5.1, never forwarded; 503 5.5.1 until the sender repeats "
            "EHLO after STARTTLS"
        ),
    )
    UNOFFERED_PIPELINING = (
        "unoffered-pipelining",
        "sender",
        "RFC 5321 4.3.1, RFC 2920",
        "shimproxy holds the commands and forwards them one at a time",
    )
    BARE_NEWLINE = (
        "bare-newline",
        "sender",
        "RFC 5321 2.3.8",
        "in a command or AUTH response: forwarded with CRLF; in mail data: replaced like bare CR and NUL (--newlines)",
    )
    UNKNOWN_OCTETS = (
        "unknown-octets",
        "sender",
        "RFC 5321 4.1.1",
        (
            "a NUL or bare CR in a command: 500 5.5.2, never forwarded; in an AUTH response: shimproxy cancels AUTH "
            "with *"
        ),
    )
    EMPTY_LINE = (
        "empty-line",
        "sender",
        "RFC 5321 4.1.1",
        ("only blanks instead of a command: 500 5.5.2, never forwarded, because some receivers do not answer it"),
    )
    LONG_LINE = (
        "long-line",
        "sender",
        "RFC 5321 4.5.3.1.4",
        "a command over the limit: 500 5.5.2, never forwarded; BDAT: 421 4.5.0, close",
    )
    AUTH_TOO_LONG = (
        "auth-too-long",
        "sender",
        "RFC 4954 4, 6",
        "AUTH over the limit: 500 5.5.6, never forwarded; an AUTH response: shimproxy cancels AUTH with * (--limit "
        "command-octets)",
    )
    VANISHED_IN_DATA = (
        "vanished-in-data",
        "sender",
        "RFC 5321 4.1.1.4",
        "FIN or RST before the end of mail data: shimproxy resets the receiver's connection; a Unix socket has no "
        "reset, so its receiver sees end of file after the last whole line",
    )
    CLOSED_WITHOUT_QUIT = (
        "closed-without-quit",
        "sender",
        "RFC 5321 4.1.1.10",
        (
            "shimproxy sends QUIT to the receiver, close; after a verdict this is a habit of some senders, logged at "
            "INFO"
        ),
    )
    VERDICT_UNREAD = (
        "verdict-unread",
        "sender",
        "RFC 5321 4.5.3.2.6, RFC 1047",
        "the sender disconnected before its host received the verdict, and will send the mail again; an accepted mail "
        "arrives twice, which no proxy can prevent",
    )
    DATA_WITHOUT_354 = (
        "data-without-354",
        "sender",
        "RFC 5321 4.3.1",
        "mail data after a refused DATA: never forwarded as commands, 421 4.5.0, close",
    )
    SENDER_STALLED = (
        "sender-stalled",
        "sender",
        "RFC 5321 4.5.3.2.7",
        "no command, no end of mail data, or an octet a minute: 421 4.4.2 or the held verdict, close",
    )
    UNTIDY_PATH = (
        "untidy-path",
        "sender",
        "RFC 5321 4.1.2, 4.1.1.2",
        "with --tidy: shimproxy corrects MAIL or RCPT with stray blanks or without brackets",
    )
    IMPOSSIBLE_NAME = (
        "impossible-name",
        "sender",
        "RFC 5321 4.1.1.1",
        "with --tidy: shimproxy forwards HELO or EHLO without a valid name with --helo-name",
    )
    OVERSIZE = (
        "oversize",
        "sender",
        "RFC 1870 6.1",
        (
            "larger than --max-size: 552 5.3.4 to MAIL or RCPT if SIZE= says so, otherwise shimproxy drains the mail "
            "and replies 552 5.3.4"
        ),
    )
    PLAINTEXT_BEHIND_STARTTLS = (
        "plaintext-behind-starttls",
        "receiver or sender",
        "RFC 3207 4.2",
        "octets after STARTTLS or its 220 and before TLS: discarded",
    )
    TLS_FAILED = (
        "tls-failed",
        "receiver or sender",
        "RFC 3207 4.1",
        (
            "the sender: close; the receiver: another try without TLS (--receiver-tls opportunistic), otherwise 421 "
            "4.7.4"
        ),
    )
    LIMIT_REACHED = (
        "limit-reached",
        "sender",
        "RFC 5321 3.8, 7.8",
        "421 4.7.0 as greeting (4.3.2 without file descriptors), or to the next command after open mail data have "
        "their verdict; close",
    )
    CHUNK_OF_NO_SIZE = (
        "chunk-of-no-size",
        "sender",
        "RFC 3030 2",
        "a BDAT without an unambiguous chunk size: 421 4.5.0, close",
    )
    OUTRUN = (
        "outrun",
        "sender",
        "RFC 5321 4.3.1",
        "the sender sent more ahead of a reply than shimproxy holds: 421 4.5.0, close",
    )
