"""Certificates that are renewed while shimproxy runs: what is said of that, and what is loaded."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, cast

import attrs
import pytest
import trio
import trio.testing

from shimproxy.config.sources import Given, Sources
from shimproxy.daemon.certificates import CertificateWatch
from shimproxy.faulty.receiving import HOST
from shimproxy.observe.events import Event
from tests.daemon.test_supervisor import running
from tests.peers.tls import Certificate, make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from shimproxy import Settings
    from shimproxy.daemon.in_force import SettingsInForce
    from shimproxy.observe.journal import Journal

DAY = 86_400.0


@attrs.define
class InForce:
    settings: Settings
    sources: Sources


@attrs.define
class Said:
    lines: list[tuple[Event, str]] = attrs.field(factory=list)

    def tell(self, event: Event, **fields: str) -> None:
        assert fields["file"] in fields["message"]
        self.lines.append((event, fields["message"].partition(fields["file"])[2]))


@attrs.define
class World:
    certificate: Certificate
    said: Said
    watch: CertificateWatch
    loads: list[None]
    in_force: InForce


def world(folder: Path, *, loads: bool, expired: bool = False) -> World:
    certificate = make_certificate(folder, expired=expired)
    given = {
        "listen": Given(("127.0.0.1:2525",), ""),
        "receiver": Given(("127.0.0.1:25",), ""),
        "cert": Given((str(certificate.certificate),), ""),
        "key": Given((str(certificate.key),), ""),
        "allow-clear": Given(("true",), ""),
        "reload-certificates": Given((str(loads).lower(),), ""),
    }
    sources = Sources(given).with_files()
    in_force, said, loaded = InForce(sources.settings(), sources), Said(), list[None]()
    watch = CertificateWatch(cast("SettingsInForce", in_force), cast("Journal", said), lambda: loaded.append(None))
    return World(certificate, said, watch, loaded, in_force)


async def test_a_file_that_has_changed_is_said_once_a_day(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    made = world(tmp_path, loads=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.watch.run)
        await trio.sleep(100)
        assert made.said.lines == []
        made.certificate.key.write_text("renewed")
        await trio.sleep(100)
        said = (Event.FILE_CHANGED, " has changed since it was loaded; SIGHUP loads it")
        assert made.said.lines == [said]
        await trio.sleep(DAY)
        assert made.said.lines == [said, said]
        made.in_force.sources = made.in_force.sources.with_files()
        await trio.sleep(3 * DAY)
        assert [line for line in made.said.lines if line[0] is Event.FILE_CHANGED] == [said, said]
        assert made.loads == []
        nursery.cancel_scope.cancel()


async def test_files_are_loaded_once_they_stay_the_same(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    made = world(tmp_path, loads=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.watch.run)
        await trio.sleep(11)
        for number in range(5):
            made.certificate.key.write_text(f"half of it {number}")
            await trio.sleep(10)
        assert made.loads == []
        await trio.sleep(10)
        assert made.loads == [None]
        await trio.sleep(1000)
        assert made.loads == [None], "what could not be used is not tried again"
        assert made.said.lines == [
            (Event.FILE_CHANGED, " has changed since it was loaded; the log says why it is not used")
        ]
        made.certificate.key.write_text("again")
        await trio.sleep(100)
        assert made.loads == [None, None]
        made.certificate.key.unlink()
        await trio.sleep(100)
        assert len(made.loads) == 2, "what can't be read is no other certificate"
        nursery.cancel_scope.cancel()


async def test_one_that_has_expired_meanwhile_is_said(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    made = world(tmp_path, loads=False, expired=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.watch.run)
        await trio.sleep(2.5 * DAY)
        nursery.cancel_scope.cancel()
    assert len(made.said.lines) == 3
    assert all(
        event is Event.CERTIFICATE and ": the certificate expired on " in said for event, said in made.said.lines
    )


@pytest.mark.once
def test_a_renewed_certificate_is_shown_without_a_signal(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    first, second = make_certificate(tmp_path), make_certificate(tmp_path / "new")
    text = (
        f'listen = "{HOST}:0"\nreceiver = "{HOST}:9"\ncert = "{first.certificate}"\nkey = "{first.key}"\n'
        "allow-clear = true\nreload-certificates = true\n"
    )
    with running(tmp_path, text) as run:
        for mine, theirs in ((first.key, second.key), (first.certificate, second.certificate)):
            shutil.copy(theirs, mine)
        run.logged(" reloaded ")
        assert "reload_failed" not in run.log
