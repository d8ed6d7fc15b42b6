"""HOST:PORT: what operators write, what they are told, and what logs say."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest

from shimproxy.net.address import Address, BoundAddress, UnixPath, address_text
from shimproxy.net.errors import AddressError


@pytest.mark.parametrize(
    ("text", "address", "literal"),
    [
        ("127.0.0.1:25", Address("127.0.0.1", 25), True),
        ("[::1]:25", Address("::1", 25), True),
        ("[::]:2525", Address("::", 2525), True),
        ("[2001:db8::25]:25", Address("2001:db8::25", 25), True),
        ("[fe80::1%eth0]:25", Address("fe80::1%eth0", 25), True),
        ("[::ffff:192.0.2.1]:25", Address("::ffff:192.0.2.1", 25), True),
        ("mail.example:25", Address("mail.example", 25), False),
        ("mail.example.:25", Address("mail.example.", 25), False),
        ("localhost:0", Address("localhost", 0), False),
        ("a-b_c:65535", Address("a-b_c", 65535), False),
        (":2525", Address("", 2525), False),
        ("192.0.2:25", Address("192.0.2", 25), False),
    ],
)
def test_an_address_is_what_was_written(text: str, address: Address, literal: bool) -> None:
    """Names, literals, brackets for IPv6; and it is written again in the same way."""
    parsed = Address.parse(text)

    assert address == parsed
    assert literal == parsed.is_literal
    assert text == str(parsed)
    assert parsed == Address.parse(str(parsed))


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("", "write HOST:PORT"),
        ("mail.example", "write HOST:PORT"),
        ("25", "write HOST:PORT"),
        ("mail.example:", "a number from 0 to 65535"),
        ("mail.example:smtp", "a number from 0 to 65535"),
        ("mail.example:65536", "a number from 0 to 65535"),
        ("mail.example:-1", "a number from 0 to 65535"),
        ("mail.example:+25", "a number from 0 to 65535"),
        ("mail.example: 25", "a number from 0 to 65535"),
        ("mail.example:25 ", "a number from 0 to 65535"),
        ("mail.example:2_5", "a number from 0 to 65535"),
        ("mail.example:\uff12\uff15", "a number from 0 to 65535"),
        ("mail.example:\u00b2", "a number from 0 to 65535"),
        ("127.0.0.1:25:26", "in brackets"),
        ("::1:25", "in brackets"),
        ("2001:db8::25:25", "in brackets"),
        ("[::1]", "a number from 0 to 65535"),
        ("[::1:25", "in brackets"),
        ("smtp://mail.example:25", "in brackets"),
        ("user@mail.example:25", "not a host name"),
        ("mail example:25", "not a host name"),
        ("mail.example/x:25", "not a host name"),
        (" mail.example:25", "not a host name"),
        ("mail\t:25", "not a host name"),
        ("mail\x1b[0m:25", "not a host name"),
        ("mail\n:25", "not a host name"),
        ("mail\0:25", "not a host name"),
        ("[[::1]]:25", "not a host name"),
        pytest.param("mail.example:" + "9" * 5000, "a number from 0 to 65535", id="a port of 5000 digits"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_mend(text: str, mend: str) -> None:
    """One line that quotes what was written and says what to write."""
    with pytest.raises(AddressError) as raised:
        Address.parse(text)

    message = str(raised.value)
    assert mend in message
    assert repr(text) in message
    assert message.isprintable()


@pytest.mark.parametrize("octets", [0, 1])
def test_a_path_has_octets_and_not_letters(octets: int) -> None:
    """As arguments have what is not UTF-8; 107 octets fit into a socket's address."""
    path = "/\udcff" + "\u00fc" * 52 + "x" * (1 + octets)

    if octets:
        with pytest.raises(AddressError, match="107 octets at most"):
            UnixPath.parse(f"unix:{path}")
    else:
        assert UnixPath.parse(f"unix:{path}").path == path


def test_an_address_error_is_a_value_error() -> None:
    """So that whoever embeds shimproxy catches one kind for all settings."""
    assert issubclass(AddressError, ValueError)


@pytest.mark.parametrize(
    ("sockaddr", "text"),
    [
        (("127.0.0.1", 25), "127.0.0.1:25"),
        (("::1", 25, 0, 0), "[::1]:25"),
        (("2001:db8::1", 25, 0, 0), "[2001:db8::1]:25"),
        (("::ffff:192.0.2.1", 25, 0, 0), "192.0.2.1:25"),
        (("64:ff9b::192.0.2.1", 25, 0, 0), "[64:ff9b::192.0.2.1]:25"),
        (("fe80::1%eth0", 25, 0, 2), "[fe80::1%eth0]:25"),
        ("", "local"),
        ("/run/socket", "unix:/run/socket"),
        ("/run/a b\nc\\", "unix:/run/a b\\nc\\\\"),
        ("/run/\u00fc\udcff", "unix:/run/\\xc3\\xbc\\xff"),
        (b"\0abstract", "local"),
        (None, "local"),
    ],
    ids=repr,
)
def test_a_sockets_address_as_logs_write_it(sockaddr: object, text: str) -> None:
    """An IPv4 peer is written as one, whatever kind of socket it came to."""
    assert text == address_text(sockaddr)


# -- where connections are accepted


@pytest.mark.parametrize(
    ("sockaddr", "text", "host", "port", "path"),
    [
        (("127.0.0.1", 2525), "127.0.0.1:2525", "127.0.0.1", 2525, ""),
        (("::1", 25, 0, 0), "[::1]:25", "::1", 25, ""),
        (("::ffff:192.0.2.1", 25, 0, 0), "192.0.2.1:25", "192.0.2.1", 25, ""),
        ("/run/smtp", "unix:/run/smtp", "", 0, "/run/smtp"),
        ("", "local", "", 0, ""),
    ],
)
def test_a_bound_address_is_its_text_and_has_its_parts(
    sockaddr: object, text: str, host: str, port: int, path: str
) -> None:
    """Whoever took it for a text before can go on so."""
    address = BoundAddress.of(sockaddr)
    for each in (address, pickle.loads(pickle.dumps(address)), copy.deepcopy(address)):
        assert (str(each), each.host, each.port, each.path) == (text, host, port, path)
        assert each == text == address_text(sockaddr)
        assert hash(each) == hash(text)
        assert each.rpartition(":") == text.rpartition(":")
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            each.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", "25"), ("127.0.0.1", True), (25, 25), (None, 25)])
def test_an_address_is_a_text_and_a_number(host: Any, port: Any) -> None:
    """What is of another type is refused at once."""
    with pytest.raises(AddressError, match="write a text and a number, as in Address"):
        Address(host, port)
