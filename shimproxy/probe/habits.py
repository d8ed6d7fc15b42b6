"""The habits of a receiver: what a probe has seen of it, in short texts that can be compared.

Whatever a name, an address, a date or an identifier stands for is replaced, so that two machines with the same program
have the same habits. What depends on settings, as the limit of SIZE, is left out. The greeting is no habit: anybody
may write anything there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from shimproxy.probe.account import ConnectionEnd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shimproxy.probe.account import Account, Aside, Heard

NOTHING: Final = "no reply"
_HOST: Final = "HOST"
_OF_SETTINGS: Final = frozenset({"AUTH", "AUTH=LOGIN", "STARTTLS"})
"""Keywords that come with a certificate or a password."""
_ADDRESS: Final = re.compile(
    r"\[?(?:IPv6:)?(?:[0-9a-fA-F:]*\d+\.\d+\.\d+\.\d+|::1|[0-9a-fA-F:]*::[0-9a-fA-F:]+)\]?(?::\d+)?"
)
_DATE: Final = re.compile(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? .*$")
_CODE: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


def habits(account: Account) -> dict[str, str]:
    """The habits that a probe has seen: name -> text. What was not tried is not there."""
    mask = Mask(account)
    seen = account.dialogue
    found: dict[str, str] = {}
    if seen.left_out:
        return found
    if seen.hello_reply:
        found["hello"] = mask.first_line(seen.hello_reply)
        found["keywords"] = " ".join(sorted(set(seen.keywords) - _OF_SETTINGS))
    found["noop"] = mask.reply(seen.noop)
    found["rset"] = mask.reply(seen.rset)
    found["quit"] = f"{mask.reply(seen.quit)}; {_closing(seen.end)}"
    if len(account.pipelining.one_by_one) > 1:
        found["mail"] = mask.reply(account.pipelining.one_by_one[1])
    if account.pipelining.offered and not account.pipelining.left_out:
        found["group"] = "as one by one" if account.pipelining.same else mask.codes(account.pipelining.together)
    for name, aside in (
        ("larger mail", account.larger_mail),
        ("unknown command", account.unknown_command),
        ("recipient first", account.recipient_first),
        ("bare LF", account.bare_newline),
    ):
        if not aside.left_out:
            found[name] = _aside(mask, aside)
    if not account.second_hello.left_out:
        found["second hello"] = _second_hello(mask, account)
    if not account.early_talk.left_out:
        replies = [mask.first_line(each) for each in account.early_talk.replies[1:]]
        refused = [mask.reply(each) for each in account.early_talk.replies[:1] if each.code >= 400]
        found["early talk"] = "; ".join([*(refused or replies or [NOTHING]), *_ends(account.early_talk.end)])
    if not account.chunk.left_out:
        found["chunk"] = "; ".join(
            [
                mask.reply(account.chunk.replies[0]) if account.chunk.replies else NOTHING,
                "read as commands" if account.chunk.further else "taken",
                *_ends(account.chunk.end),
            ]
        )
    return found


def _closing(end: ConnectionEnd) -> str:
    return {ConnectionEnd.FIN: "closes", ConnectionEnd.RST: "resets"}.get(end, "does not close")


def _ends(end: ConnectionEnd) -> list[str]:
    return [str(end)] if end else []


def _aside(mask: Mask, seen: Aside) -> str:
    return "; ".join([mask.reply(seen.reply), *_ends(seen.end)])


def _second_hello(mask: Mask, account: Account) -> str:
    again, first = account.second_hello.reply, account.dialogue.hello_reply
    if again and first and again.code == first.code:
        return "as the first" if again.lines[1:] == first.lines[1:] else "taken, with other keywords"
    return _aside(mask, account.second_hello)


class Mask:
    """Replaces in replies what is not the receiver's habit."""

    def __init__(self, account: Account) -> None:
        names = {"localhost", account.helo_name}
        for heard in (account.dialogue.greeting, account.dialogue.hello_reply):
            names |= set(heard.lines[0][4:].split()[:1]) if heard else set()
        # A word of a greeting that is no name, as "ready", is not to be replaced.
        self._names = [name for name in sorted(names, key=len, reverse=True) if "." in name or name in ("localhost",)]
        if account.helo_name:
            self._names.insert(0, account.helo_name)

    def reply(self, heard: Heard | None) -> str:
        """A whole reply."""
        return " / ".join(self.text(line) for line in heard.lines) if heard else NOTHING

    def first_line(self, heard: Heard) -> str:
        """Its first line, whose first word is a name (RFC 5321 4.1.1.1), with or without others."""
        _, _, rest = heard.lines[0][4:].partition(" ")
        return self.text(f"{heard.lines[0][:3]} {_HOST} {rest}".rstrip())

    def codes(self, replies: Iterable[Heard]) -> str:
        """Only the codes."""
        return " ".join(f"{each.code:03}" for each in replies) or NOTHING

    def text(self, line: str) -> str:
        """A line of a reply."""
        for name in self._names:
            line = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", _HOST, line)
        line = _DATE.sub("DATE", _ADDRESS.sub("ADDRESS", line))
        code, rest = line[:4], line[4:]
        return code + " ".join(_word(word) for word in rest.split(" "))


def _word(word: str) -> str:
    """A word, or ID for one that holds digits and is no enhanced status code."""
    bare = word.strip(".,;:()<>[]\"'#")
    if not any(each.isdigit() for each in bare) or _CODE.fullmatch(bare):
        return word
    return word.replace(bare, "ID")
