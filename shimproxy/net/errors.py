"""What can go wrong with sockets and time."""

from __future__ import annotations

import errno
import os
from typing import Final

OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
OUT_OF_MEANS: Final = (*OUT_OF_DESCRIPTORS, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC)
"""What this machine lacks, and no peer is at fault for; ENOSPC is epoll's word for too many watches."""


_KINDS: dict[int | None, str] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENOENT: "no_socket",
    errno.ETIMEDOUT: "timeout",
}


class NetError(Exception):
    """Base of everything that net/ raises."""


class DeadlinePassed(NetError):
    """A wait was longer than was allowed for `what`."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Interrupted(NetError):
    """The task was asked to stop waiting (Watch.interrupt)."""


class LegBroken(NetError):
    """Octets could not be written: the peer of the leg `name` has closed or reset it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    @property
    def is_reset(self) -> bool:
        """Whether this write has met the peer's RST. For one after its FIN the system says that the pipe is broken."""
        import ssl  # 4 MiB, for a command that has no use for it

        cause = self.__cause__
        return isinstance(cause, OSError) and not isinstance(cause, BrokenPipeError | ssl.SSLError)


class DialFailed(NetError):
    """No connection to the receiver could be made; `kind` is why, in a word for figures."""

    def __init__(self, what: str, kind: str = "other") -> None:
        super().__init__(what)
        self.kind = kind

    @staticmethod
    def kind_of(code: int | None) -> str:
        """The word for an error number."""
        return _KINDS.get(code, "other")


class NoMeans(DialFailed):
    """For want of file descriptors or memory, here: the receiver was not asked."""


class SenderUnusable(DialFailed):
    """No leg can leave from the sender's own address, whatever the receiver."""


class AddressError(NetError, ValueError):
    """A HOST:PORT that can't be used; the text names the mend."""


class HeaderInvalid(NetError, ValueError):
    """What should be a PROXY header is none, for a `reason` that shows what the peer sent escaped, if at all."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"PROXY header: {reason}")
        self.reason = reason


class ListenFailed(NetError):
    """An address can't be listened on; the text names the mend."""


class TlsFailed(NetError):
    """TLS could not be agreed on with the peer of the leg `name`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class TlsUnusable(NetError, ValueError):
    """A certificate, key or fingerprint that can't be used; the text names it and the mend."""


def reason(error: BaseException | None) -> str:
    """What the system says of an OSError, or of the first one that lies under it; trio wraps those of connect."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return ""
