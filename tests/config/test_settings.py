"""What an operator can set: converted and validated once, and every refusal names the setting and the mend."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar

import attrs
import pytest

from shimproxy.config.listener import Listener, SettingsError
from shimproxy.config.settings import Settings
from shimproxy.net.address import Address
from shimproxy.net.errors import AddressError
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.smtp.newlines import Newlines
from shimproxy.smtp.reply import ReplyReader

if TYPE_CHECKING:
    from collections.abc import Callable

Made = TypeVar("Made")


def made(kind: Callable[..., Made], **values: object) -> Made:
    """One of `kind` with these values, of whatever type an embedding program may give."""
    return kind(**values)


def settings(**changes: object) -> Settings:
    """Settings with these changes, and a receiver."""
    return made(Settings, **{"receiver": "mail.example:25", **changes})


# -- addresses


def test_addresses_may_be_text_or_addresses() -> None:
    """The command line and an embedding program make the same Settings."""
    address, other = Address("127.0.0.1", 2525), Address("::1", 0)
    expected = Settings(receiver=Address("mail.example", 25), listen=(Listener(address), Listener(other)))

    assert expected == settings(listen=("127.0.0.1:2525", "[::1]:0"))
    assert expected == settings(listen=["127.0.0.1:2525", other])


def test_only_the_receiver_is_needed() -> None:
    """`serve` may be given listeners; everything else has a default, the one that the rooms below have."""
    expected = Settings(receiver=Address("mail.example", 25), listen=(), deadlines=Deadlines(), limits=Limits())

    assert expected == settings()
    with pytest.raises(SettingsError, match="receiver: missing; write HOST:PORT"):
        Settings()


@pytest.mark.parametrize(
    "receiver", [":25", "mail.example:0", ":0", Address("", 25), Address("mail.example", 0)], ids=str
)
def test_a_receiver_that_cannot_be_dialled(receiver: Address | str) -> None:
    """All addresses, or any port, is nowhere to connect to."""
    with pytest.raises(SettingsError, match=r"receiver: .*write HOST:PORT, as in"):
        settings(receiver=receiver)


@pytest.mark.parametrize("listen", [":2525", "127.0.0.1:0", ":0"])
def test_all_addresses_and_any_port_can_be_listened_on(listen: str) -> None:
    """What is no receiver can be a listener."""
    assert settings(listen=[listen]).listen == (Listener(Address.parse(listen)),)


def test_a_listener_may_be_for_devices_that_know_lf_alone() -> None:
    """That stands behind its address; anything else there is named, with what may."""
    assert settings(listen="127.0.0.1:2526,lf-only-devices").listen == (
        Listener(Address("127.0.0.1", 2526), lf_only_devices=True),
    )
    with pytest.raises(SettingsError, match=r"listen: '127.0.0.1:25,lf': .*',lf-only-devices'"):
        settings(listen="127.0.0.1:25,lf")


def test_newlines_are_one_of_three() -> None:
    """Given as text or as a member."""
    assert settings().newlines is Newlines.NORMALISE
    assert settings(newlines="pass").newlines is settings(newlines=Newlines.PASS).newlines is Newlines.PASS
    with pytest.raises(SettingsError, match="newlines: 'keep' is none of normalise, reject, pass"):
        settings(newlines="keep")


@pytest.mark.parametrize("newlines", ["reject", "pass"])
def test_newlines_of_devices_that_know_lf_alone_are_made_canonical(newlines: str) -> None:
    """Nothing else can be done with them, so that what says otherwise is no setting; another listener may have it."""
    of_devices = "127.0.0.1:2526,lf-only-devices"
    with pytest.raises(
        SettingsError, match=f"listener 127.0.0.1:2526: .*lf-only-devices.* newlines is {newlines}; set"
    ):
        settings(listen=[of_devices, "127.0.0.1:2525"], newlines=newlines)
    with pytest.raises(SettingsError, match=r"listener 127.0.0.1:2526: .*lf-only-devices"):
        settings(listen=attrs.evolve(Listener.parse(of_devices), own={"newlines": newlines}))

    its_own = attrs.evolve(Listener.parse(of_devices), own={"newlines": "normalise"})
    assert settings(listen=[its_own, "127.0.0.1:2525"], newlines=newlines).newlines == newlines


@pytest.mark.parametrize("setting", ["receiver", "listen"])
@pytest.mark.parametrize("text", ["mail.example", "::1:25", "mail.example:smtp", ""])
def test_text_that_is_no_address(setting: str, text: str) -> None:
    """The text itself is named, and what to write."""
    with pytest.raises(AddressError) as raised:
        settings(**{setting: (text,) if setting == "listen" else text})

    assert repr(text) in str(raised.value)


# -- numbers


@pytest.mark.parametrize(
    ("setting", "value"),
    [("sessions", 0), ("sessions", -1), ("grace_seconds", -0.1), ("grace_seconds", math.nan)],
    ids=str,
)
def test_a_number_that_cannot_be_used(setting: str, value: float) -> None:
    """The setting is named, and the least that it can be."""
    with pytest.raises(ValueError, match=rf"{setting}.*(>= |at least |from )[01]"):
        settings(**{setting: value})


@pytest.mark.parametrize(("setting", "value"), [("sessions", 1), ("grace_seconds", 0), ("grace_seconds", 0.5)], ids=str)
def test_the_least_number_that_can_be_used(setting: str, value: float) -> None:
    """One session at a time, and no grace at all, are an operator's to choose."""
    assert value == getattr(settings(**{setting: value}), setting)


