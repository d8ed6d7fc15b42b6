"""The catalogue of violations: everything that shimproxy repairs, by one name each.

The names stand in logs, session records and the README. Each member carries who does it (`by`), the RFC rule
that it breaks (`rule`) and what shimproxy does about it (`repair`); README's table is held to this by a test.
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
        "held, the receiver reset, the sender drained, relayed once after the end of mail data",
    )
    EARLY_SUCCESS = (
        "early-success",
        "receiver",
        "RFC 5321 4.1.1.4, 4.2.5",
        "never relayed as success: the receiver reset, 451 4.3.0 after the end of mail data (--early-success)",
    )
    FURTHER_REPLY = (
        "further-reply",
        "receiver",
        "RFC 5321 4.2",
        "a repeated 354, a 500 for each line, a second 552: dropped; a 421 answers the next command",
    )
    CLOSED_IN_DATA = (
        "closed-in-data",
        "receiver",
        "RFC 5321 3.8",
        "the sender drained; the verdict if one was readable, else 451 4.4.2 after the end of mail data",
    )
    RESET_IN_DATA = (
        "reset-in-data",
        "receiver",
        "RFC 5321 3.8",
        "the receiver read to its end; the verdict if one was readable, else 451 4.4.2 after the end",
    )
    STALLED_IN_DATA = (
        "stalled-in-data",
        "receiver",
        "RFC 5321 4.5.3.2.5",
        "takes nothing, or too little, or stops in half a reply: given up after the deadline; the sender drained, "
        "451 4.4.2 after the end of mail data",
    )
    # by the receiver, between commands
    EXTRA_REPLY = (
        "extra-reply",
        "receiver",
        "RFC 5321 4.2",
        "dropped; a 421 is kept and answers the next command; a 354, replies without end, or a refusal within a "
        "transaction: 421 4.5.0, close",
    )
    IMPLAUSIBLE_REPLY = (
        "implausible-reply",
        "receiver",
        "RFC 5321 4.3.2",
        "a code that cannot answer the command, the legs are out of step: 421 4.5.0, close",
    )
    CLOSED_WITH_COMMANDS_OPEN = (
        "closed-with-commands-open",
        "receiver",
        "RFC 5321 3.8",
        "451 4.4.2 for each command that was left unanswered, 421 4.4.2 for the last; close",
    )
    CLOSED_WHILE_IDLE = (
        "closed-while-idle",
        "receiver",
        "RFC 5321 3.8",
        "the next command gets the receiver's 421, or 421 4.4.2; close (but see --resume)",
    )
    NO_REPLY = (
        "no-reply",
        "receiver",
        "RFC 5321 4.5.3.2",
        "421 4.4.2 after the deadline (451 4.4.2 to mail data), close",
    )
    NO_221 = ("no-221", "receiver", "RFC 5321 4.1.1.10", "221 2.0.0 synthesised, close")
    NO_CLOSE = (
        "no-close",
        "receiver or sender",
        "RFC 5321 4.1.1.10",
        "stays open after 221 or 421: a linger, then a reset",
    )
    # by the receiver, in the form of a reply
    REPLY_BARE_NEWLINE = (
        "reply-bare-newline",
        "receiver",
        "RFC 5321 2.3.8",
        "the reply relayed with CRLF; a bare CR or NUL in it becomes a blank",
    )
    MISSING_TEXT = (
        "missing-text",
        "receiver",
        "RFC 5321 4.2",
        "a code alone, or with a blank: gets a text, or is left out after other lines; a challenge (334) stays empty",
    )
    REPLY_LONG_LINE = (
        "reply-long-line",
        "receiver",
        "RFC 5321 4.5.3.1.5",
        "folded into lines of at most 512 octets (a challenge: 12,288); beyond the limit of a reply the text is cut",
    )
    MIXED_CODES = (
        "mixed-codes",
        "receiver",
        "RFC 5321 4.2.1",
        "the last line's code on every line; a success among refusals is no usable code",
    )
    CUT_OFF = (
        "cut-off",
        "receiver",
        "RFC 5321 4.2",
        "no CRLF before the end of the connection: completed under the receiver's code",
    )
    NOT_A_REPLY = (
        "not-a-reply",
        "receiver",
        "RFC 5321 4.2",
        "no blank after the code (250OK): gets one; no code: inside a reply it gets the reply's, else 421 (451 to mail "
        "data)",
    )
    # by the receiver, at the beginning
    NO_GREETING = (
        "no-greeting",
        "receiver",
        "RFC 5321 3.1",
        "the next receiver, if there is another; else 421 4.3.2 as greeting, close",
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
        "the next receiver, if there is another; else 421 4.4.1 as greeting, close",
    )
    XCLIENT_REFUSED = (
        "xclient-refused",
        "receiver",
        "Postfix XCLIENT_README, server response",
        "it offers XCLIENT and does not take it, or refuses the EHLO that asks for it (--xclient): 421 4.7.0, or its "
        "own 421, close",
    )
    TLS_REFUSED = (
        "tls-refused",
        "receiver",
        "RFC 3207 4, 4.1",
        "TLS has to be made with it (--receiver-tls required, or the sender used TLS), and it does not offer STARTTLS, "
        "refuses it, or goes: 421 4.7.4, close",
    )
    NOT_AS_BEFORE = (
        "not-as-before",
        "receiver",
        "RFC 5321 3.1, 4.1.1.1",
        "dialled anew, it does not greet, or does not offer what the sender was offered: the next receiver, if there "
        "is another; else 421, close",
    )
    LOGIN_REFUSED = (
        "login-refused",
        "receiver",
        "RFC 4954 6",
        "it does not let the shim log in (--login): 421 4.7.0, close",
    )
    # by the sender
    PROXY_HEADER = (
        "proxy-header",
        "sender",
        "PROXY protocol, section 2",
        "a trusted proxy sends none, or a cut, wrong, too long or late one: closed without a word",
    )
    DESTINATION_REFUSED = (
        "destination-refused",
        "sender",
        "RFC 5321 3.8",
        "the listener dialled directly, a loop, or outside --allow-destination: 421 4.7.1 as greeting, close",
    )
    EARLY_TALK = (
        "early-talk",
        "sender",
        "RFC 5321 3.1",
        "octets before the greeting: held until the greeting was relayed, or 554 5.5.1 instead of it, close "
        "(--early-talk)",
    )
    NOT_SMTP = (
        "not-smtp",
        "sender",
        "RFC 5321 3.1, 4.1.1",
        "a TLS ClientHello, an HTTP request or a PROXY header where none is expected: 421 4.5.0, close; the log has "
        "the mend",
    )
    WITHHELD_COMMAND = (
        "withheld-command",
        "sender",
        "RFC 5321 2.2.1, 4.2.4",
        "one that it was not offered: 502 5.5.1, never forwarded; 503 5.5.1 before EHLO is said again behind STARTTLS",
    )
    UNOFFERED_PIPELINING = (
        "unoffered-pipelining",
        "sender",
        "RFC 5321 4.3.1, RFC 2920",
        "held and forwarded one command at a time",
    )
    BARE_NEWLINE = (
        "bare-newline",
        "sender",
        "RFC 5321 2.3.8",
        "in a command or AUTH response: forwarded with CRLF; in mail data, with bare CR and NUL: made canonical "
        "(--newlines)",
    )
    UNKNOWN_OCTETS = (
        "unknown-octets",
        "sender",
        "RFC 5321 4.1.1",
        "a NUL or bare CR in a command: 500 5.5.2, never forwarded; in a response within AUTH: cancelled by *",
    )
    EMPTY_LINE = (
        "empty-line",
        "sender",
        "RFC 5321 4.1.1",
        "nothing but blanks where a command is due: 500 5.5.2, never forwarded, as some receivers do not answer it",
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
        "AUTH over the limit: 500 5.5.6, never forwarded; a response within AUTH: cancelled by * (--limit "
        "command-octets)",
    )
    VANISHED_IN_DATA = (
        "vanished-in-data",
        "sender",
        "RFC 5321 4.1.1.4",
        "FIN or RST before the end of mail data: the receiver leg is reset, not closed; on a Unix socket, which knows "
        "no reset, it finds an end of file behind the last whole line",
    )
    CLOSED_WITHOUT_QUIT = (
        "closed-without-quit",
        "sender",
        "RFC 5321 4.1.1.10",
        "QUIT to the receiver, close; after its verdict it is some senders' habit, and INFO in the log",
    )
    VERDICT_UNREAD = (
        "verdict-unread",
        "sender",
        "RFC 5321 4.5.3.2.6, RFC 1047",
        "gone before its host had the verdict on its mail, which it sends again: an accepted one is doubled, and "
        "nobody can mend that",
    )
    DATA_WITHOUT_354 = (
        "data-without-354",
        "sender",
        "RFC 5321 4.3.1",
        "mail data sent behind a DATA that was refused: never forwarded as commands, 421 4.5.0, close",
    )
    SENDER_STALLED = (
        "sender-stalled",
        "sender",
        "RFC 5321 4.5.3.2.7",
        "no command, no end of mail data, or an octet a minute: 421 4.4.2 (a held verdict), close",
    )
    UNTIDY_PATH = (
        "untidy-path",
        "sender",
        "RFC 5321 4.1.2, 4.1.1.2",
        "with --tidy: MAIL or RCPT with stray blanks or without brackets is forwarded in order",
    )
    IMPOSSIBLE_NAME = (
        "impossible-name",
        "sender",
        "RFC 5321 4.1.1.1",
        "with --tidy: HELO or EHLO without a name, or with one that can't be, is forwarded with --helo-name",
    )
    OVERSIZE = (
        "oversize",
        "sender",
        "RFC 1870 6.1",
        "larger than --max-size: 552 5.3.4 at MAIL or RCPT if SIZE= tells, else drained, 552 5.3.4 at the end",
    )
    PLAINTEXT_BEHIND_STARTTLS = (
        "plaintext-behind-starttls",
        "receiver or sender",
        "RFC 3207 4.2",
        "what came behind STARTTLS, or its 220, before TLS did: discarded",
    )
    TLS_FAILED = (
        "tls-failed",
        "receiver or sender",
        "RFC 3207 4.1",
        "the sender's leg is closed; the receiver is tried in the clear (--receiver-tls opportunistic), else 421 4.7.4",
    )
    LIMIT_REACHED = (
        "limit-reached",
        "sender",
        "RFC 5321 3.8, 7.8",
        "421 4.7.0 as greeting (4.3.2 where descriptors run out), or to the next command once mail data in progress "
        "have their verdict; close",
    )
    CHUNK_OF_NO_SIZE = (
        "chunk-of-no-size",
        "sender",
        "RFC 3030 2",
        "a BDAT that does not say without a doubt how long its chunk is: 421 4.5.0, close",
    )
    OUTRUN = (
        "outrun",
        "sender",
        "RFC 5321 4.3.1",
        "more sent ahead of a reply than the shim holds: 421 4.5.0, close",
    )
