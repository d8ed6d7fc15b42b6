"""What operators write on a line: addresses, networks, destinations and listeners; numbers, sizes and names."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from shimproxy.config import listener, parsers
from shimproxy.config.listener import Listener, Passed, SettingsError
from shimproxy.net import address, origin
from shimproxy.net.address import Address, UnixPath, parse_endpoint, parse_network
from shimproxy.net.errors import AddressError
from shimproxy.net.origin import Allowed
from shimproxy.smtp import arguments, tidy
from tests.fuzz.commands import naive_is_name
from tests.fuzz.target import Target, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WORDS = (
    *(
        b"127.0.0.1",
        b"::1",
        b"[::1]",
        b":25",
        b":0",
        b":65536",
        b"unix:",
        b"/run/x",
        b"mail.example",
        b"/24",
        b"/128",
        b"%",
    ),
    *(
        b"[",
        b"]",
        b":",
        b",",
        b"=",
        b"lf-only-devices",
        b"tproxy",
        b"least-tls=1.0",
        b"systemd",
        b"original",
        b"@",
        b"/",
    ),
    *(
        b"\xff",
        b"\xc2\xb2",
        b"\xd9\xa1",
        b"\0",
        b" ",
        b"0",
        b"10",
        b"MiB",
        b"KiB",
        b"-1",
        b"1.5",
        b"1e5",
        b"nan",
        b"inf",
    ),
    *(b"255.255.255.0", b"x" * 108, b"<", b">", b"a@b.example", b".", b"-", b"_", b"\n", b"::ffff:1.2.3.4", b"01"),
)
_SEEDS = (
    b"127.0.0.1:25",
    b"[::1]:25,tproxy,least-tls=1.0",
    b"unix:/run/lmtp,lf-only-devices",
    b"192.0.2.0/24:587",
    b"[2001:db8::/32]:25",
    b"2001:db8::/32",
    b"<a@b.example>",
    b"10MiB",
    b"-1.5e3",
)


def text_of(octets: bytes) -> str:
    """As an argument of a command comes."""
    return octets.decode("utf-8", "surrogateescape")


def _outcome(parse: Callable[[str], Any], text: str, *documented: type[Exception]) -> Any:
    """What a text is, None where it is refused as documented, and with a reason."""
    try:
        return parse(text)
    except documented as error:
        if type(error) in documented and str(error):
            return None
        raise RuntimeError(f"{type(error).__name__} is not documented: {error}") from error


# -- the naive definitions


def naive_address(text: str) -> tuple[str, int] | None:
    """HOST:PORT; an IPv6 host in brackets."""
    found = re.fullmatch(r"(?s)(\[.*\]|[^:]*):([0-9]{1,5})", text)
    if found is None or int(found[2]) > 65535:
        return None
    host = found[1][1:-1] if re.fullmatch(r"(?s)\[.*\]", found[1]) else found[1]
    if any(each in "[]/@" or each.isspace() or not each.isprintable() for each in host):
        return None
    return host, int(found[2])


def naive_path(text: str) -> str | None:
    """unix:PATH, with an absolute path that fits into a socket's address."""
    found = re.fullmatch(r"(?s)unix:(/[^\0]*)", text)
    return found[1] if found and len(os.fsencode(found[1])) <= 107 else None


def naive_endpoint(text: str) -> tuple[str, int] | str | None:
    return naive_path(text) if text.startswith("unix:") else naive_address(text)


def naive_network(text: str) -> tuple[int, int, int] | None:
    """Version, address and mask of an address with a prefix or a mask, or of one alone."""
    host, slash, prefix = text.partition("/")
    for family, version, bits in ((socket.AF_INET, 4, 32), (socket.AF_INET6, 6, 128)):
        try:
            number = int.from_bytes(socket.inet_pton(family, host), "big")
        except (OSError, ValueError):
            continue
        length = _naive_length(prefix, bits) if slash else bits
        if length is None:
            return None
        mask = (1 << bits) - (1 << (bits - length))
        return (version, number, mask) if not number & ~mask & ((1 << bits) - 1) else None
    return None


def _naive_length(prefix: str, bits: int) -> int | None:
    if re.fullmatch("[0-9]+", prefix):
        return int(prefix) if len(prefix) < 10 and int(prefix) <= bits else None
    if bits == 128:
        return None
    try:
        written = int.from_bytes(socket.inet_pton(socket.AF_INET, prefix), "big")
    except (OSError, ValueError):
        return None
    for length in range(33):
        ones = 2**32 - (1 << (32 - length))
        if written in (ones, 2**32 - 1 - ones):
            return length
    return None


