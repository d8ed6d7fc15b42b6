"""Records as other programs read them: JSON, Mermaid, and packets, which tshark reads here."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest

from shimproxy import Entry, Kind, SessionRecord, Trace, Violation
from shimproxy.records.mermaid import mermaid
from shimproxy.records.pcapng import pcapng
from shimproxy.records.record_json import record_as_json
from shimproxy.records.session_ladder import ladder_of
from shimproxy.records.text import read, record_text_of, shown
from shimproxy.session.trace import EARLY, OWN, RECEIVER, SENDER, SHIM
from shimproxy.session.tracer import TO_THE_END
from tests.memory import Stage, staged, up_to_mail_data
from tests.peers.processes import need, run
from tests.records.test_record_files import everything, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.once


def early() -> SessionRecord:
    """The record of a session whose receiver refuses early, as a file has it."""

    async def script(stage: Stage) -> None:
        assert stage.tracer
        stage.tracer.keeps_mail_data = False
        await up_to_mail_data(stage)
        await stage.feed(stage.sender, b"x" * 534 + b"\r\n")
        await stage.feed(stage.receiver, b"552-5.3.4 too / big\r\n552 5.3.4 really\r\n")
        stage.receiver.feed_fin()
        await stage.settle()
        await stage.feed(stage.sender, b"x\r\n.\r\nQUIT\r\n")
        stage.sender.feed_fin()
        await stage.settle()

    return read(record_text_of(staged(script).record))


def of_entries(*entries: Entry) -> SessionRecord:
    session = record()
    session.trace = Trace([*entries])
    return session


# -- JSON


def test_json_has_what_the_record_has() -> None:
    session = early()
    found = json.loads(json.dumps(record_as_json(session)))
    assert found["repairs"] == {"early-reply": 1}
    assert found["octets_from_sender"] == session.octets_from_sender
    assert found["left_out"] == {"frames": 0, "octets": 0, "after": 0}
    frames = found["frames"]
    assert sum(frame["octets"] for frame in frames if frame["from"] == "sender") == session.octets_from_sender
    [repair] = [frame for frame in frames if frame["kind"] == "repair"]
    assert (repair["violation"], repair["phase"], repair["remark"]) == ("early-reply", "draining", "")
    reply = next(frame for frame in frames if frame["from"] == "receiver" and frame["text"].startswith("552"))
    assert reply["text"] == "552-5.3.4 too / big / 552 5.3.4 really"
    assert (reply["to"], reply["remark"], reply["connection"]) == ("shimproxy", EARLY, 1)


def test_nothing_of_a_peer_forges_json() -> None:
    text = json.dumps(record_as_json(everything()))
    assert text.isascii()
    assert text.isprintable()
    found = json.loads(text)
    trace = everything().trace
    assert trace
    for frame, entry in zip(found["frames"], trace.entries, strict=True):
        assert frame["text"] == shown(entry.text)
        assert all(value.isascii() and value.isprintable() for value in frame.values() if isinstance(value, str))
    assert found["left_out"] == {"frames": 1234, "octets": 56789, "after": 5}


# -- Mermaid

_STATEMENT = re.compile(
    r"    (?:%% |participant [SPR] as |[SPR]->>[SPR]: |Note over P: )(?:[A-Za-z0-9 .,:/=@_()\[\]+*?!'-]|#[0-9]+;)*"
).fullmatch


def test_mermaid_has_every_frame_in_order() -> None:
    head, title, *lines = mermaid(early())
    assert head == "sequenceDiagram"
    assert title.startswith("    %% Session example of ")
    assert lines[:3] == [
        "    participant S as Sender",
        "    participant P as shimproxy",
        "    participant R as Receiver",
    ]
    said = [re.sub(r"[0-9.]+ ", "", line, count=1).strip() for line in lines[3:]]
    assert said[:2] == ["P->>R: connects", "R->>P: 220 hello (11), answers the connection"]
    assert "S->>P: MAIL FROM:#60;a@b#62; (17)" in said
    assert any(line.startswith("Note over P: repair: early-reply, code=552") for line in said)


@pytest.mark.parametrize("session", [everything(), early()], ids=["hostile", "plain"])
def test_nothing_of_a_peer_is_a_statement_of_mermaid(session: SessionRecord) -> None:
    """Nor a comment, an entity of its own, or an element of HTML."""
    _, *lines = mermaid(session)
    assert [line for line in lines if not _STATEMENT(line)] == []
    assert len(lines) == 4 + len(ladder_of(session).frames)


def test_a_diagram_of_the_longest_record_can_be_drawn() -> None:
    """Mermaid refuses 50,000 characters."""
    long = Entry(1.0, SENDER, SHIM, Kind.COMMAND, 2**20, b"<" * 2**20)
    assert len("\n".join(mermaid(of_entries(*[long] * 400)))) < 50_000


# -- packets


@attrs.frozen
class Packet:
    """A packet of TCP in a file."""

    source: tuple[bytes, int]
    sequence: int
    flags: int
    known: bytes
    size_octets: int
    comments: list[bytes]


def blocks(octets: bytes) -> Iterator[tuple[int, bytes]]:
    while octets:
        kind, size_octets = struct.unpack_from("<II", octets)
        assert size_octets % 4 == 0
        assert octets[size_octets - 4 : size_octets] == octets[4:8]
        yield kind, octets[8 : size_octets - 4]
        octets = octets[size_octets:]


def packets(*sessions: SessionRecord) -> list[Packet]:
    found = []
    for kind, body in blocks(b"".join(pcapng(sessions))):
        if kind == 6:
            here_octets, size_octets = struct.unpack_from("<II", body, 12)
            octets, options = body[20 : 20 + here_octets], body[20 + here_octets + -here_octets % 4 :]
            comments = []
            while options and (code := int.from_bytes(options[:2], "little")):
                length = int.from_bytes(options[2:4], "little")
                assert code == 1
                comments.append(options[4 : 4 + length])
                options = options[4 + length + -length % 4 :]
            host, tcp = (octets[8:24], octets[40:]) if octets[0] >> 4 == 6 else (octets[12:16], octets[20:])
            port, _, sequence, _, length, flags = struct.unpack_from(">HHIIBB", tcp)
            known = tcp[(length >> 4) * 4 :]
            head_octets = here_octets - len(known)
            found.append(Packet((host, port), sequence, flags, known, size_octets - head_octets, comments))
    return found


def test_packets_have_as_many_octets_as_the_legs_had_each_at_its_place() -> None:
    session = early()
    places: Counter[tuple[bytes, int]] = Counter()
    sent: Counter[tuple[bytes, int]] = Counter()
    for packet in packets(session):
        assert packet.sequence == places[packet.source]
        assert len(packet.known) <= packet.size_octets
        places[packet.source] += packet.size_octets + bool(packet.flags & 3)
        sent[packet.source] += packet.size_octets
    assert sorted(sent.values()) == sorted(
        (
            session.octets_from_sender,
            session.octets_to_sender,
            session.octets_from_receiver,
            session.octets_to_receiver,
        )
    )


def test_what_was_said_is_there_to_the_octet_with_the_lines_of_replies() -> None:
    known = [packet.known for packet in packets(early()) if packet.known]
    assert known.count(b"MAIL FROM:<a@b>\r\n") == 2
    assert known.count(b"552-5.3.4 too / big\r\n552 5.3.4 really\r\n") == 2
    assert known[-2:] == [b"QUIT\r\n", b"221 closing connection\r\n"]


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        (Entry(0, SENDER, SHIM, Kind.COMMAND, 6, b"NOOP"), b"NOOP\r\n"),
        (Entry(0, SENDER, SHIM, Kind.COMMAND, 5, b"NOOP"), b"NOOP\n"),
        (Entry(0, SENDER, SHIM, Kind.COMMAND, 24, b"AUTH ..."), b"AUTH"),
        (Entry(0, SENDER, SHIM, Kind.COMMAND, 10, b"NOOP ..."), b"NOOP ...\r\n"),
        (Entry(0, SHIM, SENDER, Kind.REPLY, 14, b"334 ..."), b"334"),
        (Entry(0, SHIM, SENDER, Kind.REPLY, 5, b"250 OK", "written in part"), b"250 O"),
        (Entry(0, SHIM, SENDER, Kind.REPLY, 7, b"550-a / 550 an"), b"550-a\r\n"),
        (Entry(0, SHIM, SENDER, Kind.REPLY, 6, b"550 an"), b"550 an"),
        (Entry(0, SHIM, SENDER, Kind.REPLY, 14, b"550-no / 550 an"), b"550-no\n550 an\n"),
        (Entry(0, SHIM, SENDER, Kind.REPLY, 15, b"250 a / 250 b"), b"250 a / 250 b\r\n"),
        (Entry(0, SENDER, SHIM, Kind.COMMAND, 4, b""), b"\r\n"),
        (Entry(0, SENDER, SHIM, Kind.DROPPED, 9), b""),
        (Entry(0, SENDER, SHIM, Kind.MAIL_DATA, 9, b"", TO_THE_END, blocks=1), b"\r\n.\r\n"),
        (Entry(0, SENDER, SHIM, Kind.MAIL_DATA, 3, b"", TO_THE_END, blocks=1), b".\r\n"),
        (Entry(0, SENDER, SHIM, Kind.MAIL_DATA, 9, b"", "", blocks=1), b""),
        (
            Entry(0, SENDER, SHIM, Kind.MAIL_DATA, 9, b"", TO_THE_END, blocks=1, content=b"abcd\r\n.\r\n"),
            b"abcd\r\n.\r\n",
        ),
    ],
    ids=lambda each: str(each.octets if isinstance(each, Entry) else len(each)),
)
def test_a_packet_has_what_is_known_and_is_as_long_as_all(entry: Entry, known: bytes) -> None:
    made = [packet for packet in packets(of_entries(entry)) if packet.size_octets]
    assert b"".join(packet.known for packet in made) == known
    assert sum(packet.size_octets for packet in made) == entry.octets


def test_a_flood_of_octets_is_a_few_packets_with_a_gap() -> None:
    mail = Entry(1.0, SENDER, SHIM, Kind.MAIL_DATA, 10**17, b"", TO_THE_END, None, 10**6, 5.0)
    command = Entry(6.0, SENDER, SHIM, Kind.COMMAND, 10**17, b"x" * 2**20)
    made = packets(of_entries(mail, command))
    assert len(made) < 30
    assert made[-1].known == b""
    assert any(b"octets are left out after this" in comment for packet in made for comment in packet.comments)
    assert made[11].known == b"\r\n.\r\n"
    assert made[11].sequence == (1 + 10**17 - 5) % 2**32


def test_comments_are_printable_and_short() -> None:
    session = everything()
    session.sender = "unix:/" + "\x1b[2J" * 2**18
    said = [comment for packet in packets(session) for comment in packet.comments]
    assert all(comment.isascii() and comment.decode().isprintable() for comment in said)
    assert max(map(len, said)) <= 2000
    assert any(comment.startswith(b"repair: no-close in mail data: ") for comment in said)


def test_more_connections_than_ports_are_packets_too() -> None:
    """As many as a record of the largest size that is read can have."""
    connections = [Entry(0.1, SHIM, RECEIVER, Kind.CONNECTION, 0, b"192.0.2.1:25") for _ in range(20_000)]
    for number, each in enumerate(connections, 2):
        each.connection = number
    ends = b"STARTTLS\r\n", b"220 go\r\n"
    through = [Entry(0.1, SENDER, SHIM, Kind.COMMAND, 10, ends[0]), Entry(0.1, SHIM, SENDER, Kind.REPLY, 8, ends[1])]

    for entries in (connections, through * 20_000):
        assert len([*pcapng([of_entries(*entries)])]) >= 3 * 20_000


def through_tls() -> SessionRecord:
    """A session of IPv6, whose sender has TLS with shimproxy, and which has two connections to receivers."""
    said = [
        (SENDER, SHIM, Kind.COMMAND, 8, b"EHLO x"),
        (SHIM, SENDER, Kind.REPLY, 33, b"250-hi / 250 STARTTLS"),
        (SENDER, SHIM, Kind.COMMAND, 10, b"STARTTLS"),
        (SHIM, SENDER, Kind.REPLY, 8, b"220 go"),
        (SENDER, SHIM, Kind.COMMAND, 8, b"EHLO x"),
        (SHIM, SENDER, Kind.REPLY, 19, b"250 AUTH PLAIN"),
        (SENDER, SHIM, Kind.COMMAND, 24, b"AUTH ..."),
        (SHIM, SENDER, Kind.REPLY, 30, b"235 ..."),
        (SENDER, SHIM, Kind.COMMAND, 8, b"NOOP x"),
        (SHIM, SENDER, Kind.REPLY, 8, b"250 OK"),
    ]
    session = of_entries(
        Entry(0.1, SHIM, RECEIVER, Kind.CONNECTION, 0, b"192.0.2.2:25"),
        Entry(0.2, RECEIVER, SHIM, Kind.REPLY, 9, b"421 busy"),
        Entry(0.3, SHIM, RECEIVER, Kind.CONNECTION, 0, b"[2001:db8::7]:2525", connection=2),
        Entry(0.4, RECEIVER, SHIM, Kind.REPLY, 10, b"220 hello", connection=2),
        Entry(0.4, SHIM, SENDER, Kind.REPLY, 11, b"220 hello"),
        *(Entry(0.5 + n / 10, *each) for n, each in enumerate(said)),
        Entry(2.0, SHIM, SENDER, Kind.REPLY, 15, b"421 closing", OWN),
        Entry(2.1, SHIM, SHIM, Kind.REPAIR, 0, b"x=1", "NOOP", Violation.NO_REPLY),
        Entry(2.1, SHIM, SHIM, Kind.SEEN, 0, b"x=2", "NOOP", Violation.LONG_LINE),
        Entry(2.2, SHIM, SENDER, Kind.RST),
    )
    session.sender = "[2001:db8::25]:1024"
    return session


def test_tshark_shows_every_command_and_reply_and_the_repairs_as_comments(tmp_path: Path) -> None:
    """Also what was inside TLS, and what several sessions and connections have said."""
    path = tmp_path / "sessions.pcapng"
    path.write_bytes(b"".join(pcapng([early(), through_tls()])))
    fields = ["tcp.stream", "_ws.col.Info", "frame.comment"]
    wanted = [part for field in fields for part in ("-e", field)]
    ended = run([need("tshark"), "-n", "-r", str(path), "-T", "fields", *wanted])
    assert ended.status == 0, ended.account
    rows = [line.split("\t") for line in ended.said.splitlines()]
    said: dict[str, list[str]] = {}
    for stream, info, _ in rows:
        if re.match(r"[CS]: ", info):
            said.setdefault(stream, []).append(info)
    dialogue = ["S: 220 hello", "C: HELO x", "S: 250 hi", "C: MAIL FROM:<a@b>", "S: 250 OK", "C: RCPT TO:<b@c>"]
    dialogue += ["S: 250 OK", "C: DATA", "S: 354 go"]
    refused = "S: 552-5.3.4 too / big | 5.3.4 really"
    assert said == {
        "0": [*dialogue, "C: .", refused, "C: QUIT", "S: 221 closing connection"],
        "1": [*dialogue, refused],
        "2": ["S: 220 hello", "C: EHLO x", "S: 250-hi | STARTTLS", "C: STARTTLS", "S: 220 go"],
        "3": ["S: 421 busy"],
        "4": ["S: 220 hello"],
        "5": ["C: EHLO x", "S: 250 AUTH PLAIN", "C: AUTH", "S: 235", "C: NOOP x", "S: 250 OK", "S: 421 closing"],
    }
    comments = [comment for _, _, comment in rows if comment]
    assert any("repair: early-reply in draining: code=552 reply=" in comment for comment in comments)
    assert "shimproxy's own,repair: no-reply in NOOP: x=1,seen: long-line in NOOP: x=2" in comments
