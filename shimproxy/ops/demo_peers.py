"""The two peers of kb-q152940.txt, on real sockets: a sender of 1999 and a receiver that interrupts it.

The receiver takes a few pieces of mail data, says 552 and 421, sends FIN, and reads no more: its window shuts
(frames 3076 to 3083 of the article). The sender writes mail data in pieces of 536 octets and reads nothing before
its final dot. Both write down what they saw and judge nothing; every wait of theirs has a deadline.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

import attrs
import trio

from shimproxy.net.address import Address
from shimproxy.net.errors import DialFailed
from shimproxy.ops.demo_wire import PIECE_OCTETS, Line, Mail, Trace, reason, replies_in
from shimproxy.ops.journal import escaped

PIECES_BEFORE_INTERRUPTION: Final = 3
REPLY_552: Final = "552 Requested mail action aborted: exceeded storage allocation"
REPLY_421: Final = "421 Service not available, closing transmission channel"
# A loopback connection takes megabytes before it blocks; with these it takes a hundred kilobytes or so. A small
# receive buffer crawls with loopback's segments of 64 KiB, hence the segments of the article.
_RECEIVE_BUFFER_OCTETS, _SEND_BUFFER_OCTETS = 32 * 1024, 16 * 1024
_STAY_SECONDS = 600.0
_END_OF_DATA = b"\r\n.\r\n"
_PAUSE_SECONDS = 0.1


# -- the receiver


@attrs.define(eq=False)
class ReceiverAccount:
    """What the receiver saw on one connection."""

    peer: str = "Sender"
    trace: Trace = attrs.field(factory=Trace)
    mail_data: bytes = b""
    """All that came after its 354."""
    ended: str = ""
    """How the peer ended the connection: FIN, RST, or "" if it did not."""

    def saw(self, what: str = "", mail_octets: int = 0) -> None:
        """Write down what came, unless the embedded sender sent it and has written it down itself."""
        if self.peer != "Sender":
            self.trace.add(self.peer, "Receiver", what, mail_octets)


@attrs.define(eq=False)
class Receiver:
    """Accepts connections and acts out the article on each; leaving the context closes the listener."""

    listener: socket.socket
    address: Address
    connection: ReceiverAccount = attrs.field(factory=ReceiverAccount)
    """The account of the next connection; each later one has its own."""
    told_to_end: trio.Event = attrs.field(factory=trio.Event)
    """Until then a connection stays open and unread after the FIN."""
    over: trio.Event = attrs.field(factory=trio.Event)
    """Set when a connection is over."""

    @classmethod
    def open(cls, peer: str, trace: Trace) -> Receiver:
        """A receiver that listens on a free port of 127.0.0.1."""
        listener = socket.socket()
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_OCTETS)
        with contextlib.suppress(OSError):  # not every kernel has it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, PIECE_OCTETS)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return cls(listener, Address(*listener.getsockname()), ReceiverAccount(peer, trace))

    async def serve(self) -> None:
        """Accept until cancelled."""
        with self.listener:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.lowlevel.wait_readable(self.listener)
                    try:
                        sock, _ = self.listener.accept()
                    except OSError:  # that connection's misfortune, or want of file descriptors
                        await trio.sleep(_PAUSE_SECONDS)
                        continue
                    nursery.start_soon(self._serve_one, sock, self.connection)
                    self.connection = ReceiverAccount()

    async def _serve_one(self, sock: socket.socket, account: ReceiverAccount) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock, contextlib.suppress(OSError), trio.move_on_after(_STAY_SECONDS):
            await self._act(Line(sock), account)
        self.over.set()

    async def _act(self, line: Line, account: ReceiverAccount) -> None:
        def say(reply: str) -> None:
            account.trace.add("Receiver", account.peer, reply)
            line.write_now(f"{reply}\r\n".encode())

        say("220 tin.pan.alley.com SMTP service ready")
        while command := await line.read_line():
            text = escaped(command)
            account.saw(text)
            verb, _, argument = text.partition(" ")
            match verb.upper():
                case "HELO" | "EHLO":
                    say(f"250 tin.pan.alley.com says hello to {argument}")
                case "MAIL":
                    say("250 sender OK")
                case "RCPT":
                    say("250 Recipient OK")
                case "NOOP" | "RSET":
                    say("250 OK")
                case "QUIT":
                    say("221 tin.pan.alley.com closing connection")
                    return
                case "DATA":
                    say('354 Enter mail, end with "." on a line by itself')
                    break
                case _:
                    say("502 Command not implemented")
        for _ in range(PIECES_BEFORE_INTERRUPTION):
            await self._take_piece(line, account)
            if account.mail_data.endswith(_END_OF_DATA) or line.ended:
                break
        say(REPLY_552)
        say(REPLY_421)
        line.half_close()
        account.trace.add("Receiver", account.peer, "FIN")
        account.trace.note("Receiver", "reads no more: window shut")
        await self.told_to_end.wait()
        account.trace.note("Receiver", "reads on, to see what came")
        while not line.ended:
            await self._take_piece(line, account)
        account.ended = line.ended
        account.saw(line.ended)

    async def _take_piece(self, line: Line, account: ReceiverAccount) -> None:
        piece = b""
        while len(piece) < PIECE_OCTETS and (more := await line.read(PIECE_OCTETS - len(piece))):
            piece += more
            if (account.mail_data + piece).endswith(_END_OF_DATA):
                break
        if piece:
            account.mail_data += piece
            account.saw(mail_octets=len(piece))


# -- the sender


@attrs.define(eq=False)
class SenderAccount:
    """What the sender saw of its one mail."""

    trace: Trace = attrs.field(factory=Trace)
    mail_octets: int = 0
    """Mail data that its writes completed."""
    blocked_seconds: float = 0.0
    """How long a write of mail data had not completed when it gave up; 0 if none was given up."""
    end_written: bool = False
    """Its final dot is written."""
    unread: str = ""
    """What lay unread in its socket when it gave up, or just before it wrote its final dot."""
    refusal: str = ""
    """The reply that kept it from sending mail data, with the command it answered."""
    replies: list[str] = attrs.field(factory=list)
    """All that it was told after its final dot."""
    ended: str = ""
    """How the peer ended the connection: FIN, RST, or "" if it did not."""
    trouble: str = ""
    """What else kept it from going on."""


@attrs.define(eq=False)
class Sender:
    """Sends one mail as the sender of the article did."""

    mail: Mail
    account: SenderAccount
    patience_seconds: float
    """How long a write of mail data may take."""
    reply_seconds: float
    """How long anything else may take."""
    peer: str = "Receiver"
    helo: str = "cartoonville.com"
    small_buffers: bool = True
    notes_replies: bool = True
    """False if the embedded receiver, which wrote them, writes them down."""

    async def connect(self, where: Address) -> socket.socket:
        """A connection to the peer. Raises DialFailed."""
        try:
            with trio.fail_after(self.reply_seconds):
                stream = await trio.open_tcp_stream(where.host, where.port)
        except (OSError, trio.TooSlowError) as error:
            raise DialFailed(reason(error) or f"none within {self.reply_seconds:g} s") from error
        # From here on a plain socket: what a sender of 1999 had.
        return socket.socket(fileno=stream.socket.detach())

    async def send(self, sock: socket.socket) -> None:
        """Send the mail and close; all that happens is in the account."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.small_buffers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_OCTETS)
        line, account = Line(sock), self.account
        with sock:
            try:
                await self._converse(line)
            except trio.TooSlowError:
                account.trouble = f"its peer let it wait for {self.reply_seconds:g} s"
            except OSError as error:
                account.trouble = f"its write failed: {reason(error)}"
            if account.trouble:
                account.trace.note("Sender", account.trouble)
                if not account.end_written:
                    account.unread = replies_in(line.peek())

    async def _converse(self, line: Line) -> None:
        account = self.account
        greeting = await self._reply(line)
        if self._goes_on("its connection", greeting, "2"):
            for command, wanted in (
                (f"HELO {self.helo}", "2"),
                (f"MAIL FROM:{self.mail.reverse_path}", "2"),
                (f"RCPT TO:{self.mail.recipient}", "2"),
                ("DATA", "3"),
            ):
                await self._say(line, command)
                if not self._goes_on(command, await self._reply(line), wanted):
                    break
            else:
                if not await self._mail_data(line):
                    return
                if reply := await self._reply(line):
                    account.replies.append(reply)
        await self._say(line, "QUIT")
        # Everything up to the end: a second reply would be among it.
        while reply := await self._reply(line):
            account.replies.append(reply)
        account.ended = line.ended
        self._heard(line.ended)
        if line.ended == "FIN":
            line.half_close()
            account.trace.add("Sender", self.peer, "FIN")

    def _goes_on(self, command: str, reply: str, wanted: str) -> bool:
        if not reply.startswith(wanted):
            self.account.refusal = f"{command} was answered with {reply or 'the end of the connection'}"
        return reply.startswith(wanted)

    async def _mail_data(self, line: Line) -> bool:
        """Write the mail data and the final dot, and read nothing; whether that could be done."""
        account = self.account
        for piece in self.mail.pieces():
            with trio.move_on_after(self.patience_seconds) as waiting:
                await line.write(piece)
            if waiting.cancelled_caught:
                account.blocked_seconds = self.patience_seconds
                account.unread = replies_in(line.peek())
                account.trace.note("Sender", f"blocked: its write has not ended for {self.patience_seconds:g} s")
                return False
            account.mail_octets += len(piece)
            account.trace.add("Sender", self.peer, mail_octets=len(piece))
        account.unread = replies_in(line.peek())
        await self._say(line, ".", "(the final dot)")
        account.end_written = True
        return True

    async def _say(self, line: Line, command: str, remark: str = "") -> None:
        with trio.fail_after(self.reply_seconds):
            await line.write(f"{command}\r\n".encode())
        self.account.trace.add("Sender", self.peer, f"{command} {remark}".rstrip())

    async def _reply(self, line: Line) -> str:
        """The next reply, its lines joined; "" at the peer's end."""
        lines: list[str] = []
        with trio.fail_after(self.reply_seconds):
            while octets := await line.read_line():
                lines.append(escaped(octets))
                if octets[3:4] != b"-":
                    break
        reply = " / ".join(lines)
        if reply:
            self._heard(reply)
        return reply

    def _heard(self, what: str) -> None:
        if self.notes_replies:
            self.account.trace.add(self.peer, "Sender", what)