def _same_endpoint(found: Address | UnixPath | None) -> tuple[str, int] | str | None:
    if found is None:
        return None
    return found.path if isinstance(found, UnixPath) else (found.host, found.port)


def check_addresses(octets: bytes, pieces: Sequence[bytes]) -> None:
    text = text_of(octets)
    endpoint = _outcome(parse_endpoint, text, AddressError)
    assert _same_endpoint(endpoint) == naive_endpoint(text), f"{endpoint}, naively {naive_endpoint(text)}"
    if endpoint is not None:
        assert parse_endpoint(str(endpoint)) == endpoint
    network = _outcome(parse_network, text, AddressError)
    found = network and (network.version, int(network.network_address), int(network.netmask))
    if "%" not in text:
        assert found == naive_network(text), f"{found}, naively {naive_network(text)}"
    allowed = _outcome(Allowed.parse, text, AddressError)
    if allowed is not None:
        assert allowed.network is None or naive_network(str(allowed.network)), text
        assert all(0 < port <= 65535 for port in allowed.ports)
        allowed.includes(("192.0.2.1", 25))
    _check_listener(text)


def _check_listener(text: str) -> None:
    found = _outcome(Listener.parse, text, AddressError, SettingsError)
    where, *known = text.split(",")
    is_known = all(re.fullmatch(r"lf-only-devices|tproxy|least-tls=1\.[0-3]", each) for each in known)
    naively: object = None
    if is_known and (where == "systemd" or where.startswith("systemd:")):
        naively = Passed(where[8:])
    elif is_known and not (where.startswith("unix:") and "tproxy" in known):
        naively = naive_endpoint(where)
    if found is None:
        assert naively is None, text
    else:
        address = found.address
        assert naively == (address if isinstance(address, Passed) else _same_endpoint(address)), text
        assert (found.tproxy, found.lf_only_devices) == ("tproxy" in known, "lf-only-devices" in known)


# -- numbers, sizes, names

_UNITS: Final = {"": 0, "KiB": 10, "MiB": 20, "GiB": 30}


def check_values(octets: bytes, pieces: Sequence[bytes]) -> None:
    text = text_of(octets)
    size = _outcome(parsers.octets_of, text, ValueError)
    naively = re.fullmatch(r"(0*[1-9][0-9]*)(|KiB|MiB|GiB)", text)
    if naively and len(naively[1]) > 18:
        naively = None
    assert size == (int(naively[1]) << _UNITS[naively[2]] if naively else None), f"{size} for {text!r}"
    whole = _outcome(lambda each: parsers.number_of(each, int), text, ValueError)
    assert whole == (int(text) if re.fullmatch("-?[0-9]{1,4300}", text) else None)
    decimal = _outcome(lambda each: parsers.number_of(each, float), text, ValueError)
    is_decimal = re.fullmatch(r"(?i)-?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|-?inf|nan", text, re.ASCII)
    assert (decimal is not None) is bool(is_decimal), f"{decimal} for {text!r}"
    switch = _outcome(parsers.is_on, text, ValueError)
    naive_switch = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    assert switch is naive_switch.get(text.lower())
    path = _outcome(arguments.path, text, ValueError)
    assert path is None or re.fullmatch(r"<[!-;=?-~]*>", path), path
    assert (path is not None) is bool(re.fullmatch(r"<?[!-;=?-~]*>?", text)), text
    name = octets.replace(b"\r", b"").replace(b"\n", b"")
    assert tidy.is_possible_name(name) is naive_is_name(name), name
    for read in (parsers.sizes, parsers.workers):
        _outcome(lambda each, read=read: read([each]), text, ValueError, SettingsError)  # type: ignore[misc]


def _run(pieces: Sequence[bytes]) -> None:
    text = text_of(joined(pieces))
    for parse in (parse_endpoint, parse_network, Allowed.parse, Listener.parse):
        with suppress(AddressError, SettingsError):
            parse(text)


def _run_values(pieces: Sequence[bytes]) -> None:
    octets = joined(pieces)
    text = text_of(octets)
    for parse in (parsers.octets_of, parsers.is_on, arguments.path):
        with suppress(ValueError):
            parse(text)
    for kind in (int, float):
        with suppress(ValueError):
            parsers.number_of(text, kind)
    tidy.is_possible_name(octets)


TARGETS = (
    Target(
        name="addresses",
        parsers=(address, origin, listener),
        check=check_addresses,
        run=_run,
        words=_WORDS,
        seeds=_SEEDS,
        most_octets=200,
    ),
    Target(
        name="values",
        parsers=(parsers, tidy),
        check=check_values,
        run=_run_values,
        words=_WORDS,
        seeds=_SEEDS,
        most_octets=200,
    ),
)
