"""A session's record as a sequence diagram of Mermaid, which code forges and wikis draw.

Whatever a peer has sent is on one line, in letters and figures that mean nothing to Mermaid; all others are written as
its entity codes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from shimproxy.records.session_ladder import PARTIES, ladder_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimproxy.session.record import SessionRecord

_MOST_TEXT: Final = 100
"""Of a message, in characters: Mermaid draws no more than 50,000 in all, and 400 frames are to fit."""
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9 .,:/=@_()\[\]+*?!'-]").match
_SHORT: Final = dict(zip(PARTIES, "SPR", strict=True))


def mermaid(record: SessionRecord) -> Iterator[str]:
    """The lines of the diagram."""
    ladder = ladder_of(record)
    yield "sequenceDiagram"
    yield f"    %% {_plain(ladder.title, 500)}"
    for party, short in _SHORT.items():
        yield f"    participant {short} as {party}"
    for frame in ladder.frames:
        text = _plain(f"{frame.what}, {frame.remark}" if frame.remark else frame.what, _MOST_TEXT)
        if frame.who == frame.whom:
            yield f"    Note over {_SHORT[frame.who]}: {frame.mark} {text}"
        else:
            yield f"    {_SHORT[frame.who]}->>{_SHORT[frame.whom]}: {frame.mark} {text}"


def _plain(text: str, most_characters: int) -> str:
    """The text, or its beginning, as Mermaid takes it."""
    plain = ""
    for character in text:
        word = f"#{ord(character)};" if _NOT_PLAIN(character) else character
        if len(plain) + len(word) > most_characters:
            return f"{plain} ..."
        plain += word
    return plain
