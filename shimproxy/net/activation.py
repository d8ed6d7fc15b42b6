"""What systemd hands to a service: sockets (sd_listen_fds(3)), and where to tell it of states (sd_notify(3)).

Invariants:

1. What was handed is taken out of the environment, so that no worker acts on it; only a program that is executed in
   this one's place (daemon/upgrade.py) finds it there again.
2. A descriptor that was passed stays open as long as the process: it may be named again after a reload. What is
   listened on is a duplicate, which can be closed as any other socket.
"""

from __future__ import annotations

import functools
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.errors import ListenFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST: Final = 3
"""SD_LISTEN_FDS_START: the first descriptor that is passed."""
_VARIABLES: Final = (
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)
_A_CHECK: Final = "a check for the supervisor"
"""Stands as LISTEN_PID for a child whose pid nobody can know beforehand."""
_NAMELESS: Final = "unknown"
"""As sd_listen_fds_with_names(3) has it."""
_MOST_DIGITS: Final = 20


@attrs.frozen
class Handed:
    """What this process was handed."""

    variables: dict[str, str]
    descriptors: dict[int, str]
    """Each that was passed, with its name (FileDescriptorName=)."""

    @classmethod
    def take(cls) -> Handed:
        """Out of the environment."""
        variables = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
        descriptors: dict[int, str] = {}
        if variables.get("LISTEN_PID") in (str(os.getpid()), _A_CHECK):
            names = variables.get("LISTEN_FDNAMES", "").split(":")
            for index in range(variable_number(variables.get("LISTEN_FDS", ""))):
                descriptor = _FIRST + index
                descriptors[descriptor] = (names[index] if index < len(names) else "") or _NAMELESS
                try:
                    os.set_inheritable(descriptor, False)
                except OSError:
                    break  # it is not open; whoever wants to listen on it is told
        return cls(variables, descriptors)


@functools.cache
def handed() -> Handed:
    """What this process was handed, taken the first time that somebody asks."""
    return Handed.take()


def variable_number(text: str) -> int:
    """The number that a variable of systemd's has; 0 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else 0


# -- sockets


def passed_sockets(name: str) -> list[socket.socket]:
    """Duplicates of the listening sockets of that name, of all if it is empty. Raises ListenFailed."""
    sockets: list[socket.socket] = []
    try:
        for descriptor, its in handed().descriptors.items():
            if name in ("", its):
                sockets.append(_duplicate(descriptor, its))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise ListenFailed(f"cannot listen on {_where(name)}: {_why_none()}")
    return sockets


def _duplicate(descriptor: int, name: str) -> socket.socket:
    problem = "it is not open"
    with suppress(OSError):
        duplicate = os.dup(descriptor)
        problem = "it is not a socket"
        try:
            sock = socket.socket(fileno=duplicate)
        except OSError:
            os.close(duplicate)
        else:
            problem = _why_unusable(sock)
            if not problem:
                return sock
            sock.close()
    raise ListenFailed(f"cannot listen on {_where(name)}, descriptor {descriptor}: {problem}")


def _why_unusable(sock: socket.socket) -> str:
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "it is neither a TCP socket nor in the file system; give such an address to ListenStream="
    if sock.type != socket.SOCK_STREAM:
        return "it is not a stream socket; use ListenStream= in the socket unit"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it is a connection and does not listen; remove Accept=yes from the socket unit"
    return ""


def _why_none() -> str:
    handed_here = handed()
    if handed_here.descriptors:
        names = ", ".join(map(repr, dict.fromkeys(handed_here.descriptors.values())))
        return f"systemd has passed {names}; the names are those of FileDescriptorName= in the socket units"
    pid = handed_here.variables.get("LISTEN_PID", "")
    if pid and pid != str(os.getpid()):
        return (
            f"systemd has passed its sockets to process {pid}, and this is {os.getpid()}; let a script exec shimproxy"
        )
    return "systemd has passed none; start shimproxy by its socket unit, or name that in the service (Sockets=)"


def _where(name: str) -> str:
    return f"systemd:{name}" if name else "systemd"


def check_use(names: Sequence[str]) -> None:
    """See whether each socket that was passed is of one listener; `names` are the listeners', "" for all sockets.

    Raises ListenFailed.
    """
    for its in dict.fromkeys(handed().descriptors.values()):
        listeners = sum(name in ("", its) for name in names)
        if not listeners:
            raise ListenFailed(
                f"systemd has passed a socket called {its!r}, but no listener uses it, so its senders would hang; "
                f"add --listen {_where(its)}, or remove it from the service (Sockets=)"
            )
        if listeners > 1:
            raise ListenFailed(
                f"listen: {listeners} listeners share the socket called {its!r}, so a sender could reach any of "
                "them; use it for one"
            )


# -- other programs


def leave() -> None:
    """See to it that a program which is executed in this one's place is handed the same."""
    os.environ.update(handed().variables)
    for descriptor in handed().descriptors:
        os.set_inheritable(descriptor, True)


def stay() -> None:
    """Nothing is left after all."""
    for name in handed().variables:
        del os.environ[name]
    for descriptor in handed().descriptors:
        os.set_inheritable(descriptor, False)


def for_a_check() -> tuple[dict[str, str], list[int]]:
    """What a child needs, as variables and descriptors, that is to try these sockets with other settings."""
    if not handed().descriptors:
        return {}, []
    its = {name: text for name, text in handed().variables.items() if name.startswith("LISTEN_FD")}
    return its | {"LISTEN_PID": _A_CHECK}, [*handed().descriptors]