# -- early_success


@pytest.mark.parametrize(
    "text",
    ["451 4.3.0 try again later", "450 no", "421 4.3.2 closing", "550 5.3.0 -", "599 x", "554 " + "x" * 506],
    ids=lambda text: text[:12],
)
def test_a_refusal_may_answer_an_early_success(text: str) -> None:
    """Any 4yz or 5yz that fits a reply line."""
    assert text == settings(early_success=text).early_success


REFUSED_TEXTS = {
    "empty": "",
    "success": "250 2.0.0 Ok",
    "354": "354 go on",
    "no code": "try again later",
    "1yz": "150 x",
    "6yz": "650 x",
    "longer number": "4510 x",
    "code alone": "451",
    "unfinished": "451-4.3.0 try again later",
    "with its CRLF": "451 4.3.0 try again later\r\n",
    "with a LF": "451 a\nb",
    "two replies": "451 a\r\n250 b",
    "CR": "451 a\rb",
    "NUL": "451 a\0b",
    "too long": "451 " + "x" * 507,
    "blank first": " 451 x",
    "an octet that is no UTF-8": "451 \udcff",
}


@pytest.mark.parametrize("text", [*REFUSED_TEXTS.values()], ids=[*REFUSED_TEXTS])
def test_what_is_no_refusal_may_not_answer_an_early_success(text: str) -> None:
    """A success would break guarantee 3, anything that is not one line the form of a reply."""
    with pytest.raises(SettingsError, match=r"early_success: .*write a code and a text, as in '4"):
        settings(early_success=text)


def test_the_default_for_an_early_success_is_temporary() -> None:
    """The mail may have been accepted: the sender is to try again, not to give up."""
    text = settings().early_success
    reader = ReplyReader()
    reader.feed(text.encode("ascii") + b"\r\n")
    reply = reader.next_reply()

    assert text.startswith("451 4.3.0 ")
    assert reply is not None
    assert (reply.code, reply.violations) == (451, ())


def test_settings_do_not_change() -> None:
    """Validated once, true for good."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        settings().sessions = 0  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Deadlines().reply = 0  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Limits().reply_octets = 0  # type: ignore[misc]


# -- deadlines


@pytest.mark.parametrize(
    ("deadline", "least_seconds"),
    [
        pytest.param("greeting", 300, id="4.5.3.2.1 initial 220"),
        pytest.param("reply", 300, id="4.5.3.2.2 MAIL, 4.5.3.2.3 RCPT"),
        pytest.param("data_reply", 120, id="4.5.3.2.4 DATA initiation"),
        pytest.param("receiver_block", 180, id="4.5.3.2.5 data block"),
        pytest.param("sender_block", 180, id="4.5.3.2.5 data block, of the sender"),
        pytest.param("end_of_data_reply", 600, id="4.5.3.2.6 data termination"),
        pytest.param("command", 300, id="4.5.3.2.7 server timeout"),
    ],
)
def test_no_deadline_is_shorter_than_the_peers_own(deadline: str, least_seconds: float) -> None:
    """RFC 5321 4.5.3.2: the shim must not cause the failure that it repairs."""
    assert getattr(Deadlines(), deadline) >= least_seconds


EVERY_DEADLINE = [field.name for field in attrs.fields(Deadlines)]


@pytest.mark.parametrize("deadline", EVERY_DEADLINE)
@pytest.mark.parametrize("seconds", [0, -1, -0.001, math.inf, -math.inf, math.nan, "300", None], ids=repr)
def test_a_deadline_that_never_or_always_passes(deadline: str, seconds: object) -> None:
    """Every wait ends (guarantee 8): no endless one, no zero, and the refusal says which and what to give."""
    with pytest.raises(ValueError, match=rf"{deadline} must be a number above 0"):
        made(Deadlines, **{deadline: seconds})


@pytest.mark.parametrize("deadline", EVERY_DEADLINE)
@pytest.mark.parametrize("seconds", [1, 0.001, 86_400.0])
def test_any_finite_deadline_is_an_operators_to_choose(deadline: str, seconds: float) -> None:
    """Tests and impatient operators go below the RFC."""
    assert seconds == getattr(made(Deadlines, **{deadline: seconds}), deadline)


@pytest.mark.parametrize("deadline", EVERY_DEADLINE)
def test_the_shortest_deadline(deadline: str) -> None:
    """Whichever it is: the watchdog's tick must suit it."""
    assert made(Deadlines, **{deadline: 0.25}).shortest_seconds == 0.25


