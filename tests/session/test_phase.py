"""The phases of a session: their words in the log, and what follows from each where a peer disconnects or is silent."""

from __future__ import annotations

import pytest

from shimproxy.session.closing import Closing
from shimproxy.session.limits import Deadlines
from shimproxy.session.phase import Conduct, Phase, SessionPhase, conduct
from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import Verb

PHASES: list[Phase] = [*SessionPhase, *Verb]
DEADLINES = Deadlines(command=7.0, linger_idle=3.0)


def test_the_words_of_the_log_stay() -> None:
    """Operators match them."""
    assert [*SessionPhase] == [
        "greeting",
        "first command",
        "withheld command",
        "mail data",
        "draining",
        "end of mail data",
        "between mails",
        "between chunks",
        "after 421",
        "opaque",
    ]


@pytest.mark.parametrize("phase", PHASES)
def test_the_next_command_is_soon_due_after_421_alone(phase: Phase) -> None:
    assert conduct(phase).command_seconds(DEADLINES) == (3.0 if phase is SessionPhase.AFTER_421 else 7.0)


@pytest.mark.parametrize("phase", PHASES)
def test_what_a_receiver_does_that_disconnects(phase: Phase) -> None:
    """Right after its greeting it has another name than later; after 421 it does as it has said."""
    special: dict[Phase, Violation | None] = {
        SessionPhase.FIRST_COMMAND: Violation.GREETING_THEN_CLOSE,
        SessionPhase.AFTER_421: None,
    }

    assert conduct(phase).receiver_disconnects == special.get(phase, Violation.CLOSED_WHILE_IDLE)


@pytest.mark.parametrize("phase", PHASES)
def test_who_has_said_that_the_session_ends(phase: Phase) -> None:
    """Only a 421 and QUIT say so."""
    said: dict[Phase, Closing] = {SessionPhase.AFTER_421: Closing.BY_RECEIVER, Verb.QUIT: Closing.BY_SENDER}

    assert conduct(phase).closing == said.get(phase)


@pytest.mark.parametrize("phase", PHASES)
def test_every_deadline_is_one_of_the_settings(phase: Phase) -> None:
    assert hasattr(DEADLINES, conduct(phase).command_deadline)


def test_nothing_unusual_follows_from_a_usual_phase() -> None:
    assert conduct(Verb.MAIL) == Conduct()
