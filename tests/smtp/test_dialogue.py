"""The dialogue table: which reply may answer what. Each row once by hand, and what must hold for all codes."""

from __future__ import annotations

import pytest

from shimproxy.smtp.command import HELLOS, Verb
from shimproxy.smtp.dialogue import (
    ANSWERS,
    DECIDES,
    DIALOGUE,
    OUT_OF_STEP,
    NextRead,
    ReplyTo,
    Ruling,
    Verdict,
    about_early_reply,
    is_greeting_again,
    ruling,
)
from shimproxy.smtp.reply import Reply

CODES = range(200, 600)
RELAYED = (Verdict.RELAY, NextRead.COMMANDS)
NOT_OURS = OUT_OF_STEP
DROPPED_IN_MAIL_DATA = (Verdict.DROP, NextRead.DRAIN)

# What a reply answers -> its rulings for 2yz, 334, 354, any other 3yz, 4yz, 5yz: as RFC 5321 4.3.2 has them. But for
# those below, 221 accepts nothing.
BY_HAND: dict[ReplyTo, tuple[Ruling, Ruling, Ruling, Ruling, Ruling, Ruling]] = {
    ReplyTo.GREETING: (RELAYED, NOT_OURS, NOT_OURS, NOT_OURS, RELAYED, RELAYED),
    ReplyTo.COMMAND: (RELAYED, NOT_OURS, NOT_OURS, NOT_OURS, RELAYED, RELAYED),
    ReplyTo.AUTH: (RELAYED, (Verdict.RELAY, NextRead.AUTH_RESPONSE), NOT_OURS, NOT_OURS, RELAYED, RELAYED),
    ReplyTo.DATA: (NOT_OURS, NOT_OURS, (Verdict.RELAY, NextRead.MAIL_DATA), NOT_OURS, RELAYED, RELAYED),
    ReplyTo.QUIT: ((Verdict.RELAY, NextRead.CLOSE), NOT_OURS, NOT_OURS, NOT_OURS, RELAYED, RELAYED),
    ReplyTo.IN_MAIL_DATA: (
        (Verdict.NEVER, NextRead.DRAIN),
        NOT_OURS,
        (Verdict.DROP, NextRead.MAIL_DATA),
        NOT_OURS,
        (Verdict.HOLD, NextRead.DRAIN),
        (Verdict.HOLD, NextRead.DRAIN),
    ),
    ReplyTo.AFTER_EARLY_REPLY: (
        DROPPED_IN_MAIL_DATA,
        NOT_OURS,
        DROPPED_IN_MAIL_DATA,
        NOT_OURS,
        (Verdict.HOLD, NextRead.DRAIN),
        (Verdict.HOLD, NextRead.DRAIN),
    ),
    ReplyTo.STARTTLS: ((Verdict.RELAY, NextRead.TLS), NOT_OURS, NOT_OURS, NOT_OURS, RELAYED, RELAYED),
    ReplyTo.END_OF_DATA: (RELAYED, NOT_OURS, (Verdict.DROP, NextRead.COMMANDS), NOT_OURS, RELAYED, RELAYED),
}


OF_221 = {
    ReplyTo.COMMAND: RELAYED,
    ReplyTo.IN_MAIL_DATA: (Verdict.NEVER, NextRead.DRAIN),
    ReplyTo.AFTER_EARLY_REPLY: DROPPED_IN_MAIL_DATA,
    ReplyTo.QUIT: (Verdict.RELAY, NextRead.CLOSE),
}
OF_421 = {ReplyTo.AFTER_EARLY_REPLY: DROPPED_IN_MAIL_DATA, ReplyTo.QUIT: (Verdict.RELAY, NextRead.CLOSE)}


def by_hand(what: ReplyTo, code: int) -> Ruling:
    if code == 421 and what in OF_421:
        return OF_421[what]
    return OF_221.get(what, NOT_OURS) if code == 221 else BY_HAND[what][column(code)]


def reply(code: int) -> Reply:
    return Reply(code, b"%d text\r\n" % code)