def test_a_linger_has_room_for_its_idle_deadline() -> None:
    """By default a peer that goes on talking is borne longer than one that is silent."""
    assert Deadlines().linger_total >= Deadlines().linger_idle


# -- limits

OCTETS = [
    field.name for field in attrs.fields(Limits) if field.name.endswith("_octets") and field.name != "block_octets"
]


def test_a_block_has_a_least_size() -> None:
    """Smaller ones would be read one by one, at a cost each."""
    with pytest.raises(ValueError, match="block_octets must be a whole number from 65536 on, not 65535"):
        Limits(block_octets=65_535)
    assert Limits(block_octets=65_536).block_octets == 65_536


@pytest.mark.parametrize("limit", OCTETS)
@pytest.mark.parametrize("octets", [511, 0, -1, 512.0, math.inf, math.nan, "512", None], ids=repr)
def test_a_limit_below_what_the_rfc_demands(limit: str, octets: object) -> None:
    """RFC 5321 4.5.3.1: a line of 512 octets must pass; the refusal says which limit and the least of it."""
    with pytest.raises(ValueError, match=rf"{limit} must be a whole number from 512 on"):
        made(Limits, **{limit: octets})


@pytest.mark.parametrize("limit", OCTETS)
def test_a_limit_of_a_line_can_be_set(limit: str) -> None:
    """512 octets are enough for a strict operator."""
    assert getattr(made(Limits, **{limit: 512}), limit) == 512


@pytest.mark.parametrize("rate", [-1, -0.001, math.inf, math.nan, "1", None], ids=repr)
def test_a_rate_that_cannot_be_used(rate: object) -> None:
    """The refusal says which and what to give; 0 is for no such limit."""
    with pytest.raises(ValueError, match="least_octets_per_second must be a number from 0 on"):
        made(Limits, least_octets_per_second=rate)


@pytest.mark.parametrize("rate", [0, 0.5, 100])
def test_a_rate_can_be_set(rate: float) -> None:
    """0 and fractions too."""
    assert rate == made(Limits, least_octets_per_second=rate).least_octets_per_second


def test_no_limit_is_smaller_than_what_peers_may_send() -> None:
    """RFC 4954 section 4 has command lines of 12,288 octets; EHLO replies have dozens of lines of 512."""
    assert Limits().command_octets >= 12_288
    assert Limits().reply_octets >= 100 * 512
    assert Limits().held_octets >= Limits().command_octets


def test_the_slowest_sender_allowed_is_slower_than_any_line() -> None:
    """A modem of 1200 bit/s is not cut off."""
    assert Limits().least_octets_per_second <= 120


# -- values of a wrong type


class Nothing:
    """What no setting can be."""

    def __repr__(self) -> str:
        return "nothing"


