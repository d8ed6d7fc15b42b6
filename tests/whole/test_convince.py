"""The table at the top of README: whatever a sender believes without shimproxy, with it all of them are refused."""

from __future__ import annotations

import pytest

from tests.convince import measured


@pytest.mark.slow
def test_every_sender_is_told_the_receivers_own_refusal() -> None:
    """And those that stop at a failed write are not without shimproxy, so that the table has something to say."""
    rows = [line.strip("| ").split(" | ") for line in measured().splitlines()[2:]]

    assert [name.split()[0] for name, _, _ in rows] == ["curl", "msmtp", "swaks", "smtplib", "Postfix"]
    assert all(with_it.startswith("refused: `") and "550 This violates SMTP" in with_it for _, _, with_it in rows)
    assert [without.partition(":")[0] for _, without, _ in rows][:3] == ["try again"] * 3
