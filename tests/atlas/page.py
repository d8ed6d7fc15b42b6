"""The atlas in words: shimproxy/docs/atlas.md, printed from its data.

A cell holds the reply code and what happened; the words of replies are in the data.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from shimproxy.probe.atlas import DATA, Atlas, AtlasEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PAGE: Final = DATA.with_suffix(".md")
_NONE: Final = "-"
_BESIDES: Final = "FIN|RST|after the end|before the end|taken|read as commands|closes|resets|does not close"
_REPLY: Final = re.compile(rf"^(\d\d\d) .*?((?:; (?:{_BESIDES}).*)?)$")

_HEAD: Final = """# Atlas

What real receivers and senders do, seen with the programs themselves. Each was installed by its name from Debian, PyPI
or npm, and was asked on one machine, without a network. The data, with all replies, are in `atlas.json` beside this
page. `shimproxy probe` compares a receiver with them.

One command makes both again. It installs each program in a folder of its own, and nothing outside it:

```sh unrun: it installs every program of this page
python -m tests.atlas --folder /var/tmp/atlas
```

It needs root and the source tree. `python -m tests.atlas NAME` asks one program only. A program that cannot be
installed keeps the data that it had, and the command says so.

Settings change habits, and a habit changes with a version. A dash stands for what was not tried, or does not apply.
"""

_RECEIVERS: Final = """## Receivers

{count} receivers. Where a limit can be set, it was 1,000,000 octets.
"""

_TOO_LARGE: Final = """### A mail that is too large

*Declared* is the reply to `MAIL SIZE=`, with one octet more than the receiver allows. *Not declared* is a mail of twice
the limit. A reply before the end is an early reply: many senders never read it (see below).
"""

_IN_MAIL: Final = """### Mail data, groups and chunks

*LF* is a mail with a line that ends in LF alone. *Group* is MAIL, RCPT and DATA in one write; then a mail with the
same commands of the next mail. *Chunks* is a mail in three. *Chunk refused* is BDAT without a mail: its octets must be
taken all the same (RFC 3030 section 2).
"""

_DIALOGUE: Final = """### The dialogue

*Hello again* is EHLO or LHLO once more. *Early hello* is one that arrives before the greeting. *Command LF* is a NOOP
that ends in LF alone. *Violations* have the names of `shimproxy probe`.
"""

_OFFERS: Final = """### Keywords

Without STARTTLS and AUTH, which come with a certificate or a password.
"""

_SENDERS: Final = """## Senders

{count} senders. A library was called in a few lines, as scripts do. "Fails" means an error of any kind. A sender with a
queue bounces or defers. "With the words" means that the sender shows the text of the receiver's reply.
"""

_SENT: Final = """### The dialogue

The receiver offers PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES and CHUNKING. *Without EHLO* is what follows a 502
to EHLO. *Pipelining* names the commands that were sent without waiting for a reply. *Closing* is after a mail that was
taken.
"""

_EARLY: Final = """### An early reply

A mail of 8 MiB. After 64 KiB of it the receiver says 552. Then it reads all the rest, or sends RST, or reads nothing
more.
"""

_REFUSED: Final = """### Other refusals

*SIZE 1000* is a receiver that offers this limit, and a mail of 20 KB. *RCPT 550* and *421* name the reply, and then
what the sender does. *No 221* is a receiver that takes the mail, and closes after QUIT without a reply.
"""


def page(atlas: Atlas) -> str:
    """The page."""
    receivers, senders = atlas.receivers, atlas.senders
    parts = [
        _HEAD,
        _RECEIVERS.format(count=len(receivers)),
        _programs(receivers),
        _TOO_LARGE,
        _table(
            receivers,
            ("declared", lambda each: _code(each.habits.get("larger mail"))),
            ("not declared", lambda each: _code(each.mail.get("too large"))),
        ),
        _IN_MAIL,
        _table(
            receivers,
            ("LF", lambda each: _code(each.mail.get("line that ends in LF"))),
            ("group", lambda each: each.mail.get("mail in groups")),
            ("chunks", lambda each: each.mail.get("chunks")),
            ("chunk refused", lambda each: _code(each.habits.get("chunk"))),
        ),
        _DIALOGUE,
        _table(
            receivers,
            ("hello again", lambda each: _code(each.habits.get("second hello"))),
            ("early hello", lambda each: _code(each.habits.get("early talk"))),
            ("command LF", lambda each: _code(each.habits.get("bare LF"))),
            ("QUIT", lambda each: _code(each.habits.get("quit"))),
            ("violations", lambda each: ", ".join(each.violations)),
        ),
        _OFFERS,
        _table(receivers, ("keywords", lambda each: each.habits.get("keywords"))),
        _SENDERS.format(count=len(senders)),
        _programs(senders),
        _SENT,
        _table(
            senders,
            ("says", lambda each: each.habits.get("hello")),
            ("without EHLO", lambda each: each.habits.get("EHLO refused")),
            ("MAIL declares", lambda each: each.habits.get("MAIL declares")),
            ("pipelining", lambda each: each.habits.get("pipelining")),
            ("by", lambda each: each.habits.get("mail data")),
            ("closing", lambda each: each.habits.get("closing")),
        ),
        _EARLY,
        _table(
            senders,
            ("all is read", lambda each: each.habits.get("early 552, all is read")),
            ("RST", lambda each: each.habits.get("early 552, then RST")),
            ("nothing is read", lambda each: each.habits.get("early 552, nothing is read")),
        ),
        _REFUSED,
        _table(
            senders,
            ("SIZE 1000", lambda each: each.habits.get("SIZE too small")),
            ("RCPT 550", lambda each: each.habits.get("RCPT refused")),
            ("421 greeting", lambda each: each.habits.get("421 for a greeting")),
            ("421 to MAIL", lambda each: each.habits.get("421 to MAIL")),
            ("no 221", lambda each: each.habits.get("no 221")),
        ),
    ]
    return "\n".join(parts)


def _programs(entries: Iterable[AtlasEntry]) -> str:
    lines = ["| program | version | from | released | seen | settings |", "| --- | --- | --- | --- | --- | --- |"]
    for each in entries:
        cells = (each.name, each.version, each.package, each.released, each.seen, each.settings)
        lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def _table(entries: Iterable[AtlasEntry], *columns: tuple[str, Callable[[AtlasEntry], str | None]]) -> str:
    """Only of those entries that have something to say there."""
    lines = [_row(["program", *(name for name, _ in columns)]), _row(["---"] * (len(columns) + 1))]
    for each in entries:
        cells = [of(each) or "" for _, of in columns]
        if any(cells):
            lines.append(_row([each.name, *cells]))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_shorter(cell) or _NONE for cell in cells) + " |"


def _shorter(cell: str) -> str:
    return cell.replace("the receiver's words", "the words").replace("|", "\\|").replace("<", "&lt;")


def _code(text: str | None) -> str | None:
    """A reply's code alone, with what happened besides."""
    found = _REPLY.match(text or "")
    return f"{found[1]}{found[2]}" if found else text
