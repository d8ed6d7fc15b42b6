"""What the start and `check` warn of, and whether a receiver relays for shimproxy."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import pytest

from shimproxy import Settings
from shimproxy.faulty.receiving import HOST
from shimproxy.service.warnings import warnings_of
from tests.daemon.test_supervisor import running
from tests.peers.here import run_here
from tests.peers.postfix import postfix

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

NOBODY_THERE = ("--receiver", "127.0.0.1:9")


def given(**more: Any) -> Settings:
    return Settings(**{"listen": "127.0.0.1:2525", "receiver": "127.0.0.1:25"} | more)


LOGIN = {"login_user": "u", "login_secret": "s", "receiver_tls": "required"}
DEVICES = {"listen": "0.0.0.0:25,lf-only-devices"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(given(), [], id="nothing"),
        pytest.param(
            given(**DEVICES),
            [
                "listen: 0.0.0.0:25,lf-only-devices: any sender can hide a mail within another there; name the "
                "networks of the devices (allow_sender)"
            ],
            id="devices",
        ),
        pytest.param(
            given(**LOGIN),
            [
                "login_user: every sender that reaches 127.0.0.1:2525 sends as u; name the networks that may "
                "(allow_sender)"
            ],
            id="login",
        ),
        pytest.param(
            given(admin=":8025"),
            ["admin: other hosts can read envelopes and replies at :8025; name the networks that may (allow_admin)"],
            id="admin",
        ),
        pytest.param(given(**DEVICES, allow_sender="192.0.2.0/24"), [], id="devices-allowed"),
        pytest.param(given(**LOGIN, allow_sender=["192.0.2.0/24", "2001:db8::/32"]), [], id="login-allowed"),
        pytest.param(given(admin="0.0.0.0:8025", allow_sender="192.0.2.0/24"), [], id="admin-of-senders"),
        pytest.param(given(admin="[::]:8025", allow_admin="192.0.2.0/24"), [], id="admin-allowed"),
        pytest.param(given(admin="[::1]:8025"), [], id="admin-on-loopback"),
        pytest.param(given(admin="unix:/run/admin"), [], id="admin-on-a-unix-socket"),
        pytest.param(given(listen="unix:/run/in,lf-only-devices"), [], id="unix-socket"),
    ],
)
def test_what_is_dangerous_has_a_warning(settings: Settings, said: list[str]) -> None:
    assert warnings_of(settings) == said


def test_warnings_are_a_class_of_their_own() -> None:
    arguments = ("check", "--listen", "127.0.0.1:0,lf-only-devices", *NOBODY_THERE)
    usual, strict = run_here(*arguments), run_here(*arguments, "--strict")

    assert (usual.returncode, strict.returncode) == (0, 2)
    assert usual.stderr == strict.stderr
    assert usual.stderr.startswith("shimproxy: warning: --listen: 127.0.0.1:0,lf-only-devices: ")
    assert run_here(*arguments, "--strict", "--allow-sender", "127.0.0.0/8").returncode == 0


def test_a_network_that_is_none() -> None:
    done = run_here("check", "--listen", "127.0.0.1:0", *NOBODY_THERE, "--allow-sender", "office\n")

    assert done.returncode == 2
    assert "--allow-sender: 'office\\n'" in done.stderr


@pytest.mark.once
def test_the_start_warns_too(tmp_path: Path) -> None:
    """And loopback may ask the admin address, whoever else may."""
    text = f'listen = "{HOST}:0,lf-only-devices"\nreceiver = "{HOST}:9"\nadmin = "{HOST}:0"\n'
    with running(tmp_path, text, "--allow-admin", "192.0.2.0/24") as run:
        assert run.log.count(" WARNING settings_warning ") == 1
        admin = run.ready.rpartition(", admin ")[2].strip()
        with urllib.request.urlopen(f"http://{admin}/healthz") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("more", "peer", "admitted"),
    [
        ({}, "198.51.100.1", True),
        ({"allow_sender": "192.0.2.0/24"}, "192.0.2.1", True),
        ({"allow_sender": "192.0.2.0/24"}, "198.51.100.1", False),
        ({"allow_sender": "192.0.2.0/24", "allow_admin": "198.51.100.0/24"}, "198.51.100.1", True),
        ({"allow_sender": "192.0.2.0/24", "allow_admin": "198.51.100.0/24"}, "192.0.2.1", False),
        ({"allow_admin": "198.51.100.0/24"}, "::ffff:198.51.100.1", True),
        ({"allow_admin": "198.51.100.0/24"}, "127.0.0.1", True),
        ({"allow_admin": "198.51.100.0/24"}, "::1", True),
    ],
)
def test_who_may_ask_the_admin_address(more: dict[str, str], peer: str, *, admitted: bool) -> None:
    settings = given(**more)

    assert settings.admits_client((peer, 1)) is admitted
    assert settings.admits_client("")


# -- relaying


@pytest.mark.parametrize("domain", ["", "a b", "[192.0.2.1]", "example.com>\r\nRCPT TO:<x"])
def test_what_is_no_domain_is_not_asked_for(domain: str) -> None:
    done = run_here("check", "--listen", "127.0.0.1:0", *NOBODY_THERE, "--relay", domain)

    assert done.returncode == 2
    assert "is not a domain" in done.stderr


def test_a_receiver_that_is_not_there_is_not_asked() -> None:
    done = run_here("check", "--listen", "127.0.0.1:0", *NOBODY_THERE, "--relay", "--strict")

    assert done.returncode == 0
    assert done.stderr == "shimproxy: 127.0.0.1:9: not asked whether it relays: Connection refused\n"


@pytest.mark.once
@pytest.mark.parametrize("relays", [True, False])
def test_postfix_is_asked_whether_it_relays(*, relays: bool) -> None:
    """By the address of shimproxy, which it trusts or not; it gets no mail."""
    networks = "127.0.0.0/8" if relays else "192.0.2.0/24"
    restrictions = (
        "smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\nsmtpd_recipient_restrictions =\n"
    )
    with postfix(more=f"mynetworks = {networks}\n{restrictions}") as server:
        arguments = ("check", "--listen", "127.0.0.1:0", "--receiver", f"{HOST}:{server.port}", "--relay", "--strict")
        done = run_here(*arguments)
        assert done.returncode == (2 if relays else 0), done.stderr
        if relays:
            assert "shimproxy: warning: " in done.stderr
            assert (
                f"{HOST}:{server.port} relays for this host: RCPT TO:<relay-test@example.com> gets '250 " in done.stderr
            )
            allowed = run_here(*arguments, "--allow-sender", "127.0.0.0/8")
            assert allowed.returncode == 0, allowed.stderr
        else:
            assert (
                "does not relay to example.com for this host: RCPT TO:<relay-test@example.com> gets '554 "
                in done.stderr
            )
