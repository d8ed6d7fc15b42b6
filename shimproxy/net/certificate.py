"""What a certificate says of itself: its names, and from when until when it holds (RFC 5280, in DER of X.690).

The standard library reads a certificate only where it has verified it. Here nothing is verified: it is for reports
about peers whose certificate is refused. A part that is not there is empty; what is no certificate is an error.
"""

from __future__ import annotations

import hashlib
import ipaddress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_OBJECT: Final = 0x06
_OCTETS: Final = 0x04
_UTC_TIME: Final = 0x17
_GENERAL_TIME: Final = 0x18
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87
_COMMON_NAME: Final = b"\x55\x04\x03"  # 2.5.4.3
_ALTERNATIVE_NAMES: Final = b"\x55\x1d\x11"  # 2.5.29.17
_WIDE: Final = {0x1C: "utf-32-be", 0x1E: "utf-16-be", 0x0C: "utf-8"}
"""Strings that are not of an octet a character: UniversalString, BMPString, UTF8String."""
_LONG_FORM: Final = 0x80
_MOST_LENGTH_OCTETS: Final = 4
_HIGH_TAG: Final = 0x1F
_CENTURY_OF: Final = 50  # RFC 5280 4.1.2.5.1: a two-digit year from 50 on is one of 1900


class CertificateInvalid(ValueError):
    """The octets are not a certificate in DER."""


@attrs.frozen(kw_only=True)
class Certificate:
    """What a certificate says of itself."""

    subject: str
    """The common name of the subject; empty if it has none."""
    issuer: str
    """The common name of the issuer; empty if it has none."""
    names: tuple[str, ...]
    """The host names and addresses that it is for: the subject's alternative names. A common name does not count."""
    not_before: datetime
    not_after: datetime
    fingerprint: str
    """SHA-256 of all of it, in hexadecimal."""

    @classmethod
    def parse(cls, octets: bytes) -> Self:
        """Read a certificate (RFC 5280 4.1). Raises CertificateInvalid."""
        try:
            return cls._parse(octets)
        except CertificateInvalid:
            raise
        except (IndexError, StopIteration, ValueError) as error:
            raise CertificateInvalid("a part is missing") from error

    @classmethod
    def _parse(cls, octets: bytes) -> Self:
        whole = _inside(octets, _SEQUENCE)
        fields = _elements(_inside(whole, _SEQUENCE))
        tag, _ = next(fields)
        if tag == _VERSION:
            next(fields)  # the serial number, which is the first field where there is no version
        next(fields)  # the signature's algorithm
        _, issuer = next(fields)
        _, validity = next(fields)
        _, subject = next(fields)
        not_before, not_after = (_time(tag, content) for tag, content in _elements(validity))
        names: tuple[str, ...] = ()
        for tag, content in fields:
            if tag == _EXTENSIONS:
                names = tuple(_alternative_names(_inside(content, _SEQUENCE)))
        return cls(
            subject=_common_name(subject),
            issuer=_common_name(issuer),
            names=names,
            not_before=not_before,
            not_after=not_after,
            fingerprint=hashlib.sha256(octets).hexdigest(),
        )

    def days_left(self, now: datetime) -> int:
        """How many whole days it holds from `now` on; negative from the moment on when it has expired."""
        return (self.not_after - now).days


def _elements(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """The tag and the content of each element, one after the other (X.690 8.1)."""
    start = 0
    while start < len(octets):
        tag, length = octets[start], octets[start + 1]
        start += 2
        if tag & _HIGH_TAG == _HIGH_TAG:
            raise CertificateInvalid("a tag of several octets")
        if length >= _LONG_FORM:
            count = length - _LONG_FORM
            if not 0 < count <= _MOST_LENGTH_OCTETS:
                raise CertificateInvalid("a length that DER does not have")
            length = int.from_bytes(octets[start : start + count])
            start += count
        if start + length > len(octets):
            raise CertificateInvalid("cut short")
        yield tag, octets[start : start + length]
        start += length


def _inside(octets: bytes, tag: int) -> bytes:
    """The content of the first element, which must have this tag."""
    found, content = next(_elements(octets), (0, b""))
    if found != tag:
        raise CertificateInvalid(f"tag {found:#04x} instead of {tag:#04x}")
    return content


def _time(tag: int, content: bytes) -> datetime:
    """UTCTime or GeneralizedTime (RFC 5280 4.1.2.5)."""
    text = content.decode("ascii")
    if tag == _UTC_TIME and len(text) == len("YYMMDDHHMMSSZ"):
        text = f"{'19' if int(text[:2] if text[:2].isdigit() else '0') >= _CENTURY_OF else '20'}{text}"
    elif tag != _GENERAL_TIME:
        raise CertificateInvalid(f"{text!r} is not a time")
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise CertificateInvalid(f"{text!r} is not a time") from None


def _common_name(name: bytes) -> str:
    """The last common name in a distinguished name (RFC 5280 4.1.2.4); empty without one."""
    found = ""
    for _, part in _elements(name):
        for _, attribute in _elements(part):
            (_, kind), (tag, text) = _pair(attribute)
            if kind == _COMMON_NAME:
                found = text.decode(_WIDE.get(tag, "latin-1"), "replace")
    return found


def _pair(octets: bytes) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    """The first and the last element of a sequence."""
    elements = [*_elements(octets)]
    return elements[0], elements[-1]


def _alternative_names(extensions: bytes) -> Iterator[str]:
    """The host names and addresses among the alternative names (RFC 5280 4.2.1.6)."""
    for _, extension in _elements(extensions):
        (kind_tag, kind), (tag, value) = _pair(extension)
        if (kind_tag, kind, tag) != (_OBJECT, _ALTERNATIVE_NAMES, _OCTETS):
            continue
        for name_tag, name in _elements(_inside(value, _SEQUENCE)):
            if name_tag == _DNS_NAME:
                yield name.decode("latin-1")
            elif name_tag == _IP_ADDRESS and len(name) in (4, 16):
                yield str(ipaddress.ip_address(name))
