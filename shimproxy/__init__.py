"""shimproxy: a live, transparent SMTP proxy that repairs protocol violations on the wire.

For programs that embed it: make Settings, then `await nursery.start(shimproxy.serve, settings)`.
"""

from shimproxy._version import __version__
from shimproxy.net.address import Address
from shimproxy.net.errors import AddressError, DialFailed, ListenFailed, TlsUnusable
from shimproxy.ops.listener import Listener, SettingsError
from shimproxy.ops.record_files import RecordWhat
from shimproxy.ops.serve import Stop, serve
from shimproxy.ops.settings import Settings
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.policy import EarlyTalk, Login, ReceiverTls, SenderTls
from shimproxy.session.record import Observer, Repair, SessionRecord
from shimproxy.session.trace import Entry, Kind, Trace
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.newlines import Newlines

__all__ = [
    "Address",
    "AddressError",
    "Deadlines",
    "DialFailed",
    "EarlyTalk",
    "Entry",
    "Kind",
    "Limits",
    "ListenFailed",
    "Listener",
    "Login",
    "Newlines",
    "Observer",
    "ReceiverTls",
    "RecordWhat",
    "Repair",
    "SenderTls",
    "SessionRecord",
    "Settings",
    "SettingsError",
    "Stop",
    "TlsUnusable",
    "Trace",
    "Violation",
    "__version__",
    "serve",
]
