"""The head of an HTTP request, as the admin address takes it (RFC 9112).

1. What is not in the grammar is refused: no two readers of a head may come to different requests.
2. The host is the one that the request is for: the target's, where the target has one, and else that of Host. It is in
   lower case, without its port and without a dot at its end.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from http import HTTPStatus
from typing import Final

import attrs

MOST_HEAD_OCTETS: Final = 16 * 1024
HEAD_END: Final = re.compile(rb"\r?\n\r?\n").search
"""Finds where a head ends."""
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINE_END: Final = re.compile(rb"\r?\n")
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([!\"$-~]+) HTTP/([0-9])\.([0-9])").fullmatch
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):([\t -~\x80-\xff]*)").fullmatch
_ABSOLUTE_FORM: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)").fullmatch
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._~!$&'()*+,;=%-]*))(?::[0-9]*)?").fullmatch
_DIGITS: Final = re.compile(rb"[0-9]+").fullmatch


class RequestRefused(Exception):
    """A request that gets an answer without being looked at further; its connection ends then."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@attrs.frozen
class Request:
    """What is asked for."""

    method: str
    target: str
    """The path and, after a question mark, the query; empty if the target has another form."""
    host: str
    """An IP address without brackets, a name, or nothing if none is named."""
    keeps_open: bool
    """Whether another request may follow on the connection."""

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """The request that this head makes, without the empty line at its end. Raises Refused."""
        line, *rest = _LINE_END.split(head)
        found = _REQUEST_LINE(line)
        if not found:
            raise _bad("the request line is malformed")
        method, target, major, minor = found.groups()
        if major != b"1":
            raise RequestRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1")
        fields = _fields(rest)
        hosts = fields.get(b"host", [])
        if len(hosts) > 1 or (not hosts and minor != b"0"):
            raise _bad(f"{len(hosts)} Host headers; send one")  # RFC 9112 3.2
        host = _host(hosts[0].decode("latin-1")) if hosts else ""
        path = target.decode("ascii")
        if whole := _ABSOLUTE_FORM(path):
            scheme, authority, path = whole.groups()
            host = _host(authority)  # and Host does not count (RFC 9112 3.2.2)
            if not host:
                raise _bad("the target names no host")
            if scheme.lower() != "http":
                raise RequestRefused(HTTPStatus.MISDIRECTED_REQUEST, "the scheme of this address is http")
            path = path if path.startswith("/") else "/" + path
        return cls(method.decode(), path if path.startswith("/") else "", host, _keeps_open(minor, fields))


def _bad(why: str) -> RequestRefused:
    return RequestRefused(HTTPStatus.BAD_REQUEST, why)


def _fields(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    """Name in lower case -> the values of all fields of that name. Raises Refused."""
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        found = _FIELD(line)
        if not found:
            raise _bad("a header is malformed")
        name, value = found.groups()
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return fields


def _host(authority: str) -> str:
    """The host of HOST or HOST:PORT. Raises Refused."""
    found = _AUTHORITY(authority)
    if not found:
        raise _bad("the host is malformed")
    address, name = found.groups()
    if address is None:
        return str(name).lower().removesuffix(".")
    if not is_ip_address(address) or ":" not in address:
        raise _bad("the host is malformed")
    return str(address).lower()


def is_ip_address(host: str) -> bool:
    """Whether a host is an IPv4 or IPv6 address in its usual form."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return "%" not in host
    return False


def _keeps_open(minor: bytes, fields: dict[bytes, list[bytes]]) -> bool:
    """Whether another request may follow: not after a body, as none is read. Raises Refused."""
    lengths = {each.lstrip(b"0") for each in fields.get(b"content-length", [])}
    if not all(map(_DIGITS, fields.get(b"content-length", []))) or len(lengths) > 1:
        raise _bad("Content-Length is malformed")
    has_body = b"transfer-encoding" in fields or bool(lengths - {b""})
    options = {each.strip(b" \t").lower() for value in fields.get(b"connection", []) for each in value.split(b",")}
    return minor != b"0" and b"close" not in options and not has_body
