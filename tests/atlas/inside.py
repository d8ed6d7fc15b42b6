"""One program in its overlay: installed, or asked for its habits. Prints JSON."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import trio

from shimproxy.faulty.receiving import HOST
from shimproxy.net.address import Address
from shimproxy.probe.habits import Mask, habits
from shimproxy.probe.probe import Probe, ProbePlan
from tests.atlas.receivers import LOG, Receiver, receivers
from tests.atlas.sender_habits import sender_habits, sender_violations
from tests.atlas.senders import Sender, senders
from tests.atlas.whole_mails import whole_mails

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEN: Final = ("settings", "base", "habits", "mail", "violations")
"""What of an entry is seen here."""
PROBE_NAME: Final = "probe.example"


@contextlib.contextmanager
def _no_names() -> Iterator[None]:
    """A name server that knows none, so that nobody waits for one."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 53))

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                query, peer = sock.recvfrom(1500)
                # Its number and its question again, with QR, RD, RA and NXDOMAIN (RFC 1035 4.1.1).
                sock.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:], peer)

    threading.Thread(target=answer, daemon=True).start()
    with sock:
        yield


def measured(receiver: Receiver) -> dict[str, Any]:
    """The habits of a receiver."""
    with receiver.start() as port:
        plan = ProbePlan(
            receiver=Address(HOST, port),
            recipient=f"<{receiver.recipient}>",
            reverse_path="<sender@sender.example>",
            patience_seconds=15,
            helo_name=PROBE_NAME,
            lmtp=receiver.lmtp,
        )
        probe = Probe(plan)
        trio.run(probe.without_mail)
        account = probe.account
        found, dialogue = habits(account), account.dialogue
        if dialogue.left_out:
            raise RuntimeError(f"it has no session: {dialogue.left_out}")
        mail = whole_mails(
            port, dialogue.hello, receiver.recipient, dialogue.size_octets, set(dialogue.keywords), Mask(account)
        )
        if not account.mail_data.left_out:
            trio.run(probe.mail_data)
    return {
        "settings": receiver.settings,
        "base": receiver.base,
        "habits": found,
        "mail": mail,
        "violations": sorted(str(each) for each in account.violations),
        "account": account.as_json(),
    }


def heard(sender: Sender) -> dict[str, Any]:
    """The habits of a sender."""
    with sender.start() as send:
        found = sender_habits(send, queues=sender.queues)
    return {"settings": "", "base": "", "habits": found, "mail": {}, "violations": sender_violations(found)}


def main() -> None:
    """`--install NAME` or `--measure NAME`."""
    action, name = sys.argv[1:]
    peer: Receiver | Sender = receivers()[name] if name in receivers() else senders()[name]
    if action == "--install":
        peer.package.install()
        about = {"version": peer.package.version(), "released": peer.package.released()}
    else:
        try:
            with _no_names():
                about = measured(peer) if isinstance(peer, Receiver) else heard(peer)
        except BaseException:
            with contextlib.suppress(OSError):
                print(LOG.read_text(errors="replace")[-2000:], file=sys.stderr)
            raise
    print(json.dumps(about))


if __name__ == "__main__":
    main()
