"""Whether a session's record says what happened; the oracle's, as it was told it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.explore.oracle import Oracle


def check(oracle: Oracle) -> list[str]:
    """What of the record is wrong."""
    world = oracle.world
    records = world.account.records
    if len(records) != 1:
        return [f"guarantee 8: {len(records)} records of one session"]
    return [f"record: {what}" for what in _wrong(oracle)]


def _wrong(oracle: Oracle) -> Iterator[str]:
    world = oracle.world
    record = world.account.records[0]
    sender, receivers = oracle.sender, oracle.receivers
    written = world.octets_written
    figures = {
        "octets_from_sender": (record.octets_from_sender, len(sender.read.octets)),
        "octets_to_sender": (record.octets_to_sender, written["S"]),
        "octets_from_receiver": (record.octets_from_receiver, sum(len(leg.read.octets) for leg in receivers)),
        "octets_to_receiver": (record.octets_to_receiver, sum(written[peer.sock.who] for peer in world.receivers)),
    }
    for name, (said, counted) in figures.items():
        if said != counted:
            yield f"{name}={said}, counted {counted}"
    told = Counter(str(repair.violation) for repair in world.account.repairs)
    counted_repairs = Counter({str(violation): count for violation, count in record.repairs.items() if count})
    if told != counted_repairs:
        yield f"repairs {dict(counted_repairs)}, told {dict(told)}"
    if record.minor_repairs != sum(repair.minor for repair in world.account.repairs):
        yield f"minor_repairs={record.minor_repairs}"
    if record.ended_by not in ("sender", "receiver", "shim"):
        yield f"ended_by={record.ended_by!r}"
    if record.seconds != world.loop.now and record.seconds > world.loop.now:
        yield f"seconds={record.seconds}"
    replies = oracle.replies.found
    classes = [0] * 6
    for reply in replies:
        classes[reply.code // 100] += 1
    whole = not oracle.is_hindered and oracle.requests.mode != "TLS"
    more = any(given > said for given, said in zip(classes, record.replies, strict=True))
    if (whole and record.replies != classes) or (more and oracle.requests.mode != "TLS"):
        yield f"replies={record.replies}, the sender was given {classes}"
    mails = [
        (request, answers) for request, answers in oracle.pairs if request.kind in ("MAIL", "CHUNK") and request.last
    ]
    answered = [(request, answers) for request, answers in mails if len(answers) == request.due]
    accepted = sum(any(each.code // 100 == 2 for each in answers) for _, answers in answered)
    if whole and not {"sender-stalled", "withheld-command", "data-without-354"} & set(world.repair_names):
        if record.transactions != len(answered):
            yield f"transactions={record.transactions}, counted {len(answered)}"
        if record.accepted != accepted:
            yield f"accepted={record.accepted}, counted {accepted}"
    elif record.accepted < accepted:
        yield f"accepted={record.accepted}, counted {accepted}"
