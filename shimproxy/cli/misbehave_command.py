"""`shimproxy misbehave`: faulty receivers and senders (faulty/) for whoever tests a mail program.

Standard output has JSON alone, an object a line: one when it listens, one for each session when that is over. What is
for people goes to standard error.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any, Final

from shimproxy.config.parsers import number_of
from shimproxy.faulty.plan import EACH_OCTET, Plan, doing
from shimproxy.faulty.playing import play_sender, playing
from shimproxy.faulty.senders import FaultySender
from shimproxy.faulty.serving import bound, serving_faults
from shimproxy.help.explain.words import words
from shimproxy.net.address import Address
from shimproxy.program.interrupting import interrupting
from shimproxy.program.process import allow_many_files, say
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from shimproxy.faulty.fault import Fault
    from shimproxy.faulty.letter import Letter

_MOST_COLUMNS: Final = 110


def segments_of(text: str) -> int | None:
    """How many segments a reply has; None for one for each octet. Raises ValueError."""
    if text == EACH_OCTET:
        return None
    try:
        return int(number_of(text, int))
    except ValueError:
        raise ValueError(f"--segments: write a whole number from 1 on, or {EACH_OCTET}, not {text!r}") from None


# -- the list


def show_list(*, as_json: bool) -> int:
    """Print every fault, with its rule and who is known to have it; the exit status."""
    columns = min(shutil.get_terminal_size((100, 24)).columns, _MOST_COLUMNS)
    said = words()
    for violation in (*Violation, None):
        culprits = list(dict.fromkeys(each.program for each in said[violation].programs)) if violation else []
        faults: list[Fault | FaultySender] = [*doing(violation), *playing(violation)]
        if as_json:
            for fault in faults:
                say(json.dumps(_entry(violation, culprits, fault)))
            continue
        say(f"{violation}  ({violation.rule})" if violation else "no fault at all")
        if culprits:
            say(_filled(f"Known of {', '.join(culprits)}.", columns, 2))
        if violation and not faults:
            say(_filled(f"No peer does it: {said[violation].no_peer}.", columns, 2))
        for fault in faults:
            say(f"  --{'sender' if isinstance(fault, FaultySender) else 'as'} {fault.name}")
            needs = f" shimproxy sees it with {fault.needs}." if fault.needs else ""
            say(_filled(fault.what + needs, columns, 6))
        say("")
    if not as_json:
        say("Each violation's name stands for the first that is listed under it.")
    return 0


def _filled(text: str, columns: int, indent: int) -> str:
    blanks = " " * indent
    return textwrap.fill(text, columns, initial_indent=blanks, subsequent_indent=blanks, break_on_hyphens=False)


def _entry(violation: Violation | None, culprits: list[str], fault: Fault | FaultySender) -> dict[str, Any]:
    return {
        "violation": str(violation) if violation else None,
        "rule": violation.rule if violation else None,
        "known_of": culprits,
        "name": fault.name,
        "by": "sender" if isinstance(fault, FaultySender) else "receiver",
        "what": fault.what,
        "needs": fault.needs,
    }


# -- a receiver


def serve_misbehaving(plan: Plan, where: Address) -> int:
    """Serve until SIGINT or SIGTERM; the exit status. Raises ListenFailed."""
    listener = bound(where)
    allow_many_files()
    host, port = listener.getsockname()[:2]
    at = Address(host, port)
    over = threading.Event()
    with interrupting(signal.SIGINT, signal.SIGTERM):
        try:
            with serving_faults(plan, listener, _tell):
                _tell({"event": "listening", "address": str(at), "as": plan.title, "seed": plan.seed})
                print(_hint(plan, at), file=sys.stderr)
                over.wait()
        except KeyboardInterrupt:
            pass
    return 0


def _hint(plan: Plan, at: Address) -> str:
    named = "NAME@fault.example" if plan.chosen else "recipient@receiver.example"
    return (
        f"shimproxy: misbehaving at {at} as {plan.title}; Ctrl-C ends it. To try it:\n"
        f"  swaks --server {at.host} --port {at.port} --to {named}"
    )


def _tell(told: dict[str, Any]) -> None:
    say(json.dumps(told))


# -- a sender


def send(sender: FaultySender, where: Address, letter: Letter, patience_seconds: float) -> int:
    """Play a faulty sender, print what it was told; the exit status. Raises DialFailed."""
    _tell(play_sender(sender, where, letter, patience_seconds))
    return 0
