"""Plays a faulty sender to a receiver, or to what stands before one, and reports what it was told."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

from shimproxy.faulty.client import Blocked, Dialogue, Refused
from shimproxy.faulty.plan import no_peer, no_such_name
from shimproxy.faulty.receivers import FAULTS
from shimproxy.faulty.senders import SENDERS, FaultySender
from shimproxy.net.errors import DialFailed
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.shown import on_one_line

if TYPE_CHECKING:
    from shimproxy.faulty.letter import Letter
    from shimproxy.net.address import Address


def playing(violation: Violation | None) -> list[FaultySender]:
    """The senders that do it; for None those that do nothing wrong."""
    return [sender for sender in SENDERS.values() if sender.violation is violation]


def sender_named(name: str) -> FaultySender:
    """The sender of that name, or the first that does the violation of that name. Raises ValueError."""
    name = name.lower()
    if name in SENDERS:
        return SENDERS[name]
    by_violation = {str(each): senders for each in Violation if (senders := playing(each))}
    if name in by_violation:
        return by_violation[name][0]
    if name in {*FAULTS, *(str(each.violation) for each in FAULTS.values())}:
        raise ValueError(f"{name!r} is a fault of a receiver: serve it by --as {name} --listen HOST:PORT")
    if name in {str(each) for each in Violation}:
        raise ValueError(no_peer(name))
    raise ValueError(no_such_name(name, [*SENDERS, *by_violation]))


def play_sender(sender: FaultySender, where: Address, letter: Letter, patience_seconds: float) -> dict[str, Any]:
    """Play one session; what it was told, as a report for JSON. Raises DialFailed."""
    try:
        sock = socket.create_connection((where.host or "localhost", where.port), patience_seconds)
    except OSError as error:
        why = error.strerror or f"none within {patience_seconds:g} s"
        raise DialFailed(f"no connection to {where} ({why}); see whether something listens there") from error
    talk = Dialogue(sock)
    converse(talk, sender, letter)
    talk.account.heard = bool(talk.account.verdict)
    violation = str(sender.violation) if sender.violation else None
    return {"event": "session", "sender": sender.name, "violation": violation} | talk.account.as_json()


def converse(talk: Dialogue, sender: FaultySender, letter: Letter) -> str:
    """Play one session on a connection and close that; why it ended before its time, or "" if it did not."""
    try:
        return _broken_off(talk, sender, letter)
    finally:
        talk.close()


def _broken_off(talk: Dialogue, sender: FaultySender, letter: Letter) -> str:
    try:
        sender.play(talk, letter)
    except Refused as refused:
        reply, command = refused.args
        talk.account.verdict = reply
        with contextlib.suppress(EOFError, OSError):
            talk.rest() if talk.closing else talk.quit()
        return f"{command} was answered with {on_one_line(reply)}"
    except EOFError:
        why = "the receiver has disconnected"
    except Blocked as error:
        why = f"blocked: {error}"
    except TimeoutError:
        why = f"the receiver has said nothing for {talk.sock.gettimeout():g} s"
    except OSError as error:
        why = f"the session has broken: {error.strerror or error}"
    else:
        return ""
    talk.account.note(why)
    return why
