"""Commands put in order, for receivers that refuse what senders of the 1990s say (RFC 5321 4.1.1.1 and 4.1.2).

Invariants:

1. What is in order comes out as it is, the same object.
2. An address, its parameters and their order do not change; only blanks, brackets and the name in HELO do.
3. What can't be read is left alone: the receiver judges it.
"""

from __future__ import annotations

import re

import attrs

from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import HELLOS, Command, Verb

_QUOTED = rb"\"(?:[^\"\\\r\n]|\\[^\r\n])*\""
_BRACKETED = rb"<(?:" + _QUOTED + rb"|[^\"<>\r\n])*>"
_BARE = rb"(?:" + _QUOTED + rb"|[^\"<>\s,])+"
_PARAMETERS = rb"(?:[ \t]+[A-Za-z0-9][A-Za-z0-9-]*(?:=[^\s<>]+)?)*"
_PATH = re.compile(
    rb"[ \t]*(MAIL|RCPT)[ \t]+(FROM|TO)[ \t]*:[ \t]*("
    + _BRACKETED
    + rb"|"
    + _BARE
    + rb")("
    + _PARAMETERS
    + rb")[ \t]*\r\n",
    re.IGNORECASE,
).fullmatch
_HELLO = re.compile(rb"[ \t]*(HELO|EHLO|LHLO)([^\r\n]*)\r\n", re.IGNORECASE).fullmatch
_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_possible_name = re.compile(rb"(?:" + _LABEL + rb"(?:\." + _LABEL + rb")*\.?|\[[^\s\[\]]+\])").fullmatch


def is_possible_name(name: bytes) -> bool:
    """Whether that can stand behind HELO: a domain or an address literal (RFC 5321 4.1.2 and 4.1.3)."""
    return _possible_name(name) is not None


def tidied(command: Command, helo_name: bytes) -> tuple[Command, Violation | None]:
    """The command in order, and what was wrong with it, if anything; `helo_name` stands in for an impossible name."""
    line = command.line
    if command.verb in (Verb.MAIL, Verb.RCPT):
        line, violation = _with_tidy_path(line), Violation.UNTIDY_PATH
    elif command.verb in HELLOS:
        line, violation = _with_possible_name(line, helo_name), Violation.IMPOSSIBLE_NAME
    else:
        return command, None
    return (command, None) if line == command.line else (attrs.evolve(command, line=line), violation)


def _with_tidy_path(line: bytes) -> bytes:
    found = _PATH(line)
    if not found:
        return line
    verb, preposition, path, parameters = found.groups()
    if path.startswith(b"<"):
        path = path[1:-1].strip(b" \t")
    return b"%s %s:<%s>%s\r\n" % (verb, preposition, path, b"".join(b" " + each for each in parameters.split()))


def _with_possible_name(line: bytes, helo_name: bytes) -> bytes:
    found = _HELLO(line)
    if not found:
        return line
    verb, name = found[1], found[2].strip(b" \t")
    return b"%s %s\r\n" % (verb, name if is_possible_name(name) else helo_name)
