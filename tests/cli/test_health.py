"""What `shimproxy health` does without: a container runs it every few seconds."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from shimproxy.admin.health import PATIENCE_SECONDS, ask
from shimproxy.admin.receiver_health import GREETING_SECONDS
from shimproxy.cli import main
from tests.imports import imported_by

if TYPE_CHECKING:
    import pytest


def test_health_imports_no_settings_and_no_event_loop() -> None:
    """It asks a question by one blocking socket, and reads no settings where it is told whom to ask."""
    found = imported_by("from shimproxy.cli import main; main(['health', '--admin', '127.0.0.1:1'])")

    assert not found & {"trio", "ssl", "logging", "tomllib", "shimproxy.config.settings", "shimproxy.session"}


def test_health_is_more_patient_than_what_it_asks() -> None:
    assert PATIENCE_SECONDS > GREETING_SECONDS


def test_health_asks_at_each_address_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one refuses; where all do, its reason is told."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        refused = socket.create_server(("127.0.0.1", 0))
        places = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", each.getsockname()) for each in (refused, other)]
        refused.close()

        def found(host: bytes, *_: object, flags: int = 0, **__: object) -> list[object]:
            if flags:
                raise socket.gaierror(socket.EAI_NONAME, "not an address")
            return [*places]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        other.listen()
        monkeypatch.setattr("shimproxy.admin.health.PATIENCE_SECONDS", 0.2)
        assert ask("mail.example:25", "/healthz") == (False, "no answer from mail.example:25: none within 0.2 s")
    assert ask("mail.example:25", "/healthz") == (False, "no answer from mail.example:25: Connection refused")


def test_health_takes_the_address_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says what is wrong there if that is none."""
    monkeypatch.setenv("SHIMPROXY_ADMIN", "127.0.0.1:1")
    assert main(["health"]) == 1
    assert capsys.readouterr().err == "no answer from 127.0.0.1:1: Connection refused\n"

    monkeypatch.setenv("SHIMPROXY_ADMIN", "")
    monkeypatch.setenv("SHIMPROXY_ADMN", "127.0.0.1:1")
    assert main(["health"]) == 2
    assert "did you mean SHIMPROXY_ADMIN?" in capsys.readouterr().err
