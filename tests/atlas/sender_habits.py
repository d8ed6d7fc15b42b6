"""The habits of a sender: one mail to each of a few receivers, each with a manner of its own.

Name -> text, as the page prints them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shimproxy.faulty.mail import MIB, Mail
from shimproxy.faulty.outcome import Believed, Outcome
from tests.atlas.ear import Ear, Manner
from tests.peers.mail import SMALL, mail_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.atlas.ear import Notes

    Send = Callable[[int, Mail], Outcome]

WORDS: Final = "words-of-the-receiver"
LARGE: Final = mail_of("8MiB", 8 * MIB)
"""More than the kernel's buffers hold: its sender blocks if nobody reads."""


def sender_habits(send: Send, *, queues: bool) -> dict[str, str]:
    """All of them. One that queues tells a mail that is refused from one to be tried again; others only fail."""
    found: dict[str, str] = {}
    for name, manner, mail, told in _PARTS:
        with Ear(manner) as ear:
            outcome = send(ear.port, mail)
        if told is _plain and outcome.believed is not Believed.DELIVERED:
            raise RuntimeError(f"it does not send a plain mail: {outcome.text[-1500:]}")
        fate = _fate(outcome, queues=queues)
        # Once the ear has ended, its notes are whole.
        notes = [each for each in ear.notes if each.groups or each.early_talk or each.closed]
        if notes:
            found.update(told(name, notes, fate))
        else:
            found[name] = "does not connect"
    return found


def sender_violations(habits: dict[str, str]) -> list[str]:
    """Those of the catalogue that its habits are."""
    signs = {
        "early-talk": habits.get("before the greeting") == "speaks",
        "bare-newline": "LF" in habits.get("line ends", "").replace("CRLF", ""),
        "closed-without-quit": "without QUIT" in habits.get("closing", ""),
        "no-close": "stays" in habits.get("closing", ""),
    }
    return sorted(name for name, is_so in signs.items() if is_so)


def _fate(outcome: Outcome, *, queues: bool) -> str:
    if outcome.believed in (Believed.DELIVERED, Believed.HUNG):
        return {Believed.DELIVERED: "delivered", Believed.HUNG: "waits for more than a minute"}[outcome.believed]
    words = "with" if WORDS in outcome.text else "without"
    return f"{outcome.believed if queues else 'fails'}, {words} the receiver's words"


def _ending(notes: Notes) -> str:
    if "QUIT" not in notes.verbs:
        how = {"FIN": "closes without QUIT", "RST": "resets without QUIT"}.get(notes.closed, "stays without QUIT")
    elif not notes.waited_for_221:
        how = "QUIT, and closes without waiting for 221"
    else:
        how = "QUIT, waits for 221, and " + {"FIN": "closes", "RST": "resets"}.get(notes.closed, "stays")
    return how


def _plain(_: str, notes: list[Notes], fate: str) -> dict[str, str]:
    seen = notes[-1]
    mail = next((each for each in seen.commands if each.upper().startswith("MAIL")), "")
    parameters = [word.partition("=")[0].upper() for word in mail.split(">", 1)[-1].split()]
    groups = [" ".join(word.split(" ")[0].upper() for word in group) for group in seen.groups if len(group) > 1]
    return {
        "before the greeting": "speaks" if seen.early_talk else "waits",
        "hello": seen.verbs[0] if seen.verbs else "none",
        "MAIL declares": " ".join(parameters) or "nothing",
        "pipelining": "; ".join(groups) or "no",
        "mail data": "BDAT" if "BDAT" in seen.verbs else "DATA",
        "line ends": "LF alone too" if seen.bare_lf else "CRLF",
        "closing": _ending(seen),
        "connections": str(len(notes)),
        "a mail": fate,
    }


def _without_ehlo(name: str, notes: list[Notes], fate: str) -> dict[str, str]:
    verbs = [each.verbs for each in notes]
    if "HELO" in verbs[0]:
        text = "HELO"
    elif any("HELO" in each for each in verbs):
        text = "HELO on another connection"
    elif "EHLO" not in verbs[0]:
        text = "says none"
    else:
        text = f"gives up ({_ending(notes[0])})"
    return {name: text if "gives up" in text else f"{text}; {fate}"}


def _small_size(name: str, notes: list[Notes], fate: str) -> dict[str, str]:
    commands = notes[0].commands
    mail = next((each.upper() for each in commands if each.upper().startswith("MAIL")), "")
    if not mail:
        text = "sends no MAIL"
    elif "SIZE=" in mail:
        text = "declares its size"
    else:
        text = "sends it all the same"
    return {name: f"{text}; {fate}"}


def _early(name: str, notes: list[Notes], fate: str) -> dict[str, str]:
    seen = notes[0]
    how = fate
    if name == _DRAINS:
        if seen.dot_after_early:
            how += "; sends all the rest, and the end"
        elif seen.octets_after_early < 7 * MIB:
            how += "; stops before the end"
    return {name: how + (f"; {len(notes)} connections" if len(notes) > 1 else "")}


def _refused(name: str, notes: list[Notes], fate: str) -> dict[str, str]:
    seen = notes[0]
    verbs = seen.verbs
    after = verbs[verbs.index("RCPT") + 1 :] if "RCPT" in verbs else verbs
    then = " ".join(each for each in after if each not in ("RCPT", "MAIL-DATA")) or seen.closed or "nothing"
    return {name: f"{fate}; then {then}"}


def _belief(name: str, notes: list[Notes], fate: str) -> dict[str, str]:
    again = f"; {len(notes)} connections" if len(notes) > 1 else ""
    return {name: f"{fate}{again}"}


def _421(name: str, notes: list[Notes], fate: str) -> dict[str, str]:
    seen = notes[0]
    after = [verb for verb in seen.verbs if verb in ("QUIT", "RSET")]
    return {name: f"{fate}; then {after[-1] if after else seen.closed or 'nothing'}"}


_DRAINS: Final = "early 552, all is read"
_PARTS: Final = (
    ("plain", Manner(), SMALL, _plain),
    ("EHLO refused", Manner(offers=()), SMALL, _without_ehlo),
    ("SIZE too small", Manner(offers=("SIZE 1000",)), SMALL, _small_size),
    ("RCPT refused", Manner(replies={"RCPT": f"550 5.1.1 {WORDS}"}, offers=("8BITMIME",)), SMALL, _refused),
    ("mail refused at its end", Manner(replies={"DOT": f"554 5.7.1 {WORDS}"}, offers=("8BITMIME",)), SMALL, _belief),
    (_DRAINS, Manner(early="drains", offers=("8BITMIME",)), LARGE, _early),
    ("early 552, then RST", Manner(early="resets", offers=("8BITMIME",)), LARGE, _early),
    ("early 552, nothing is read", Manner(early="stops", offers=("8BITMIME",)), LARGE, _early),
    ("421 for a greeting", Manner(greeting=f"421 4.3.2 {WORDS}"), SMALL, _421),
    ("421 to MAIL", Manner(replies={"MAIL": f"421 4.3.2 {WORDS}"}), SMALL, _421),
    ("no 221", Manner(says_221=False), SMALL, _belief),
)