def column(code: int) -> int:
    match code:
        case 334:
            return 1
        case 354:
            return 2
        case _:
            return {2: 0, 3: 3, 4: 4, 5: 5}[code // 100]


every_answers = pytest.mark.parametrize("what", ReplyTo, ids=[what.name for what in ReplyTo])


@every_answers
def test_every_code_is_ruled_as_the_rfc_has_it(what: ReplyTo) -> None:
    """Each code from 200 to 599 by the table above: a row, or out of step."""
    wrong = [code for code in CODES if by_hand(what, code) != ruling(what, reply(code))]

    assert wrong == []


@every_answers
def test_a_reply_without_a_code_is_out_of_step(what: ReplyTo) -> None:
    """What has no usable code answers nothing."""
    assert ruling(what, Reply(0, b"noise\r\n")) == OUT_OF_STEP


def test_the_table_has_no_row_that_is_never_used() -> None:
    """Every row is reached by some code."""
    reached = {(what, kind) for what in ReplyTo for code in CODES for kind in (reply(code).kind, code)}

    assert reached >= set(DIALOGUE)


@pytest.mark.parametrize("verb", Verb)
def test_what_a_command_is_answered_by(verb: Verb) -> None:
    """DATA, AUTH, STARTTLS and QUIT have replies of their own, every other command the common ones."""
    special = {
        Verb.DATA: ReplyTo.DATA,
        Verb.AUTH: ReplyTo.AUTH,
        Verb.STARTTLS: ReplyTo.STARTTLS,
        Verb.QUIT: ReplyTo.QUIT,
    }

    assert special.get(verb, ReplyTo.COMMAND) is ANSWERS[verb]


@pytest.mark.parametrize("verb", Verb)
def test_a_220_is_no_answer_to_a_hello(verb: Verb) -> None:
    """It is the greeting once more; no other code is, and a 220 to another command is the receiver's odd answer."""
    again = {code for code in CODES if is_greeting_again(verb, reply(code))}

    assert again == ({220} if verb in HELLOS else set())


# -- what must hold whatever the rows are


def ruled(verdict: Verdict | None = None, then: NextRead | None = None) -> set[tuple[ReplyTo, int]]:
    """Everything (what is answered, code) with this verdict and this way to go on."""
    return {
        (what, code)
        for what in ReplyTo
        for code in CODES
        for row in [ruling(what, reply(code))]
        if verdict in (None, row[0]) and then in (None, row[1])
    }


def test_only_354_to_data_opens_mail_data() -> None:
    """And a repeated 354 leaves it open."""
    assert {(ReplyTo.DATA, 354), (ReplyTo.IN_MAIL_DATA, 354)} == ruled(then=NextRead.MAIL_DATA)
    assert {(ReplyTo.DATA, 354)} == ruled(Verdict.RELAY, NextRead.MAIL_DATA)


def test_354_is_relayed_to_data_only() -> None:
    """A sender that sees 354 elsewhere would begin its mail."""
    assert {ReplyTo.DATA} == {what for what, code in ruled(Verdict.RELAY) if code == 354}


def test_334_is_relayed_within_auth_only() -> None:
    """And an AUTH response is read for nothing else."""
    assert {ReplyTo.AUTH} == {what for what, code in ruled(Verdict.RELAY) if code == 334}
    assert {(ReplyTo.AUTH, 334)} == ruled(then=NextRead.AUTH_RESPONSE)


def test_no_other_3yz_is_relayed() -> None:
    """No command of ours has one."""
    assert {334, 354} == {code for _, code in ruled(Verdict.RELAY) if 300 <= code < 400}


def test_data_itself_is_never_answered_with_success() -> None:
    """A sender that sees 250 for DATA takes its mail for accepted (guarantee 3)."""
    assert not {code for what, code in ruled(Verdict.RELAY) if what is ReplyTo.DATA and code < 300}


def test_before_the_end_of_mail_data_nothing_is_relayed() -> None:
    """Not to a sender that is still sending (guarantee 1)."""
    assert not {ReplyTo.IN_MAIL_DATA, ReplyTo.AFTER_EARLY_REPLY} & {what for what, _ in ruled(Verdict.RELAY)}


def test_a_success_before_the_end_of_mail_data_is_never_relayed() -> None:
    """All 2yz, and nothing but 2yz (guarantee 3): a refusal is held."""
    assert {(ReplyTo.IN_MAIL_DATA, code) for code in range(200, 300)} == ruled(Verdict.NEVER)


def test_a_refusal_in_mail_data_is_held_and_the_sender_drained() -> None:
    """All 4yz and 5yz, and only there; after another early reply a 421 is no verdict (guarantee 2)."""
    refusals = {(what, code) for what in (ReplyTo.IN_MAIL_DATA, ReplyTo.AFTER_EARLY_REPLY) for code in range(400, 600)}

    assert refusals - {(ReplyTo.AFTER_EARLY_REPLY, 421)} == ruled(Verdict.HOLD)
    assert ruled(Verdict.HOLD) | ruled(Verdict.NEVER) == ruled(then=NextRead.DRAIN) - ruled(Verdict.DROP)


def test_what_decides_about_a_mail_before_its_end() -> None:
    """What is held, and what is never relayed: a 2yz among these becomes a refusal."""
    assert {Verdict.HOLD, Verdict.NEVER} == DECIDES


@pytest.mark.parametrize(
    ("code", "decided", "due", "what"),
    [
        (550, 0, 1, ReplyTo.IN_MAIL_DATA),
        (421, 0, 1, ReplyTo.IN_MAIL_DATA),
        (550, 1, 1, ReplyTo.AFTER_EARLY_REPLY),
        (421, 1, 1, ReplyTo.AFTER_EARLY_REPLY),
        (550, 1, 2, ReplyTo.IN_MAIL_DATA),
        (421, 1, 2, ReplyTo.AFTER_EARLY_REPLY),
        (250, 2, 2, ReplyTo.AFTER_EARLY_REPLY),
    ],
)
def test_which_early_reply_comes_after_the_first(code: int, decided: int, due: int, what: ReplyTo) -> None:
    """With LMTP those of the other recipients do not; a 421 is one of the connection as soon as any other has come."""
    assert about_early_reply(reply(code), decided=decided, due=due) is what


@every_answers
@pytest.mark.parametrize("code", [421, 450, 451, 500, 550, 554])
def test_a_refusal_is_always_plausible(what: ReplyTo, code: int) -> None:
    """Any command can be refused: relayed, or held in mail data, or dropped after them (guarantee 2)."""
    after = (Verdict.DROP,) if what is ReplyTo.AFTER_EARLY_REPLY else ()

    assert ruling(what, reply(code))[0] in (Verdict.RELAY, Verdict.HOLD, *after)


def test_out_of_step_means_close() -> None:
    """Legs that are out of step are not used any more."""
    assert {NextRead.CLOSE} == {ruling(what, reply(code))[1] for what, code in ruled(Verdict.OUT_OF_STEP)}


def test_only_quit_ends_a_session_that_is_in_step() -> None:
    """And a QUIT that was refused does not."""
    assert {(ReplyTo.QUIT, code) for code in (*range(200, 300), 421)} == ruled(Verdict.RELAY, NextRead.CLOSE)
