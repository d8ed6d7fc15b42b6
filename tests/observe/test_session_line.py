"""The line of a session is the same however it is made."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from shimproxy.observe.formats import field_words, time_text
from shimproxy.observe.session_line import session_fields, session_line
from shimproxy.session.record import SessionRecord
from shimproxy.smtp.catalogue import Violation

WORDS = ("", "-", "QUIT", "mail data", 'a"b', "x=", "=", "\\x0a", "unix:/run/a b", "192.0.2.1:25", "é")


def a_record(seed: int) -> SessionRecord:
    """One with values of every kind."""
    generator = random.Random(seed)

    def word() -> str:
        return generator.choice(WORDS)

    def counted() -> Counter[Violation]:
        kinds = generator.sample([*Violation], generator.choice((0, 0, 1, 2)))
        return Counter({kind: generator.randrange(1, 9) for kind in kinds})

    record = SessionRecord(f"1a2b-{seed}", word(), word())
    record.via, record.sender_tls, record.receiver_tls = word(), word(), word()
    record.ended_by, record.ended_in = word(), word()
    record.repairs, record.seen, record.observed = counted(), counted(), generator.random() < 0.3
    record.octets_from_sender, record.octets_to_sender = generator.randrange(10**12), generator.randrange(100)
    record.transactions, record.accepted, record.resumed = (generator.randrange(9) for _ in range(3))
    record.seconds, record.ended_at = generator.random() * 100, 1767225600 + generator.random()
    return record


@pytest.mark.parametrize("batch", range(4))
def test_a_line_is_that_of_the_fields(batch: int) -> None:
    for seed in range(batch * 250, batch * 250 + 250):
        record = a_record(seed)
        words = field_words(session_fields(record))
        assert session_line(record) == f"{time_text(record.ended_at)} INFO session {words}"