@pytest.mark.parametrize("value", [Nothing(), b"octets", 2.5j, [Nothing()]], ids=repr)
@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Settings)])
def test_every_field_refuses_what_is_of_another_type(field: str, value: object) -> None:
    """At once, with its name and what to write instead."""
    with pytest.raises(ValueError, match=f"^{field}: .*(; write|is none of) ") as caught:
        settings(**{field: value})
    assert isinstance(caught.value, SettingsError | AddressError)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("receiver", 25, "receiver: 25 is not an address; write HOST:PORT, as in '127.0.0.1:25', or a list of such"),
        ("listen", "x", "listen: 'x' has no port: write HOST:PORT, as in 127.0.0.1:25"),
        (
            "listen",
            [25],
            "listen: 25 is not an address to listen on; write HOST:PORT, as in '127.0.0.1:2525', or a list",
        ),
        ("listen", {"127.0.0.1:0"}, "listen: {'127.0.0.1:0'} is not an address to listen on; "),
        ("xclient", "yes", "xclient: 'yes' is of type str; write True or False"),
        ("xclient", 1, "xclient: 1 is of type int; write True or False"),
        ("sessions", True, "sessions: True is of type bool; write a whole number"),
        ("sessions", 10.0, "sessions: 10.0 is of type float; write a whole number"),
        ("max_size", "20MiB", "max_size: '20MiB' is of type str; write a whole number, or None"),
        ("max_size_by_domain", {"a.example": "1"}, "max_size_by_domain: 'a.example': '1' is not a size of a domain; "),
        ("deadlines", {"command": 60}, "deadlines: {'command': 60} is of type dict; write shimproxy.Deadlines"),
        ("certificate", 5, "certificate: 5 is not a path; write one in quotes"),
        ("trust", "all", "trust: 'all' does not appear to be "),
        ("log_level", "loud", "log_level: 'loud' is none of debug, info, warning, error"),
        ("source", 1, "source: 1 is not an address; write one of this machine's"),
        ("admin", "8080", "admin: '8080' has no port"),
        ("observe", 5, "observe: 5 is not the name of a violation; write one in quotes, as in 'early-reply'"),
        ("observe", "x" * 1024, f"observe: '{'x' * 100}...' is not the name of a violation; these can be: "),
        ("rewrite", 5, "rewrite: 5 is not a rule; write one in quotes, as in 'end-of-data: 451 "),
        ("rewrite", "x", "rewrite: 'x' is not a rule; write one as in 'end-of-data: 451 "),
        ("hide", "RCPT", "hide: 'RCPT' is a command that every receiver has"),
        ("hide", ["X", 1], "hide: 1 is not a keyword; write one in quotes"),
        (
            "admin_names",
            "shim.example:8025",
            "admin_names: 'shim.example:8025' is not a host name; write one without a port",
        ),
        ("admin_names", ["shim example"], "admin_names: 'shim example' is not a host name"),
        ("admin_names", 1, "admin_names: 1 is not a host name"),
        ("admin_names", "shim.example", "admin_names: no admin address to know by these names; give one"),
    ],
)
def test_a_value_of_another_type_is_told_with_its_mend(field: str, value: object, problem: str) -> None:
    """As an embedding program may give it by mistake."""
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        settings(**{field: value})


def test_a_secret_of_another_type_is_not_shown() -> None:
    """A number, say, that was read from a file of settings."""
    with pytest.raises(SettingsError, match=r"^login_secret: what is given is of type int; write a text in quotes$"):
        settings(login_user="u", login_secret=90125)


@pytest.mark.parametrize("of", [Deadlines, Limits])
def test_true_is_no_deadline_and_no_limit(of: type[Deadlines | Limits]) -> None:
    """To Python it is the number 1."""
    for field in attrs.fields(of):
        with pytest.raises(ValueError, match=f"^{field.name} must be a (whole )?number .*, not True$"):
            made(of, **{field.name: True})


@pytest.mark.parametrize("values", [{"address": "127.0.0.1:25"}, {"tproxy": "yes"}, {"lf_only_devices": 1}])
def test_a_listener_refuses_what_is_of_another_type(values: dict[str, object]) -> None:
    """It can be made without a text, too."""
    with pytest.raises(SettingsError, match=r"^listener: .*; write"):
        made(Listener, **{"address": Address("127.0.0.1", 25), **values})


@pytest.mark.parametrize(
    ("admin", "known"),
    [("Shim.Example.:8025", "shim.example"), ("127.0.0.1:8025", "127.0.0.1"), (":8025", ""), ("unix:/run/admin", "")],
)
def test_the_admin_address_is_known_by_localhost_its_own_host_and_the_names_given(admin: str, known: str) -> None:
    settings = Settings(receiver="127.0.0.1:25", admin=admin, admin_names="SHIM.")
    assert settings.admin_names_used == {"localhost", known, "shim"}


def test_keywords_are_hidden_once_however_they_are_written() -> None:
    texts = ["chunking,SMTPUTF8", "AUTH:xoauth2", "CHUNKING"]
    hide = settings(hide=texts).hide
    assert [str(each) for each in hide] == ["CHUNKING", "SMTPUTF8", "AUTH:XOAUTH2"]
    assert settings(hide=hide) == settings(hide=texts)
