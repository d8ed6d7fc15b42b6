"""Records of sessions as packets, for Wireshark and tshark: a file in pcapng, each leg as TCP, decrypted.

Invariants:

1. What a record does not hold is in no packet: mail data that were not kept, what belongs to AUTH, and the rest of a
   long line are packets that were captured in part. Their lengths and places in the connection are true.
2. Repairs, and what is to be said of a reply, are comments on packets. They are printable ASCII.
3. The number of packets is bounded: of much mail data the middle is left out.

A record has no address of shimproxy's, so that one for documentation stands for it (RFC 5737, RFC 3849). The ports are
25 wherever SMTP is served: readers know it by that. STARTTLS would have readers take what follows for TLS: from there
on the leg is another connection.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy._version import __version__
from shimproxy.records.text import began_at, shown, shown_address
from shimproxy.session.trace import EARLY, LATE, OWN, SENDER, SHIM, UNASKED, Entry, Kind
from shimproxy.session.tracer import IN_PART, TO_THE_END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shimproxy.session.record import SessionRecord

_SHIM4, _SHIM6 = "192.0.2.1", "2001:db8::1"
_PEER4: Final = "192.0.2.25"
"""Whoever has no address, as on a Unix socket."""
_SMTP_PORT: Final = 25
_FIRST_PORT: Final = 49152
_LAST_PORT: Final = 65535
"""Of the ports that shimproxy connects from; after the last one the first has its turn again."""
_MOST_PAYLOAD_OCTETS: Final = 65_000
_MOST_PACKETS: Final = 8
"""Of one entry; a gap in the middle stands for more."""
_MOST_COMMENT: Final = 2000
_REMARKABLE: Final = (EARLY, LATE, OWN, UNASKED, IN_PART)
_END_OF_DATA: Final = b"\r\n.\r\n"
_CUT: Final = b" ..."
"""Ends a text that is not all that was said."""
_FIN, _SYN, _RST, _PSH, _ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_WINDOW: Final = 65_535
_SYN_OPTIONS: Final = bytes((2, 4, 0xFF, 0xD7, 3, 3, 14, 0))
"""The largest segment, and a window of a GiB: nothing here waits for a window."""
_LINKTYPE_RAW: Final = 101
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_END_OF_OPTIONS, _COMMENT, _NAME, _APPLICATION = 0, 1, 2, 4


@attrs.define
class _Segment:
    """One packet, before it is written."""

    moment: float
    """In seconds since 1970."""
    interface: int
    octets: bytes
    """As far as they are known."""
    size_octets: int
    comments: list[str]


def pcapng(records: Iterable[SessionRecord]) -> Iterator[bytes]:
    """The blocks of a file that has these sessions."""
    yield _block(_SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), (_APPLICATION, f"shimproxy {__version__}"))
    for name in ("sender leg", "receiver leg"):
        yield _block(_INTERFACE, struct.pack("<HHI", _LINKTYPE_RAW, 0, 0), (_NAME, name))
    port = _FIRST_PORT
    for record in records:
        packets = _Packets(record, port)
        for segment in packets.segments():
            yield _packet_block(segment)
        port = packets.next_port


def _block(kind: int, body: bytes, *options: tuple[int, str]) -> bytes:
    for code, text in options:
        octets = text[:_MOST_COMMENT].encode("ascii", "backslashreplace")
        body += struct.pack("<HH", code, len(octets)) + octets + bytes(-len(octets) % 4)
    if options:
        body += struct.pack("<HH", _END_OF_OPTIONS, 0)
    size_octets = len(body) + 12
    return struct.pack("<II", kind, size_octets) + body + struct.pack("<I", size_octets)


def _packet_block(segment: _Segment) -> bytes:
    microseconds = max(0, round(segment.moment * 1_000_000))
    octets = segment.octets
    head = struct.pack(
        "<IIIII",
        segment.interface,
        microseconds >> 32 & 0xFFFFFFFF,
        microseconds & 0xFFFFFFFF,
        len(octets),
        segment.size_octets,
    )
    comments = ((_COMMENT, text) for text in segment.comments)
    return _block(_PACKET, head + octets + bytes(-len(octets) % 4), *comments)


@attrs.define
class _Connection:
    """A TCP connection as it is shown."""

    interface: int
    ends: tuple[tuple[str, int], tuple[str, int]]
    """The address and port of whoever has connected, and of the other."""
    sequence: list[int] = attrs.field(factory=lambda: [0, 0])
    """Of the next octet, of each end."""
    in_clear: bool = True
    """Whether no STARTTLS was accepted."""
    asked_for_tls: bool = False

    def segment(self, moment: float, end: int, flags: int, octets: bytes = b"", size_octets: int = 0) -> _Segment:
        """A segment from an end: so many octets, of which these are known."""
        (host, port), (other_host, other_port) = self.ends[end], self.ends[1 - end]
        options = _SYN_OPTIONS if flags & _SYN else b""
        size_octets = max(size_octets, len(octets))
        flags |= 0 if flags == _SYN else _ACK
        acknowledged = self.sequence[1 - end] if flags & _ACK else 0
        tcp = struct.pack(
            ">HHIIBBHHH",
            port,
            other_port,
            self.sequence[end] & 0xFFFFFFFF,
            acknowledged & 0xFFFFFFFF,
            (20 + len(options)) // 4 << 4,
            flags,
            _WINDOW,
            0,
            0,
        )
        tcp += options
        packet = _ip(host, other_host, len(tcp) + size_octets) + tcp
        self.sequence[end] += size_octets + bool(flags & (_SYN | _FIN))
        return _Segment(moment, self.interface, packet + octets, len(packet) + size_octets, [])


def _ip(source: str, target: str, size_octets: int) -> bytes:
    """The header of a packet that carries so many octets of TCP."""
    here, there = ipaddress.ip_address(source), ipaddress.ip_address(target)
    if here.version == 6:
        return struct.pack(">IHBB", 6 << 28, size_octets, 6, 64) + here.packed + there.packed
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size_octets, 0, 0x4000, 64, 6, 0) + here.packed + there.packed
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack(">H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + head[12:]


@attrs.define(eq=False)
class _Packets:
    """Makes the packets of one session."""

    _record: SessionRecord
    next_port: int
    """The next that shimproxy connects from."""
    _began: float = attrs.field(init=False)
    _sender: _Connection = attrs.field(init=False)
    _receivers: dict[int, _Connection] = attrs.field(factory=dict)
    _segments: list[_Segment] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        record = self._record
        self._began = record.ended_at - record.seconds
        host, port = _address(record.sender)
        self._sender = _Connection(0, ((host, port), (_shim_of(host), _SMTP_PORT)))

    def segments(self) -> list[_Segment]:
        """All of them, in order of time."""
        record, trace = self._record, self._record.trace
        title = (
            f"session {record.id} of {began_at(record)}: {shown_address(record.sender)} to "
            f"{shown_address(record.receiver)}; TLS {record.sender_tls}/{record.receiver_tls}; ended by "
            f"{record.ended_by} in {record.ended_in}"
        )
        self._connect(self._sender, self._began, title)
        for index, entry in enumerate(trace.entries if trace else ()):
            if trace and trace.left_out and index == trace.first_entries:
                self._say(f"{trace.left_out} frames of {trace.left_out_octets} octets are left out after this")
            self._add(entry)
        return sorted(self._segments, key=lambda segment: segment.moment)

    def _add(self, entry: Entry) -> None:
        moment = self._began + entry.seconds
        if entry.violation:
            self._say(f"{entry.kind}: {entry.violation} in {entry.remark}: {shown(entry.text)}")
            return
        connection = self._connection(entry)
        if entry.kind is Kind.CONNECTION:
            self._connect(connection, moment, f"connection {entry.connection} to the receiver: {shown(entry.text)}")
            return
        # Whoever has connected is the sender on its leg, and shimproxy on the receiver's.
        end = 0 if entry.who == (SENDER if connection.interface == 0 else SHIM) else 1
        match entry.kind:
            case Kind.FIN:
                self._segments.append(connection.segment(moment, end, _FIN))
            case Kind.RST:
                self._segments.append(connection.segment(moment, end, _RST))
            case Kind.COMMAND | Kind.REPLY:
                connection = self._in_tls(connection, moment)
                self._add_octets(connection, entry, end, _octets_of(entry))
                if entry.remark in _REMARKABLE:
                    self._say(entry.remark)
                self._note_tls(connection, entry)
            case _:
                if entry.kind is not Kind.TLS:
                    connection = self._in_tls(connection, moment)
                self._add_octets(connection, entry, end, entry.content)
        if entry.kind is not Kind.TLS and entry.octets and not entry.text:
            self._say(f"{entry.kind}, {entry.octets} octets")

    def _add_octets(self, connection: _Connection, entry: Entry, end: int, known: bytes) -> None:
        """The packets of an entry, whose octets begin like this, as many as it needs or as there may be."""
        pieces = _pieces(entry)
        span_seconds = max(entry.until_seconds - entry.seconds, 0.0)
        for index, (at, size_octets) in enumerate(pieces):
            before = sum(pieces[index - 1]) if index else 0
            if at > before:
                self._say(f"{at - before} octets are left out after this")
                connection.sequence[end] += at - before
            octets = known[at : at + size_octets]
            if index == len(pieces) - 1 and not octets and _has_end(entry):
                octets = _END_OF_DATA[-size_octets:]
            moment = self._began + entry.seconds + span_seconds * index / max(1, len(pieces) - 1)
            self._segments.append(connection.segment(moment, end, _PSH, octets, size_octets))

    # -- connections

    def _connection(self, entry: Entry) -> _Connection:
        if SENDER in (entry.who, entry.whom):
            return self._sender
        if entry.connection not in self._receivers:
            self._receivers[entry.connection] = self._to_receiver(entry)
        return self._receivers[entry.connection]

    def _to_receiver(self, entry: Entry) -> _Connection:
        address = entry.text.decode("latin-1") if entry.kind is Kind.CONNECTION else self._record.receiver
        host, _ = _address(address)
        return _Connection(1, ((_shim_of(host), self._port()), (host, _SMTP_PORT)))

    def _port(self) -> int:
        port = self.next_port
        self.next_port = port + 1 if port < _LAST_PORT else _FIRST_PORT
        return port

    def _connect(self, connection: _Connection, moment: float, what: str) -> None:
        self._segments.append(connection.segment(moment, 0, _SYN))
        self._say(what)
        self._segments.append(connection.segment(moment, 1, _SYN | _ACK))
        self._segments.append(connection.segment(moment, 0, _ACK))

    def _note_tls(self, connection: _Connection, entry: Entry) -> None:
        """Whether TLS begins on this connection."""
        if entry.kind is Kind.COMMAND:
            connection.asked_for_tls = entry.text.upper().startswith(b"STARTTLS")
        elif connection.asked_for_tls:
            connection.asked_for_tls = False
            connection.in_clear = not entry.text.startswith(b"220")

    def _in_tls(self, connection: _Connection, moment: float) -> _Connection:
        """The connection that has what comes next, which is not in the clear where TLS has begun."""
        if connection.in_clear:
            return connection
        (host, port), other = connection.ends
        within = _Connection(connection.interface, ((host, self._port()), other))
        if connection is self._sender:
            self._sender = within
        else:
            number = next(number for number, each in self._receivers.items() if each is connection)
            self._receivers[number] = within
        self._connect(within, moment, f"what is inside TLS from here on, on the connection of port {port}")
        return within

    def _say(self, comment: str) -> None:
        """Put a comment on the last packet."""
        self._segments[-1].comments.append(comment)


def _has_end(entry: Entry) -> bool:
    """Whether it is known how these mail data end."""
    return entry.kind is Kind.MAIL_DATA and entry.remark == TO_THE_END and entry.octets > 0


def _pieces(entry: Entry) -> list[tuple[int, int]]:
    """Where each packet of an entry begins, and how many octets it has; an end that is known has one of its own."""
    end_octets = min(len(_END_OF_DATA), entry.octets) if _has_end(entry) else 0
    if len(entry.content) >= entry.octets:
        end_octets = 0
    body_octets = entry.octets - end_octets
    count = -(-body_octets // _MOST_PAYLOAD_OCTETS)
    shown_first = min(count, _MOST_PACKETS // 2)
    indices = [*range(shown_first), *range(max(shown_first, count - _MOST_PACKETS // 2), count)]
    starts = [index * _MOST_PAYLOAD_OCTETS for index in indices]
    pieces = [(at, min(_MOST_PAYLOAD_OCTETS, body_octets - at)) for at in starts]
    return [*pieces, *([(body_octets, end_octets)] if end_octets else [])] or [(0, 0)]


def _address(text: str) -> tuple[str, int]:
    """The address and port in HOST:PORT; those for documentation where there are none."""
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return _PEER4, _FIRST_PORT - 1
    return str(address), int(port) if port.isascii() and port.isdigit() and int(port) <= 0xFFFF else _FIRST_PORT - 1


def _shim_of(host: str) -> str:
    """What stands for shimproxy's address beside this one."""
    return _SHIM6 if ":" in host else _SHIM4


def _octets_of(entry: Entry) -> bytes:
    """What is known of the octets of a command or a reply: all of them, or their beginning."""
    text = entry.text.removesuffix(b"\r\n")
    if entry.kind is Kind.REPLY and b"\r\n" not in text and re.match(rb"\d{3}-", text):
        # A record has slashes between lines. In a line they are no such end, unless a code follows.
        text = re.sub(rb" / (?=%s[- ])" % text[:3], b"\r\n", text)
    if text.endswith(_CUT) and len(text) + len(b"\r\n") != entry.octets:
        return text.removesuffix(_CUT)[: entry.octets]
    whole = text + b"\r\n"
    if len(whole) - whole.count(b"\r\n") == entry.octets and entry.remark != IN_PART:
        whole = whole.replace(b"\r\n", b"\n")
    return whole[: entry.octets]
