"""shimproxy: a live, transparent SMTP proxy that repairs protocol violations on the wire.

For programs that embed it: `with shimproxy.running(receiver="127.0.0.1:25") as shim` runs it in a thread of its own; a
program of trio's makes Settings, then `await nursery.start(shimproxy.serve, settings)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from shimproxy._version import __version__

if TYPE_CHECKING:
    from shimproxy.config.listener import Listener, SettingsError
    from shimproxy.config.settings import Settings
    from shimproxy.embed.misbehaving import Misbehaving, misbehaving
    from shimproxy.embed.running import Running, running
    from shimproxy.net.address import Address, BoundAddress
    from shimproxy.net.errors import AddressError, DialFailed, ListenFailed, TlsUnusable
    from shimproxy.records.recording import RecordWhat
    from shimproxy.service.serve import Stop, serve
    from shimproxy.session.limits import Deadlines, Limits
    from shimproxy.session.policy import EarlyTalk, Login, ReceiverTls, Repairs, SenderTls
    from shimproxy.session.record import Observer, Repair, SessionRecord
    from shimproxy.session.trace import Entry, Kind, Trace
    from shimproxy.smtp.catalogue import Violation
    from shimproxy.smtp.newlines import Newlines

_HOMES: Final = {
    "shimproxy.net.address": ("Address", "BoundAddress"),
    "shimproxy.net.errors": ("AddressError", "DialFailed", "ListenFailed", "TlsUnusable"),
    "shimproxy.config.listener": ("Listener", "SettingsError"),
    "shimproxy.embed.misbehaving": ("Misbehaving", "misbehaving"),
    "shimproxy.records.recording": ("RecordWhat",),
    "shimproxy.embed.running": ("Running", "running"),
    "shimproxy.service.serve": ("Stop", "serve"),
    "shimproxy.config.settings": ("Settings",),
    "shimproxy.session.limits": ("Deadlines", "Limits"),
    "shimproxy.session.policy": ("EarlyTalk", "Login", "ReceiverTls", "Repairs", "SenderTls"),
    "shimproxy.session.record": ("Observer", "Repair", "SessionRecord"),
    "shimproxy.session.trace": ("Entry", "Kind", "Trace"),
    "shimproxy.smtp.catalogue": ("Violation",),
    "shimproxy.smtp.newlines": ("Newlines",),
}
"""Which module has which name. It is imported with the first use of one: a worker, the pytest plugin and
`shimproxy health` pay for no more than they need."""
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Address",
    "AddressError",
    "BoundAddress",
    "Deadlines",
    "DialFailed",
    "EarlyTalk",
    "Entry",
    "Kind",
    "Limits",
    "ListenFailed",
    "Listener",
    "Login",
    "Misbehaving",
    "Newlines",
    "Observer",
    "ReceiverTls",
    "RecordWhat",
    "Repair",
    "Repairs",
    "Running",
    "SenderTls",
    "SessionRecord",
    "Settings",
    "SettingsError",
    "Stop",
    "TlsUnusable",
    "Trace",
    "Violation",
    "__version__",
    "misbehaving",
    "running",
    "serve",
]


if not TYPE_CHECKING:  # so that a name that is not there is an error of the type checker's too

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
