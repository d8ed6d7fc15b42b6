"""How long replies took, by what they answer."""

from __future__ import annotations

from shimproxy.session.reply_times import KINDS, REPLY_SECONDS, ReplyTimes


def test_each_time_is_in_the_bucket_with_the_least_bound_that_is_not_below_it() -> None:
    times = ReplyTimes()
    for seconds in (0.01, 0.011, 600.0, 601.0):
        times.note("rcpt", seconds)

    found = {kind: (counts, total) for kind, counts, total in times.all()}
    assert [*found] == [*KINDS]
    counts, total = found["rcpt"]
    assert {index: count for index, count in enumerate(counts) if count} == {0: 1, 1: 1, 7: 1, len(REPLY_SECONDS): 1}
    assert total == 0.01 + 0.011 + 600.0 + 601.0
    assert found["mail"] == ([0] * (len(REPLY_SECONDS) + 1), 0.0)
