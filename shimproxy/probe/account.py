"""What a probe has seen of a receiver: one value for each part of it, and all of it as JSON.

1. A part that was not tried, or not to its end, says why in `left_out`; the other fields then hold what there is.
2. The JSON has the same keys whatever was seen: null, "" or an empty list stand for what was not.
3. Whatever the receiver sent is escaped, and where it is said in a line, shortened.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from shimproxy.probe.atlas import Likeness
    from shimproxy.smtp.catalogue import Violation
    from shimproxy.smtp.reply import Reply

MOST_UNASKED: Final = 20
"""Replies that nobody asked for, of which nobody needs to see more."""
MAIL_PATIENCES: Final = 10
"""How many times patience all of a mail may take: a receiver that takes a little each time does not hold the probe."""
_MOST_EVIDENCE: Final = 5
_MOST_LINES_SAID: Final = 5
_MOST_CHARACTERS_SAID: Final = 600


class ConnectionEnd(enum.StrEnum):
    """How the receiver has ended a connection."""

    NOT = ""
    FIN = "FIN"
    RST = "RST"


@attrs.frozen
class Heard:
    """A reply as the receiver gave it, escaped."""

    code: int
    """Its reply code, 0 if it has none that can be used."""
    lines: tuple[str, ...]

    @classmethod
    def of(cls, reply: Reply) -> Self:
        """The reply in printable form; one of bad form is already in its canonical one."""
        return cls(reply.code, tuple(escaped(line) for line in reply.octets.splitlines()))

    def __str__(self) -> str:
        said = " / ".join(self.lines[:_MOST_LINES_SAID])
        if len(self.lines) > _MOST_LINES_SAID or len(said) > _MOST_CHARACTERS_SAID:
            return f"{said[:_MOST_CHARACTERS_SAID]} ... ({len(self.lines)} lines)"
        return said


@attrs.define(eq=False)
class DialogueSeen:
    """A session without a mail."""

    left_out: str = ""
    greeting: Heard | None = None
    without_end: Heard | None = None
    """What there was of a reply that had not ended when patience was over."""
    hello: str = "EHLO"
    """EHLO, HELO where EHLO was refused, or LHLO."""
    hello_reply: Heard | None = None
    keywords: dict[str, str] = attrs.field(factory=dict)
    """What the reply to EHLO or LHLO offers: keyword -> its parameters."""
    size_octets: int | None = None
    """The limit that SIZE names; None without one."""
    noop: Heard | None = None
    rset: Heard | None = None
    quit: Heard | None = None
    end: ConnectionEnd = ConnectionEnd.NOT
    """How it closed after QUIT."""


@attrs.define(eq=False)
class CertificateSeen:
    """The receiver's certificate, and whether shimproxy would accept it."""

    subject: str = ""
    """Its common name."""
    issuer: str = ""
    """The common name of who has signed it."""
    names: list[str] = attrs.field(factory=list)
    """The host names and addresses that it is for."""
    not_before: str = ""
    """The moment from which on it holds, in ISO 8601."""
    not_after: str = ""
    days_left: int | None = None
    """How many whole days it still holds; negative if it has expired."""
    fingerprint: str = ""
    """SHA-256 of it."""
    problem: str = ""
    """Why shimproxy would not accept it where TLS is required."""
    mend: str = ""
    """What helps against that."""


@attrs.define(eq=False)
class TlsSeen:
    """TLS on the probe's connections."""

    left_out: str = ""
    how: str = ""
    """`starttls` or `implicit`; empty where all is in the clear."""
    hello_reply: Heard | None = None
    """The reply to the hello before STARTTLS."""
    reply: Heard | None = None
    """The reply to STARTTLS."""
    version: str = ""
    """As OpenSSL calls it, as in TLSv1.3."""
    cipher: str = ""
    certificate: CertificateSeen = attrs.field(factory=CertificateSeen)


@attrs.define(eq=False)
class Pipelining:
    """The same commands one by one, and in one write."""

    left_out: str = ""
    offered: bool = False
    commands: list[str] = attrs.field(factory=list)
    one_by_one: list[Heard] = attrs.field(factory=list)
    together: list[Heard] = attrs.field(factory=list)
    end: ConnectionEnd = ConnectionEnd.NOT

    @property
    def same(self) -> bool:
        """Whether both ways gave the same codes in the same order."""
        return [each.code for each in self.one_by_one] == [each.code for each in self.together]

    @property
    def shows_order(self) -> bool:
        """Whether RSET, MAIL and QUIT are answered in words of their own, which came in the same order both ways."""
        return self.one_by_one == self.together and len(set(self.together)) > 2


@attrs.define(eq=False)
class EarlyTalkSeen:
    """The hello, arriving before the greeting was sent."""

    left_out: str = ""
    replies: list[Heard] = attrs.field(factory=list)
    """The greeting is the first of them."""
    end: ConnectionEnd = ConnectionEnd.NOT
    """How it closed instead of going on."""


