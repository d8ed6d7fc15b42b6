"""The atlas: its page is what its data print, and the probe names those that it knows, and nobody else."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from shimproxy.faulty.outcome import Believed
from shimproxy.faulty.receiving import HOST, speaking
from shimproxy.net.address import Address
from shimproxy.probe import report as probe_report
from shimproxy.probe.account import Account, DialogueSeen, Heard
from shimproxy.probe.atlas import DATA, LIKE, AtlasEntry, atlas, likenesses
from shimproxy.probe.habits import Mask, habits
from shimproxy.probe.probe import Probe, ProbePlan
from shimproxy.smtp.catalogue import Violation
from tests.atlas import __main__ as atlas_command
from tests.atlas.ear import Ear, Manner
from tests.atlas.page import PAGE, page
from tests.atlas.receivers import receivers
from tests.atlas.senders import senders
from tests.atlas.world import NotHere, World
from tests.peers.exim import exim
from tests.peers.mail import SMALL
from tests.peers.opensmtpd import opensmtpd
from tests.peers.postfix import postfix
from tests.peers.programs import smtp_sink
from tests.peers.senders import python_smtplib

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from shimproxy.faulty.talk import Talk
    from shimproxy.probe.atlas import Likeness

RECEIVERS = atlas().receivers
SECONDS = 60.0


async def recognised(port: int, listen_seconds: float = 0.05) -> tuple[list[Likeness], str]:
    """Whom a probe without a mail takes it for, and its words."""
    lines: list[tuple[str, str]] = []
    plan = ProbePlan(receiver=Address(HOST, port), listen_seconds=listen_seconds, helo_name="other.example")
    probe = Probe(plan, lines.append)
    with trio.fail_after(SECONDS):
        await probe.without_mail()
    lines.clear()
    probe.recognise()
    return probe.account.looks_like, "\n".join(text for _, text in lines)


# -- the data


def test_the_page_is_what_the_data_print() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(atlas()), "run: python -m tests.atlas --page"


def test_how_many_there_are() -> None:
    this_year = [each for each in (*atlas().receivers, *atlas().senders) if each.released >= "2026"]

    assert len(atlas().receivers) >= 20
    assert len(atlas().senders) >= 15
    assert len(this_year) >= 6


@pytest.mark.parametrize("entry", [*atlas().receivers, *atlas().senders], ids=lambda entry: entry.title)
def test_an_entry_is_whole(entry: AtlasEntry) -> None:
    assert all((entry.name, entry.version, entry.package, entry.released, entry.seen))
    assert len(entry.habits) >= 6
    assert all(text.isprintable() for text in (*entry.habits.values(), *entry.mail.values()))
    assert set(entry.violations) <= {str(each) for each in Violation}


def test_the_data_name_no_machine() -> None:
    name = socket.gethostname()
    words = set(DATA.read_text(encoding="utf-8").replace('"', " ").replace("<", " ").split())

    assert name == "localhost" or name not in words


# -- who is it?


@pytest.mark.parametrize("entry", RECEIVERS, ids=lambda entry: entry.title)
def test_a_receiver_with_the_habits_of_an_entry_is_named(entry: AtlasEntry) -> None:
    """It alone, or with others whose habits are as like."""
    found = likenesses(entry.habits, RECEIVERS)

    assert found[0].likeness == 1.0
    same = [each.habits for each in RECEIVERS if each.name in [like.name for like in found if like.likeness == 1.0]]
    assert entry.habits in same


def entry_of(name: str, **habits: str) -> AtlasEntry:
    return AtlasEntry(name=name, version="1", package="", released="", seen="", habits=habits)


KNOWN = (
    entry_of("one", hello="250 HOST", noop="250 OK", rset="250 OK", quit="221 Bye", mail="250 OK", a="500 what?"),
    entry_of("two", hello="250 HOST", noop="250 Ok", rset="250 Ok", quit="221 Ciao", mail="250 Ok", a="502 no"),
)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        pytest.param({}, ["one"], id="all agrees"),
        pytest.param({"a": "501 who?"}, ["one"], id="one differs"),
        pytest.param({"noop": "250 yes", "rset": "250 yes", "mail": "250 yes", "quit": "221 yes"}, [], id="too many"),
    ],
)
def test_most_must_agree(changes: dict[str, str], names: list[str]) -> None:
    found = likenesses(KNOWN[0].habits | changes, KNOWN)

    assert [each.name for each in found] == names
    assert all(each.likeness >= LIKE and set(each.differing) == set(changes) for each in found)


def test_from_little_nobody_is_named() -> None:
    assert likenesses({"hello": "250 HOST", "noop": "250 OK", "rset": "250 OK"}, KNOWN) == []


def test_those_that_are_alike_are_all_named() -> None:
    twins = (*KNOWN, attrs.evolve(KNOWN[0], name="twin"))

    assert [each.name for each in likenesses(KNOWN[0].habits, twins)] == ["one", "twin"]


def heard(line: str) -> Heard:
    return Heard(int(line[:3]), (line,))


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("250 mx1.other.example at your service", "250 HOST at your service"),
        ("250 Hello probe.example [192.0.2.7], pleased", "250 Hello HOST ADDRESS, pleased"),
        ("250 2.0.0 Ok: queued as 4cKx2f1YzQ", "250 2.0.0 Ok: queued as ID"),
        ("221 Bye; Mon, 29 Mar 1999 12:00:00 +0000", "221 Bye; DATE"),
        ("552 5.2.3 too large (1000000)", "552 5.2.3 too large (ID)"),
        ("250 hello [::ffff:192.0.2.7]", "250 hello ADDRESS"),
        ("250 [2001:db8::7] OK", "250 ADDRESS OK"),
    ],
)
def test_what_is_no_habit_is_masked(line: str, masked: str) -> None:
    account = Account(
        "", helo_name="probe.example", dialogue=DialogueSeen(greeting=heard("220 mx1.other.example hello"))
    )

    assert Mask(account).text(line) == masked


def test_without_a_session_there_are_no_habits() -> None:
    assert habits(Account("", dialogue=DialogueSeen(left_out="without a 220 there is no session"))) == {}


# -- receivers on the wire


def recorded(name: str) -> Callable[[Talk], None]:
    """A receiver that gives the replies which the atlas has of this one, under names of its own."""
    known = next(each for each in RECEIVERS if each.name == name).habits
    replies = {
        "NOOP": known["noop"],
        "RSET": known["rset"],
        "MAIL": known["mail"],
        "RCPT": known["recipient first"],
        "QUIT": known["quit"].rpartition("; ")[0],
        "XSHI": known["unknown command"],
    }

    def dialogue(talk: Talk) -> None:
        talk.say(b"220 mx7.recorded.example hello\r\n")
        verb = ""
        while verb != "QUIT":
            line = talk.line().decode()
            verb = line[:4]
            reply = replies.get(verb, "250 OK")
            if verb == "EHLO":
                reply = "\r\n250-".join([known["hello"].replace("250 ", "250-", 1), *known["keywords"].split()])
                head, _, last = reply.rpartition("\r\n250-")
                reply = f"{head}\r\n250 {last}"
            elif "SIZE=" in line:
                reply = known["larger mail"]
            reply = reply.replace("HOST", "mx7.recorded.example").replace("ADDRESS", "[192.0.2.1]")
            talk.say(reply.encode() + b"\r\n")

    return dialogue


@pytest.mark.parametrize("name", ["Exim", "Sendmail", "Net::Server::Mail"])
async def test_a_recorded_receiver_is_recognised(name: str) -> None:
    with speaking(recorded(name)) as receiver:
        found, text = await recognised(receiver.port)

    assert found[0].name == name, text
    assert f"{name} " in text
    assert "habits agree" in text


def untold(talk: Talk) -> None:
    talk.say(b"220 mail.example ESMTP Postfix\r\n")
    line = b""
    while not line.startswith(b"QUIT"):
        line = talk.line()
        talk.say(b"250 as you like\r\n")


async def test_a_greeting_alone_makes_nobody_known() -> None:
    with speaking(untold) as receiver:
        found, text = await recognised(receiver.port)

    assert found == []
    assert "no receiver of the atlas" in text


@pytest.mark.parametrize(
    ("running", "name"),
    [
        pytest.param(lambda: postfix(size_limit_octets=50_000), "Postfix smtpd", id="Postfix"),
        pytest.param(lambda: exim(daemon=True), "Exim", id="Exim"),
        pytest.param(opensmtpd, "OpenSMTPD", id="OpenSMTPD"),
        pytest.param(smtp_sink, "Postfix smtp-sink", id="smtp-sink"),
    ],
)
async def test_real_receivers_are_recognised(running: Callable[[], AbstractContextManager[object]], name: str) -> None:
    with running() as receiver:
        port = receiver if isinstance(receiver, int) else receiver.port  # type: ignore[attr-defined]
        found, text = await recognised(port, listen_seconds=1.0)

    assert found, text
    assert found[0].name == name, text


def test_several_that_fit_are_said_to() -> None:
    account = Account("", looks_like=likenesses(KNOWN[0].habits, (*KNOWN, attrs.evolve(KNOWN[0], name="twin"))))
    lines = [text for _, text in probe_report.of_likeness(account)]

    assert lines == ["one 1 or twin 1; what was tried can't tell them apart: 6 of 6 habits agree with the first"]


def test_several_that_are_built_on_one_are_said_to() -> None:
    twin = attrs.evolve(KNOWN[0], name="twin", base="one")
    account = Account("", looks_like=likenesses(KNOWN[0].habits, (*KNOWN, twin)))
    lines = [text for _, text in probe_report.of_likeness(account)]

    assert lines == ["what is built on one, as one 1 or twin 1: 6 of 6 habits agree with the first"]


def test_the_likeness_is_in_the_json() -> None:
    account = Account("", looks_like=likenesses(KNOWN[0].habits, KNOWN))

    (like,) = json.loads(json.dumps(account.as_json()))["looks_like"]
    assert (like["name"], like["agreeing"], like["tried"], like["differing"]) == ("one", 6, 6, [])


# -- how it is made


def test_the_command_lists_what_it_knows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["atlas", "--list"])

    assert atlas_command.main() == 0
    assert capsys.readouterr().out.splitlines() == [*receivers(), *senders()]


def test_a_program_that_is_not_in_it_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["atlas", "no such program"])

    with pytest.raises(SystemExit):
        atlas_command.main()
    assert "no program of the atlas: no such program; --list prints their names" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["receivers", "senders"])
def test_every_entry_has_a_program_that_can_be_asked_again(kind: str) -> None:
    known: set[str] = {"receivers": set(receivers()), "senders": set(senders())}[kind]

    assert {each.name for each in getattr(atlas(), kind)} <= known


def test_a_sender_is_heard() -> None:
    """smtplib waits for each reply, and says EHLO, QUIT and how large its mail is."""
    with Ear(Manner()) as ear:
        outcome = python_smtplib(ear.port, SMALL)
    (notes,) = ear.notes

    assert outcome.believed is Believed.DELIVERED
    assert (notes.verbs, notes.waited_for_221, notes.closed) == (
        ["EHLO", "MAIL", "RCPT", "DATA", "MAIL-DATA", "QUIT"],
        True,
        "FIN",
    )
    assert all(len(group) == 1 for group in notes.groups)
    assert (notes.early_talk, notes.bare_lf) == (False, False)


def test_a_sender_that_does_not_wait_is_heard() -> None:
    """What it says without a reply is one group, also behind its mail."""
    with Ear(Manner()) as ear, socket.create_connection((HOST, ear.port)) as sock:
        sock.sendall(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")
        sock.sendall(b"one line\nand another\r\n.\r\nQUIT\r\n")
        with sock.makefile("rb") as lines:
            while not lines.readline().startswith(b"221"):
                pass
    (notes,) = ear.notes

    assert notes.groups[0] == ["EHLO x", "MAIL FROM:<>", "RCPT TO:<a@b.example>", "DATA"]
    assert notes.groups[-1] == ["MAIL-DATA", "QUIT"]
    assert (notes.early_talk, notes.bare_lf) == (True, True)


def test_what_cannot_be_installed_keeps_its_old_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_here(*_: object) -> None:
        raise NotHere("the registry has it no more")

    data, page_file = tmp_path / "atlas.json", tmp_path / "atlas.md"
    data.write_text(DATA.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(atlas_command, "DATA", data)
    monkeypatch.setattr(atlas_command, "PAGE", page_file)
    monkeypatch.setattr(World, "install", not_here)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["atlas", "--folder", str(tmp_path), "aiosmtpd"])

    (day,) = [each.seen for each in RECEIVERS if each.name == "aiosmtpd"]

    assert atlas_command.main() == 1
    assert capsys.readouterr().err == (
        f"aiosmtpd: not asked (the registry has it no more); what was seen on {day} stays\n"
    )
    assert json.loads(data.read_text(encoding="utf-8")) == json.loads(DATA.read_text(encoding="utf-8"))
    assert page_file.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
