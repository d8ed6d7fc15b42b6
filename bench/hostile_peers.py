"""The hostile peers: senders and receivers, many in one process that costs little, at the lowest priority once it runs.

`python -m bench.hostile_peers receive KIND` prints a ready line with its port. `... send KIND PORT COUNT` prints one,
with the same port, once the first of its senders has begun with what is hostile; each sender whose connection ends
makes another. At SIGTERM it prints how often it has begun. Both end after MOST_SECONDS by themselves.

Nothing here is read with care: a hostile peer that meets an end connects again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import signal
import socket
import ssl
import struct
import sys
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from bench.mail_data import END_OF_DATA, base64_block
from bench.peers import HOST, READY, have_the_cpu_last

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

SOURCE: Final = "127.6.6.6"
"""Where hostile senders connect from."""
MOST_SECONDS: Final = 1200.0
_AGAIN_SECONDS: Final = 0.01
_DRIP_SECONDS: Final = 0.5
_STAY_SECONDS: Final = 0.2
"""How long a sender waits that has sent what should not be answered."""
_READ_OCTETS: Final = 256 * 1024
_BACKLOG: Final = 1000
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_RESET: Final = struct.pack("ii", 1, 0)
_MAIL: Final = b"MAIL FROM:<hostile@bench.example>\r\n"
_RCPT: Final = b"RCPT TO:<victim@bench.example>\r\n"
_OK: Final = b"250 2.0.0 ok\r\n"
_LARGE_BLOCKS: Final = 64
_RECIPIENTS: Final = 10_000
_NOOPS: Final = 100_000


class Ended(Exception):
    """The other side has ended the connection."""


@attrs.define(eq=False)
class Wire:
    """A connection of a hostile peer; every method raises Ended, or OSError."""

    sock: trio.socket.SocketType
    number: int
    """Which of its process's peers it is."""
    acts: Callable[[], None]
    """Called when what is hostile begins."""
    _unread: bytes = b""

    async def say(self, octets: bytes) -> None:
        view = memoryview(octets)
        while view:
            view = view[await self.sock.send(view) :]

    async def some(self) -> bytes:
        """What comes next, with what was not used."""
        octets = await self.sock.recv(_READ_OCTETS)
        if not octets:
            raise Ended
        octets, self._unread = self._unread + octets, b""
        return octets

    async def reply(self) -> bytes:
        """The last line of the next reply."""
        while True:
            *lines, self._unread = (await self.some()).split(b"\r\n")
            for at, line in enumerate(lines):
                if line[3:4] != b"-":
                    self._unread = b"\r\n".join([*lines[at + 1 :], self._unread])
                    return line

    async def command(self, line: bytes) -> bytes:
        await self.say(line)
        return await self.reply()

    async def open(self) -> None:
        """The greeting and EHLO."""
        await self.reply()
        await self.command(b"EHLO hostile.example\r\n")

    async def read_on(self) -> None:
        """Read until the other side ends it."""
        while True:
            await self.some()

    async def flood(self, block: bytes, times: int | None = None) -> None:
        """Say a block again and again, and read meanwhile."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read_on)
            for _ in itertools.count() if times is None else range(times):
                await self.say(block)


Play: TypeAlias = "Callable[[Wire], Awaitable[None]]"


# -- senders


async def _is_silent(wire: Wire) -> None:
    wire.acts()
    await wire.read_on()


async def _drips(wire: Wire) -> None:
    """An octet now and then: of a command, or of mail data."""
    await wire.open()
    if wire.number % 2:
        for line in (_MAIL, _RCPT, b"DATA\r\n"):
            await wire.command(line)
    wire.acts()
    while True:
        await wire.say(b"x")
        await trio.sleep(_DRIP_SECONDS)


async def _reads_nothing(wire: Wire) -> None:
    await wire.open()
    wire.acts()
    while True:
        await wire.say(b"RSET\r\n" * 10_000)


async def _endless_line(wire: Wire) -> None:
    await wire.open()
    wire.acts()
    await wire.flood(b"x" * 65_536)


async def _asks(wire: Wire) -> None:
    """Commands whose replies are what is hostile."""
    await wire.reply()
    wire.acts()
    await wire.say(b"EHLO hostile.example\r\n")
    await wire.reply()
    await wire.flood(b"NOOP\r\n")


async def _floods_commands(wire: Wire) -> None:
    await wire.open()
    wire.acts()
    await wire.flood(b"NOOP\r\nRSET\r\nVRFY x\r\n%s%sRSET\r\n" % (_MAIL, _RCPT) * 500)


async def _noops(wire: Wire) -> None:
    await wire.open()
    wire.acts()
    await wire.flood(b"NOOP\r\n" * (_NOOPS // 10), 10)


async def _recipients(wire: Wire) -> None:
    await wire.open()
    await wire.command(_MAIL)
    wire.acts()
    names = b"".join(b"RCPT TO:<r%05d@bench.example>\r\n" % number for number in range(_RECIPIENTS))
    await wire.flood(names + b"DATA\r\n", 1)


async def _tls_noise(wire: Wire) -> None:
    """What looks like the beginning of a handshake, or like nothing."""
    wire.acts()
    dice = random.Random(wire.number)
    begin = dice.choice([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01\x40\x00", b"EHLO x\r\n", b""])
    await wire.say(begin + dice.randbytes(600))
    with trio.move_on_after(_STAY_SECONDS):
        await wire.read_on()


@functools.cache
def _hello() -> bytes:
    """A ClientHello."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(coming, going, server_hostname="bench.example").do_handshake()
    return going.read()


