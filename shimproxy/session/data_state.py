"""How far one receiver leg is in mail data, which decides how the leg may be closed (guarantee 5).

Invariants:

1. While mail data are open, the leg is reset where the session ends. A receiver could take a FIN for their end.
2. A leg that may be given a 354 at any moment is treated as one that has said it.
3. Every move is a method here. A move that is not legal from the present state is a bug: it raises AssertionError.

It does not know what the mail data are, nor what becomes of their reply.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs


class DataState(enum.Enum):
    """How far a receiver is in mail data, or in a chunk."""

    NONE = "it was given none"
    MAY_BEGIN = "it was given DATA, and may say 354 at any moment"
    OPEN = "it takes what comes for mail data, or may do so"
    ENDED = "the end of the last mail data, or of the last chunk, was written"


# Names of the module: from the class they take ten times as long, in Python 3.11.
_NONE: Final = DataState.NONE
_MAY_BEGIN: Final = DataState.MAY_BEGIN
_OPEN: Final = DataState.OPEN
_ENDED: Final = DataState.ENDED


@attrs.define(eq=False)
class MailDataState:
    """The state of one receiver leg, and its moves."""

    state: DataState = _NONE

    @property
    def is_open(self) -> bool:
        """Whether the receiver may take a FIN for the end of a mail, and a command for a line of it."""
        state = self.state
        return state is _OPEN or state is _MAY_BEGIN

    def ask(self) -> None:
        """DATA is forwarded."""
        assert self.state is _NONE or self.state is _ENDED, f"DATA where mail data are {self.state.name}"
        self.state = _MAY_BEGIN

    def begin(self) -> None:
        """The receiver has answered DATA with 354."""
        assert self.state is _MAY_BEGIN, f"354 where mail data are {self.state.name}"
        self.state = _OPEN

    def refuse(self) -> None:
        """The receiver has answered DATA with a refusal."""
        assert self.state is _MAY_BEGIN, f"a refusal of DATA where mail data are {self.state.name}"
        self.state = _NONE

    def begin_chunk(self) -> None:
        """BDAT is written, and its chunk follows."""
        assert self.state is _NONE or self.state is _ENDED, f"a chunk where mail data are {self.state.name}"
        self.state = _OPEN

    def end(self) -> None:
        """The end of the mail data, or of the chunk, is written."""
        assert self.state is _OPEN, f"an end where mail data are {self.state.name}"
        self.state = _ENDED

    def doubt(self) -> None:
        """The receiver may be in the midst of a mail, whatever it was given.

        It has said 354 where none may stand, or has answered before it had all, or is left before the mail is whole.
        """
        self.state = _OPEN
