"""Dialogues without a fault, and the settings under which they are held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.net.tls import ReceiverSecurity, Verification
from shimproxy.session.limits import Limits
from shimproxy.session.policy import Login, Policy, ReceiverTls, SenderTls, Sizes
from shimproxy.smtp.ehlo import Hidden
from shimproxy.smtp.newlines import Newlines
from tests.explore.kernel import Context

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen
class If:
    """A step of a sender that depends on the last reply."""

    after: int
    octets: bytes


@attrs.frozen
class Step:
    """One step of a transcript."""

    who: str
    what: str
    """SAY, FIN, RST, STALL, or WAIT for as many seconds as `octets` say."""
    octets: bytes = b""


@attrs.frozen
class ScriptedReplies:
    """A receiver's replies: verb -> those to its first, second ... occurrence; the last stands for all others.

    GREETING, "." for mail data and chunks, and RESPONSE within AUTH are verbs, too.
    """

    table: Mapping[bytes, tuple[bytes, ...]] = attrs.field(factory=dict)
    lmtp: bool = False
    opaque: bool = False
    """Whether what comes after STARTTLS is not SMTP, but octets that are sent back with their case changed."""
    leaves_behind: tuple[bytes, int] | None = None
    """Behind the reply to which occurrence of which verb it closes."""

    def of(self, verb: bytes) -> tuple[bytes, ...]:
        return self.table.get(verb) or _USUAL.get(verb) or (b"250 2.0.0 OK",)

    def leaves_after(self, verb: bytes, count: int) -> bool:
        return (verb, count) == self.leaves_behind


def _policy(**settings: Any) -> Policy:
    """A policy with limits that are reached soon."""
    return Policy(limits=Limits(reply_octets=2048, command_octets=600), **settings)


_USUAL: Final[Mapping[bytes, tuple[bytes, ...]]] = {
    b"GREETING": (b"220 receiver ESMTP",),
    b"EHLO": (b"250-receiver\r\n250 SIZE",),
    b"LHLO": (b"250-receiver\r\n250 PIPELINING",),
    b"DATA": (b"354 go",),
    b"QUIT": (b"221 2.0.0 bye",),
    b"AUTH": (b"235 2.7.0 in",),
    b"RESPONSE": (b"235 2.7.0 in",),
    b"STARTTLS": (b"220 2.0.0 ready",),
    b"XCLIENT": (b"220 receiver ESMTP",),
    b"XYZZY": (b"500 5.5.2 what",),
}


@attrs.frozen
class Case:
    """A sender and the receivers that it meets, in order."""

    name: str
    steps: tuple[bytes | If, ...]
    answers: tuple[ScriptedReplies, ...] = (ScriptedReplies(),)
    policy: Policy = attrs.field(factory=lambda: _policy())
    own_commands: bool = False
    """Whether shimproxy says commands of its own, or changes some, as it was told to."""
    lmtp: bool = False
    lf_only: bool = False
    sender_stays: bool = False
    violations: frozenset[str] = frozenset()
    """What is wrong with it, without any fault."""
    fails_over: bool = False
    """Whether each connection is to another receiver."""
    short: bool = False
    """Whether faults are tried in pairs."""
    script: tuple[Step, ...] = ()
    """What both peers say, where they do not react."""
    reachable: bool = True


MAIL: Final = b"Subject: x\r\n\r\n..stuffed\r\nbody\r\n.\r\n"
_OPENING: Final = (b"EHLO s\r\n", b"MAIL FROM:<a@s>\r\n", b"RCPT TO:<u1@r>\r\n")
_ONE: Final = (*_OPENING, b"DATA\r\n", If(354, MAIL), b"QUIT\r\n")


def _ehlo(*keywords: bytes) -> tuple[bytes, ...]:
    lines = (b"receiver", *keywords)
    return (b"\r\n".join(b"250" + (b" " if each is lines[-1] else b"-") + each for each in lines),)


def _answers(
    lmtp: bool = False,
    leaves_behind: tuple[bytes, int] | None = None,
    opaque: bool = False,
    **table: bytes | tuple[bytes, ...],
) -> ScriptedReplies:
    names = {"END": b"."}
    rows = {names.get(verb, verb.encode()): (row,) if isinstance(row, bytes) else row for verb, row in table.items()}
    return ScriptedReplies(rows, lmtp, opaque, leaves_behind)


_PIPELINED: Final = (
    b"EHLO s\r\n",
    b"MAIL FROM:<a@s>\r\nRCPT TO:<u1@r>\r\nRCPT TO:<u2@r>\r\nDATA\r\n",
    If(354, MAIL),
    b"MAIL FROM:<b@s>\r\nRCPT TO:<u3@r>\r\nDATA\r\n",
    If(354, MAIL),
    b"QUIT\r\n",
)
_CHUNKED: Final = (
    *_OPENING,
    b"BDAT 12\r\nSubject: x\r\n",
    b"BDAT 7 LAST\r\n.\r\n.\r\nx"[:-1] + b"y",
    b"QUIT\r\n",
)
_TLS_OFFERED: Final = _ehlo(b"PIPELINING", b"STARTTLS")
_SECURITY: Final = ReceiverSecurity(Verification(required=False), Context())  # type: ignore[arg-type]
_CONTEXT: Final[Any] = Context()

CASES: Final[tuple[Case, ...]] = (
    Case("one-mail", _ONE, short=True),
    Case("helo", (b"HELO s\r\n", *_ONE[1:])),
    Case(
        "two-mails",
        (*_OPENING, b"DATA\r\n", If(354, MAIL), *_OPENING[1:], b"DATA\r\n", If(354, MAIL), b"QUIT\r\n"),
    ),
    Case("refused-mail", _ONE, (_answers(MAIL=b"550 5.7.1 no", RCPT=b"503 5.5.1 MAIL", DATA=b"503 5.5.1 MAIL"),)),
    Case(
        "refused-recipient",
        (*_OPENING, b"RCPT TO:<u2@r>\r\n", *_ONE[3:]),
        (_answers(RCPT=(b"550 5.1.1 no", b"250 2.1.5 OK")),),
    ),
    Case("refused-data", _ONE, (_answers(DATA=b"451 4.3.0 later"),)),
    Case("refused-content", (*_ONE[:-1], *_ONE[1:]), (_answers(END=(b"550 5.6.0 spam", b"250 2.0.0 OK")),)),
    Case("deferred-content-then-rset", (*_ONE[:-1], b"RSET\r\n", b"QUIT\r\n"), (_answers(END=b"451 4.3.0 later"),)),
    Case("multi-line", _ONE, (_answers(MAIL=b"250-2.1.0 so\r\n250 2.1.0 OK", END=b"250-2.0.0 so\r\n250 2.0.0 OK"),)),
    Case(
        "commands",
        (b"EHLO s\r\n", b"NOOP\r\n", b"VRFY a\r\n", b"HELP\r\n", b"RSET\r\n", b"XYZZY\r\n", b"QUIT\r\n"),
        short=True,
    ),
    Case("pipelined", _PIPELINED, (_answers(EHLO=_ehlo(b"PIPELINING", b"ENHANCEDSTATUSCODES")),)),
    Case(
        "pipelined-refusals",
        _PIPELINED,
        (_answers(EHLO=_ehlo(b"PIPELINING"), RCPT=(b"550 5.1.1 no", b"250 2.1.5 OK")),),
    ),
    Case(
        "pipelined-all-refused",
        _PIPELINED,
        (_answers(EHLO=_ehlo(b"PIPELINING"), RCPT=b"550 5.1.1 no", DATA=b"554 5.5.1 no"),),
    ),
    Case("chunks", _CHUNKED, (_answers(EHLO=_ehlo(b"CHUNKING", b"PIPELINING")),), short=True),
    Case(
        "chunks-pipelined",
        (_CHUNKED[0], b"".join(_CHUNKED[1:-1]), b"QUIT\r\n"),
        (_answers(EHLO=_ehlo(b"CHUNKING", b"PIPELINING")),),
    ),
    Case("chunks-refused", _CHUNKED, (_answers(EHLO=_ehlo(b"CHUNKING"), END=(b"552 5.3.4 big", b"503 5.5.1 MAIL")),)),
    Case(
        "chunks-hidden",
        (_CHUNKED[0], b"BDAT 12\r\nSubject: x\r\n", b"VRFY a\r\n", *_ONE[1:]),
        (_answers(EHLO=_ehlo(b"CHUNKING", b"VRFY", b"PIPELINING")),),
        _policy(hidden=Hidden(frozenset({b"CHUNKING", b"VRFY"}))),
        own_commands=True,
        violations=frozenset({"withheld-command"}),
    ),
    Case(
        "lmtp",
        (
            b"LHLO s\r\n",
            b"MAIL FROM:<a@s>\r\n",
            b"RCPT TO:<u1@r>\r\n",
            b"RCPT TO:<u2@r>\r\n",
            b"DATA\r\n",
            If(354, MAIL),
            b"QUIT\r\n",
        ),
        (_answers(lmtp=True, END=(b"250 2.1.5 u1", b"550 5.2.2 u2")),),
        _policy(lmtp=True),
        lmtp=True,
    ),
    Case(
        "auth",
        (b"EHLO s\r\n", b"AUTH LOGIN\r\n", If(334, b"dXNlcg==\r\n"), If(334, b"cHc=\r\n"), *_ONE[1:]),
        (
            _answers(
                EHLO=_ehlo(b"AUTH LOGIN"), AUTH=b"334 VXNlcm5hbWU6", RESPONSE=(b"334 UGFzc3dvcmQ6", b"235 2.7.0 in")
            ),
        ),
    ),
    Case(
        "opaque-starttls",
        (b"EHLO s\r\n", b"STARTTLS\r\n", If(220, b"ClientHello\r\n.\r\nmore\n")),
        (_answers(EHLO=_TLS_OFFERED, opaque=True),),
    ),
    Case(
        "starttls-terminated",
        (b"EHLO s\r\n", b"STARTTLS\r\n", *_ONE),
        (_answers(EHLO=_ehlo(b"PIPELINING")),),
        _policy(sender_tls=SenderTls.STARTTLS, sender_context=_CONTEXT, clear_allowed=True),
        own_commands=True,
    ),
    Case(
        "starttls-to-receiver",
        _ONE,
        (_answers(EHLO=(*_TLS_OFFERED, *_ehlo(b"PIPELINING"))),),
        _policy(receiver_tls=ReceiverTls.REQUIRED, receiver_security=_SECURITY, sender_tls=SenderTls.OFF),
        own_commands=True,
    ),
    Case(
        "starttls-on-both",
        (b"EHLO s\r\n", b"STARTTLS\r\n", *_ONE),
        (_answers(EHLO=(*_TLS_OFFERED, *_ehlo(b"PIPELINING"))),),
        _policy(
            sender_tls=SenderTls.STARTTLS,
            sender_context=_CONTEXT,
            receiver_tls=ReceiverTls.OPPORTUNISTIC,
            receiver_security=_SECURITY,
        ),
        own_commands=True,
    ),
    Case(
        "login",
        _ONE,
        (_answers(EHLO=_ehlo(b"AUTH PLAIN LOGIN")),),
        _policy(login=Login("u", "p", in_clear=True)),
        own_commands=True,
    ),
    Case(
        "xclient",
        _ONE,
        (_answers(EHLO=_ehlo(b"XCLIENT ADDR PORT NAME HELO", b"PIPELINING")),),
        _policy(xclient=True),
        own_commands=True,
    ),
    Case(
        "max-size",
        _ONE,
        policy=_policy(sizes=Sizes(general_octets=20)),
        own_commands=True,
        violations=frozenset({"oversize"}),
    ),
    Case(
        "max-size-declared",
        (
            b"EHLO s\r\n",
            b"MAIL FROM:<a@s> SIZE=21\r\n",
            b"MAIL FROM:<a@s> SIZE=9\r\n",
            b"RCPT TO:<u1@r>\r\n",
            b"QUIT\r\n",
        ),
        policy=_policy(sizes=Sizes(general_octets=20)),
        own_commands=True,
        violations=frozenset({"oversize"}),
    ),
    Case(
        "lf-only",
        tuple(
            each.replace(b"\r\n", b"\n")
            if isinstance(each, bytes)
            else If(each.after, each.octets.replace(b"\r\n", b"\n"))
            for each in _ONE
        ),
        policy=_policy(lf_only_devices=True),
        own_commands=True,
        lf_only=True,
    ),
    Case(
        "bare-newlines",
        (*_OPENING, b"DATA\r\n", If(354, b"a\nb\rc\0d\r\n\n.\ne\r\n.\r\n"), b"QUIT\r\n"),
        own_commands=True,
        violations=frozenset({"bare-newline"}),
    ),
    Case(
        "bare-newlines-passed",
        (*_OPENING, b"DATA\r\n", If(354, b"a\nb\rc\0d\r\n\n.\ne\r\n.\r\n"), b"QUIT\r\n"),
        policy=_policy(newlines=Newlines.PASS),
    ),
    Case(
        "bare-newlines-rejected",
        (*_OPENING, b"DATA\r\n", If(354, b"a\nb\rc\0d\r\n\n.\ne\r\n.\r\n"), b"QUIT\r\n"),
        policy=_policy(newlines=Newlines.REJECT),
        own_commands=True,
        violations=frozenset({"bare-newline"}),
    ),
    Case(
        "resume",
        (*_ONE[:-1], *_ONE[1:]),
        (_answers(leaves_behind=(b".", 1)), _answers()),
        _policy(resume=True),
        own_commands=True,
        violations=frozenset({"closed-while-idle"}),
    ),
    Case(
        "resume-after-refusal",
        (*_ONE[:-1], *_ONE[1:]),
        (_answers(leaves_behind=(b".", 1), END=b"552 5.3.4 big"), _answers()),
        own_commands=True,
        violations=frozenset({"closed-while-idle"}),
    ),
    Case(
        "fail-over-at-greeting",
        _ONE,
        (_answers(GREETING=b"421 4.3.2 busy"), _answers()),
        _policy(fails_over=True),
        own_commands=True,
        fails_over=True,
    ),
    Case(
        "fail-over-at-mail",
        _ONE,
        (_answers(MAIL=b"", leaves_behind=(b"MAIL", 1)), _answers()),
        _policy(fails_over=True),
        own_commands=True,
        fails_over=True,
        violations=frozenset({"closed-with-commands-open"}),
    ),
    Case("sender-stays", _ONE, sender_stays=True, violations=frozenset({"no-close"})),
    Case("no-quit", _ONE[:-1], violations=frozenset({"closed-without-quit"})),
)
