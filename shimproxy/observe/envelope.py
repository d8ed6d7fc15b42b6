"""Mail addresses in the log: as they are, as a hash, or not at all."""

from __future__ import annotations

import enum
import hashlib
import re
from typing import Final

from shimproxy.smtp.arguments import address_of
from shimproxy.smtp.shown import escaped

_HASH_DIGITS: Final = 16
_HIDDEN: Final = "..."
_ATOM: Final = r"[^\s<>:;,()\[\]\"@]"
_LOCAL_PART: Final = rf'"(?:[^"\\]|\\.)*+"|(?<!{_ATOM}){_ATOM}++'  # no place is begun at twice: it may be long
_ADDRESS: Final = re.compile(rf"(?:{_LOCAL_PART})@(?:\[[^\]\s]*+\]|{_ATOM}++)")
"""An address within words, as a receiver may write one."""


class LogEnvelope(enum.StrEnum):
    """What the log has of mail addresses."""

    YES = "yes"
    """They stand there as they were given."""
    HASHED = "hashed"
    """The beginning of their SHA-256 stands there, which is the same for the same address."""
    NO = "no"
    """None."""

    def path(self, command: bytes) -> str:
        """The path of a MAIL or RCPT command in angle brackets, or what stands there for it."""
        address = address_of(command)
        if self is _YES or not address:
            return f"<{escaped(address)}>"
        return f"<{self._instead_of(address)}>"

    def words(self, text: str) -> str:
        """What a peer said, as the log shows it, with no address in it that must not be seen."""
        if self is _YES or "@" not in text:
            return text
        return _ADDRESS.sub(lambda found: self._instead_of(found[0].encode()), text)

    def _instead_of(self, address: bytes) -> str:
        return hashed(address) if self is LogEnvelope.HASHED else _HIDDEN


# A name of the module: from the class it takes ten times as long, in Python 3.11.
_YES: Final = LogEnvelope.YES


def hashed(address: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of an address in small letters."""
    return hashlib.sha256(address.lower()).hexdigest()[:_HASH_DIGITS]