async def _tls_stalls(wire: Wire) -> None:
    """Half of a ClientHello."""
    wire.acts()
    await wire.say(_hello()[: len(_hello()) // 2])
    await wire.read_on()


_HEADERS: Final = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\nEHLO x\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 99999 25\r\n",
    b"PROXY TCP4 " + b"1" * 2000,
    b"PROXY UNKNOWN" + b" x" * 40 + b"\r\n",
    b"PROXY ",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + b"\0" * 65_535,
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c",
    b"\r\n\r\n\0\r\nQUIT\n\xff\xff\x00\x00",
    b"EHLO hostile.example\r\n",
]


async def _forges(wire: Wire) -> None:
    wire.acts()
    await wire.say(_HEADERS[wire.number % len(_HEADERS)])
    with trio.move_on_after(_STAY_SECONDS):
        await wire.read_on()


async def _large_mails(wire: Wire) -> None:
    await wire.open()
    wire.acts()
    block = base64_block()
    while True:
        for line in (_MAIL, _RCPT, b"DATA\r\n"):
            await wire.command(line)
        for _ in range(_LARGE_BLOCKS):
            await wire.say(block)
        await wire.command(END_OF_DATA[2:])


async def _comes_and_leaves(wire: Wire) -> None:
    wire.acts()
    if wire.number % 2:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


SENDERS: Final[dict[str, Play]] = {
    "silent": _is_silent,
    "drips": _drips,
    "reads-nothing": _reads_nothing,
    "endless-line": _endless_line,
    "asks": _asks,
    "floods": _floods_commands,
    "noops": _noops,
    "recipients": _recipients,
    "tls-noise": _tls_noise,
    "tls-stalls": _tls_stalls,
    "forges": _forges,
    "large": _large_mails,
    "comes-and-leaves": _comes_and_leaves,
}


# -- receivers


async def _takes_all(wire: Wire) -> None:
    """A good receiver that replies to many commands at once; mail data end where a read does."""
    await wire.say(b"220 hostile.example ESMTP\r\n")
    ahead = b""
    while True:
        *lines, ahead = (ahead + await wire.some()).split(b"\r\n")
        in_data = bool(lines) and lines[-1] == b"DATA"
        replies = [b"250-hostile.example\r\n250 PIPELINING\r\n" if line[:4] == b"EHLO" else _OK for line in lines]
        if in_data:
            replies[-1] = b"354 go on\r\n"
        await wire.say(b"".join(replies))
        tail = b"\r\n"
        while in_data:
            tail = (tail + (await wire.some())[-5:])[-5:]
            if tail == END_OF_DATA:
                in_data = False
                await wire.say(_OK)


async def _never_ends_a_reply(wire: Wire) -> None:
    await wire.say(b"220 hostile.example ESMTP\r\n")
    await wire.some()
    wire.acts()
    await wire.flood(b"250-more and more\r\n" * 3000)


async def _floods_replies(wire: Wire) -> None:
    await wire.say(b"220 hostile.example ESMTP\r\n")
    await wire.some()
    await wire.say(_OK)
    wire.acts()
    await wire.flood(_OK * 4000)


RECEIVERS: Final[dict[str, Play]] = {
    "takes-all": _takes_all,
    "never-ends-a-reply": _never_ends_a_reply,
    "floods-replies": _floods_replies,
}


# -- as processes


class _GivesWay(trio.abc.Instrument):
    """Gives up the CPU after each step of a task, once all senders have begun.

    SCHED_IDLE alone does not: where a process of shimproxy waits for a CPU because another one has interrupted it,
    Linux 6.18 lets a hostile peer have the CPU first, and until its next tick, which is 4 ms later (seen in the
    kernel's own trace).
    """

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        os.sched_yield()


def _ready(port: int) -> None:
    """Say that it has begun; from now on, take the CPU that others leave."""
    print(f"{READY}{port}", flush=True)
    have_the_cpu_last()


async def _play(play: Play, wire: Wire) -> None:
    with wire.sock:
        try:
            await play(wire)
        except* (Ended, OSError):
            pass


async def _send(play: Play, port: int, count: int) -> None:
    begun = 0

    def acts() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            _ready(port)
        if begun == count:
            trio.lowlevel.add_instrument(_GivesWay())

    async def sender(number: int) -> None:
        for again in itertools.count():
            sock = trio.socket.socket()
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            try:
                await sock.bind((SOURCE, 0))
                await sock.connect((HOST, port))
            except OSError:
                sock.close()
            else:
                await _play(play, Wire(sock, number + again, acts))
            await trio.sleep(_AGAIN_SECONDS)

    try:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(sender, number)
    finally:
        print(begun, flush=True)


async def _receive(play: Play) -> None:
    with socket.create_server((HOST, 0), backlog=_BACKLOG) as made:
        made.setblocking(False)
        listener = trio.socket.from_stdlib_socket(made)
        _ready(listener.getsockname()[1])
        async with trio.open_nursery() as nursery:
            for number in itertools.count():
                sock, _ = await listener.accept()
                nursery.start_soon(_play, play, Wire(sock, number, lambda: None))


async def _main(arguments: Iterable[str]) -> None:
    async def play() -> None:
        match [*arguments]:
            case ["receive", kind]:
                await _receive(RECEIVERS[kind])
            case ["send", kind, port, count]:
                await _send(SENDERS[kind], int(port), int(count))

    with trio.open_signal_receiver(signal.SIGTERM) as signals, trio.move_on_after(MOST_SECONDS) as limit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play)
            async for _ in signals:
                limit.cancel()


if __name__ == "__main__":
    trio.run(_main, sys.argv[1:])
