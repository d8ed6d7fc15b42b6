"""What the receivers' programs took for commands and mails; a part of the oracle."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Final

from tests.explore.naive import squashed
from tests.explore.seen import said_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.explore.oracle import Oracle
    from tests.explore.peers import ReceiverPeer
    from tests.explore.seen import Leg

_OWN: Final = (b"RSET", b"EHLO", b"HELO", b"LHLO", b"XCLIENT", b"AUTH", b"STARTTLS")
"""What shimproxy says to a receiver for itself, where it was told to do something."""
_OF_TRANSACTIONS: Final = (b"MAIL", b"RCPT", b"DATA", b"BDAT")


def check(oracle: Oracle) -> list[str]:
    """What a receiver's program took for something that its sender did not say."""
    wrong = []
    for peer in oracle.world.receivers:
        wrong += [f"guarantee 5: {what}" for what in _wrong_mails(oracle, peer)]
        wrong += [f"guarantee 6: {what}" for what in _wrong_commands(oracle, peer)]
    return wrong


def _wrong_mails(oracle: Oracle, peer: ReceiverPeer) -> Iterator[str]:
    mails = [squashed(request.octets) for request, _ in oracle.pairs if request.kind in ("MAIL", "CHUNK")]
    took_back = _took_a_refusal_back(oracle, peer)
    for mail, code in peer.mails:
        own = _behind_commands(oracle, mail) if took_back else mail
        known = any(each.endswith(squashed(own)) for each in mails)
        if code // 100 == 2 and not (known or oracle.world.case.script):
            yield f"a receiver took {mail!r} for a whole mail"
    if peer.fin_in == "MAIL" and _asked_for_data(oracle, peer) and not _leaves_politely(oracle, peer):
        yield "FIN reached a receiver's program in the midst of a mail"


def _took_a_refusal_back(oracle: Oracle, peer: ReceiverPeer) -> bool:
    """Whether it has said a refusal by itself, where DATA was to be answered, and its 354 next.

    Nobody can tell that refusal from the answer. The next command is in its mail data then.
    """
    answers = {each.octets for each in peer.own_said if each.answers is not None}
    replies = said_on(oracle.legs[peer.sock.who])
    return any(
        reply.code >= 400 and reply.octets not in answers and following.code == 354
        for reply, following in itertools.pairwise(replies)
    )


def _behind_commands(oracle: Oracle, mail: bytes) -> bytes:
    """What is left of a mail behind the lines at its beginning that are commands of the sender's."""
    said = _lines_of(oracle)
    while mail.find(b"\n") >= 0 and _words(mail.split(b"\n", 1)[0]) in said:
        mail = mail.split(b"\n", 1)[1]
    return mail


def _asked_for_data(oracle: Oracle, peer: ReceiverPeer) -> bool:
    """Whether shimproxy could know, before its FIN, that the receiver is in the midst of a mail."""
    leg = oracle.legs[peer.sock.who]
    last_act = _last_act(oracle, leg)
    asked = [reply for reply in said_on(leg) if reply.code == 354 and leg.sent.time_of(reply.end) < last_act]
    return len(asked) > len(peer.mails)


def _last_act(oracle: Oracle, leg: Leg) -> float:
    """When shimproxy sent FIN, or the QUIT with which that is one act, as it hears nothing in between."""
    if leg.shim_fin < math.inf and leg.written.octets.endswith(b"QUIT\r\n"):
        quit_at = leg.writes[-1][0]
        between = oracle.world.log[quit_at + 1 : int(leg.shim_fin)]
        if not any(event.what in ("SHIM_READ", "TIME") for event in between):
            return quit_at
    return leg.shim_fin


def _leaves_politely(oracle: Oracle, peer: ReceiverPeer) -> bool:
    leg = oracle.legs[peer.sock.who]
    said = said_on(leg)
    refused = any(reply.code // 100 in (4, 5) for reply in said)
    return refused and (min(leg.peer_fin, leg.peer_rst) < leg.shim_fin or any(each.code == 421 for each in said))


def _wrong_commands(oracle: Oracle, peer: ReceiverPeer) -> Iterator[str]:
    world = oracle.world
    lied = any(each.answers is None and each.code == 354 for each in peer.own_said)
    if lied or world.case.policy.tidy:
        return
    said, content = _lines_of(oracle), set() if world.sender_speaks else _content_of(oracle)
    own_responses_left = sum(reply.code == 334 for reply in said_on(oracle.legs[peer.sock.who]))
    for line in peer.lines:
        words = _words(line)
        verb = words.split(b" ", 1)[0].upper()
        own = verb == b"QUIT" or words in (b"BDAT 0", b"*") or (world.case.own_commands and verb in _OWN)
        # A fault within a 334 is a part of the challenge: the receiver alone takes the response to that for a command.
        if not own and world.case.own_commands and own_responses_left and b" " not in words:
            own, own_responses_left = True, own_responses_left - 1
        if not (own or words in said or (verb == b"RSET" and oracle.requests.lmtp)):
            yield f"a receiver took {line!r} for a command"
        if words in content:
            yield f"a receiver took {line!r} of the mail data for a command"
    of_transactions = [verb for verb in (_words(line)[:4].upper() for line in peer.lines) if verb in _OF_TRANSACTIONS]
    if peer is not world.receivers[0] and of_transactions[:1] not in ([], [b"MAIL"]) and not world.sender_speaks:
        yield f"the first that a later receiver is told of a transaction is {of_transactions[0]!r}"


def _lines_of(oracle: Oracle) -> set[bytes]:
    """What the sender has said that is a command, or a response within AUTH."""
    requests = oracle.requests
    lines = {_words(request.octets.split(b"\n", 1)[0]) for request, _ in oracle.pairs if request.kind != "MAIL"}
    return {*lines, _words(bytes(requests.octets[requests.begun :]).split(b"\n", 1)[0])}


def _content_of(oracle: Oracle) -> set[bytes]:
    """The lines of the mail data, of which none is a command."""
    case = oracle.world.case
    if case.answers[0].opaque:
        return set()
    mails = [step.octets for step in case.steps if not isinstance(step, bytes) and step.after == 354]
    responses = {_words(request.octets) for request, _ in oracle.pairs if request.kind == "RESPONSE"}
    return {words for mail in mails for line in mail.split(b"\n") if (words := _words(line))} - responses


def _words(line: bytes) -> bytes:
    return b" ".join(line.split())
