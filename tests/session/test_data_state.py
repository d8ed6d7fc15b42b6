"""How far a receiver is in mail data: each move from each state once by hand, and what guarantee 5 makes of it."""

from __future__ import annotations

import pytest

from shimproxy.session.data_state import DataState, MailDataState

NONE, MAY_BEGIN, OPEN, ENDED = DataState
MOVES: dict[str, dict[DataState, DataState]] = {
    "ask": {NONE: MAY_BEGIN, ENDED: MAY_BEGIN},
    "begin": {MAY_BEGIN: OPEN},
    "refuse": {MAY_BEGIN: NONE},
    "begin_chunk": {NONE: OPEN, ENDED: OPEN},
    "end": {OPEN: ENDED},
    "doubt": dict.fromkeys(DataState, OPEN),
}
"""Move -> the states that it is legal in, and where it leads."""


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", DataState)
def test_a_move_is_legal_or_a_bug(move: str, state: DataState) -> None:
    """Each leads where the table says, and from any other state it is an AssertionError that changes nothing."""
    data = MailDataState(state)

    if state in MOVES[move]:
        getattr(data, move)()
        assert data.state is MOVES[move][state]
    else:
        with pytest.raises(AssertionError, match=state.name):
            getattr(data, move)()
        assert data.state is state


def test_every_move_is_in_the_table() -> None:
    moves = {name for name in vars(MailDataState) if not name.startswith("_")} - {"state", "is_open"}

    assert moves == MOVES.keys()


@pytest.mark.parametrize("state", DataState)
def test_the_receiver_is_reset_where_a_fin_could_end_a_mail(state: DataState) -> None:
    """From DATA on, as its 354 may be under way, to the end of mail data."""
    assert MailDataState(state).is_open == (state in (MAY_BEGIN, OPEN))