@attrs.define(eq=False)
class Aside:
    """One thing that is asked on a connection of its own, as a receiver may hold it against whoever asks it."""

    left_out: str = ""
    command: str = ""
    reply: Heard | None = None
    end: ConnectionEnd = ConnectionEnd.NOT
    """How it closed instead of going on."""


@attrs.define(eq=False)
class ChunkSeen:
    """BDAT without a mail, its chunk, and NOOP after the reply to it."""

    left_out: str = ""
    command: str = ""
    replies: list[Heard] = attrs.field(factory=list)
    """Those to BDAT and to NOOP."""
    further: int = 0
    """Replies that came besides: the chunk was taken for commands."""
    end: ConnectionEnd = ConnectionEnd.NOT
    """How it closed instead of going on."""


@attrs.frozen
class Denial:
    """A keyword that the receiver offers and does not know."""

    keyword: str
    command: str
    """What was said of it."""
    reply: Heard | None
    """What answered that; None if nothing did."""


@attrs.define(eq=False)
class KeywordsSeen:
    """The keywords of the hello that change a command, each used once, in a mail that is not sent."""

    left_out: str = ""
    tried: list[str] = attrs.field(factory=list)
    denied: list[Denial] = attrs.field(factory=list)
    end: ConnectionEnd = ConnectionEnd.NOT
    """How it closed instead of going on."""


@attrs.frozen
class InData:
    """A reply in mail data."""

    after_octets: int
    """As octets_taken, when it was read."""
    reply: Heard


@attrs.define(eq=False)
class MailDataSeen:
    """A large mail, never completed."""

    left_out: str = ""
    reverse_path: str = ""
    recipient: str = ""
    octets_planned: int = 0
    octets_taken: int = 0
    """What the receiver's host has acknowledged; its program may not have read it all."""
    replies: list[InData] = attrs.field(factory=list)
    end: ConnectionEnd = ConnectionEnd.NOT
    reset_behind_fin: bool = False
    """Whether what came behind the receiver's FIN was answered by RST."""
    stalled: bool = False
    """Whether it took nothing more for as long as was waited."""
    too_slow: bool = False
    """Whether it took some at each wait, and not all in the time for all of it."""

    @property
    def verdict(self) -> InData | None:
        """The first reply that is more than a repeated 354."""
        return next((each for each in self.replies if each.reply.code != 354), None)


@attrs.define(eq=False)
class Account:
    """All of it."""

    receiver: str
    """HOST:PORT as it was given."""
    address: str = ""
    """The address that was probed."""
    patience_seconds: float = 0
    helo_name: str = ""
    """Who the probe said it is."""
    dialogue: DialogueSeen = attrs.field(factory=DialogueSeen)
    tls: TlsSeen = attrs.field(factory=TlsSeen)
    speaks_tls: bool = False
    """Whether it makes TLS where it did not greet in the clear."""
    greets_after_header: str = ""
    """The version of the PROXY header after which it greets, where it did not greet without one."""
    pipelining: Pipelining = attrs.field(factory=Pipelining)
    early_talk: EarlyTalkSeen = attrs.field(factory=EarlyTalkSeen)
    other_hello: Aside = attrs.field(factory=Aside)
    """LHLO, where EHLO and HELO were refused, and EHLO, where LHLO was."""
    larger_mail: Aside = attrs.field(factory=Aside)
    """MAIL that declares one octet more than SIZE allows."""
    second_hello: Aside = attrs.field(factory=Aside)
    """The hello once more, after the first."""
    bare_newline: Aside = attrs.field(factory=Aside)
    """NOOP that ends in LF alone."""
    unknown_command: Aside = attrs.field(factory=Aside)
    recipient_first: Aside = attrs.field(factory=Aside)
    """RCPT before MAIL."""
    keywords: KeywordsSeen = attrs.field(factory=KeywordsSeen)
    chunk: ChunkSeen = attrs.field(factory=ChunkSeen)
    half_close: Aside = attrs.field(factory=Aside)
    """NOOP with the end of the probe's direction; `end` is how the receiver has closed after it."""
    mail_data: MailDataSeen = attrs.field(factory=MailDataSeen)
    looks_like: list[Likeness] = attrs.field(factory=list)
    """The receivers of the atlas whose habits it has, the best first."""
    violations: dict[Violation, list[str]] = attrs.field(factory=dict)
    """Each that was seen -> where and how, the first few times."""

    def saw(self, violation: Violation, evidence: str) -> None:
        """Note a violation."""
        seen = self.violations.setdefault(violation, [])
        if len(seen) < _MOST_EVIDENCE and evidence not in seen:
            seen.append(evidence)

    def as_json(self) -> dict[str, Any]:
        """All of it, as values that JSON has."""
        found = attrs.asdict(self, filter=lambda field, _: field.name != "violations")
        found["violations"] = [
            {"name": str(each), "by": each.by, "rule": each.rule, "repair": each.repair, "seen": seen}
            for each, seen in self.violations.items()
        ]
        return found
