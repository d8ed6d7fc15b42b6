"""Is there a CR without LF, an LF without CR, or a NUL? The answer is exact, whichever way it is found.

The oracle takes every CRLF away, and looks for what is left of CR, LF and NUL.
"""

from __future__ import annotations

import base64
import itertools
import random
from typing import TYPE_CHECKING

import pytest

from bench.mail_data import BLOCKS
from shimproxy.smtp import stray
from shimproxy.smtp.stray import has_stray

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.once  # arithmetic on octets
LONGEST = 7
LINE = 78
STRAY = (b"\r", b"\n", b"\0")
OCTETS = (*STRAY, b"x", b"\r\n", b"\n\r", b"\r\r", b"\n\n")
# Sizes that are small enough for all short inputs to meet them: every bound, and every way.
SMALL: dict[str, dict[str, int]] = {
    "short runs": {"_RUN_OCTETS": 8, "_LEAST_LINE_OCTETS": 2, "_MOST_LINE_OCTETS": 4, "_MOST_OCTETS": 12},
    "runs of one portion": {"_RUN_OCTETS": 6, "_LEAST_LINE_OCTETS": 2, "_MOST_LINE_OCTETS": 3, "_MOST_OCTETS": 6},
    "long lines": {"_RUN_OCTETS": 4, "_LEAST_LINE_OCTETS": 99, "_MOST_LINE_OCTETS": 2, "_MOST_OCTETS": 4},
    "long and short lines": {
        "_RUN_OCTETS": 6,
        "_LEAST_LINE_OCTETS": 99,
        "_MOST_LINE_OCTETS": 3,
        "_MOST_OCTETS": 8,
    },
}
small = pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)


def stray_by_definition(octets: bytes) -> bool:
    left = octets.replace(b"\r\n", b"")
    return any(octet in left for octet in STRAY)


def found_stray(octets: bytes) -> bool:
    """Between octets that would change the answer."""
    return has_stray(bytearray(b"\r" + octets + b"\n\0"), 1, 1 + len(octets))


def wrong_of(several: Iterable[bytes]) -> list[bytes]:
    return [octets for octets in several if found_stray(octets) is not stray_by_definition(octets)]


def changed(octets: bytes, places: Iterable[int]) -> Iterator[bytes]:
    """The octets, and what becomes of them by replacement and by insertion at each of the places."""
    yield octets
    for at in places:
        for each in OCTETS:
            yield octets[:at] + each + octets[at + len(each) :]
            yield octets[:at] + each + octets[at:]


def lines(count: int, octets: int = LINE) -> bytes:
    """So many lines of base64, each of so many octets."""
    text = base64.b64encode(random.Random(1).randbytes(count * octets))
    return b"".join(text[at : at + octets - 2] + b"\r\n" for at in range(0, count * (octets - 2), octets - 2))


def reduced(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], least_octets: int) -> None:
    few = 2 * sizes["_MOST_LINE_OCTETS"]
    others = {"_LEAST_OCTETS": least_octets, "_FEW_OCTETS": few, "_LONG_LINES_OCTETS": 4, "_OCTETS_A_LINE": 2}
    for name, octets in (sizes | others | {"_MOST_COPIED_OCTETS": sizes["_MOST_OCTETS"]}).items():
        monkeypatch.setattr(stray, name, octets)


# -- all short inputs


def test_every_short_block_is_judged_as_defined() -> None:
    blocks = (b"".join(each) for size in range(LONGEST) for each in itertools.product((*STRAY, b"x"), repeat=size))

    assert wrong_of(blocks) == []


@small
@pytest.mark.parametrize("least_octets", [1, 2, 3])
def test_every_short_block_is_judged_as_defined_in_small_portions(
    sizes: dict[str, int], least_octets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of lines and what is none, so that there are runs and long lines, and stray octets at each bound of theirs."""
    reduced(monkeypatch, sizes, least_octets)
    words = (b"\r\n", b"x\r\n", b"xx", *STRAY)
    blocks = (b"".join(each) for size in range(LONGEST) for each in itertools.product(words, repeat=size))

    assert wrong_of(blocks) == []


@pytest.mark.parametrize("least_octets", [1, 5, 16])
@pytest.mark.parametrize("line_octets", [4, 7])
def test_a_stray_octet_at_each_place_of_runs_with_other_lines_between(
    line_octets: int, least_octets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Portions of up to 32 octets; the runs begin and end everywhere in them."""
    sizes = {"_RUN_OCTETS": 16, "_LEAST_LINE_OCTETS": 4, "_MOST_LINE_OCTETS": 8, "_MOST_OCTETS": 32}
    reduced(monkeypatch, sizes, least_octets)
    run = lines(12, line_octets)
    wrong = [
        (before, octets)
        for before in range(0, 34, 4)
        for text in [b"y" * before + b"\r\n" + run + b"other\r\n\r\n" + run[: 5 * line_octets - before % line_octets]]
        for octets in wrong_of(changed(text, range(len(text) + 1)))
    ]

    assert wrong == []


# -- the sizes that it has


@pytest.mark.parametrize("size_octets", [0, 1, 100, 1024, 8191, 8192, 8193, 9000], ids=str)
def test_regular_lines_have_nothing_stray(size_octets: int) -> None:
    """Base64, from any octet of it on that is not half of a line end."""
    text = lines(200)

    assert wrong_of(text[start : start + size_octets] for start in range(2 * LINE)) == []


def bounds(size_octets: int) -> set[int]:
    """Where portions of what is no run end, and those of a run, and a few octets before and after."""
    between = itertools.accumulate((stray._LEAST_OCTETS << doubled for doubled in range(10)), initial=0)
    at_runs = (stray._MOST_OCTETS, 2 * stray._MOST_OCTETS, stray._RUN_OCTETS, size_octets)
    return {at + near for at in (*between, *at_runs) for near in range(-4, 4) if 0 <= at + near <= size_octets}


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_stray_octet_is_found_at_each_bound(kind: str) -> None:
    """In mail data of each kind that is measured, and with a few octets before them."""
    text = BLOCKS[kind](2 * stray._MOST_OCTETS + 5000)

    assert wrong_of(before + text for before in (b"", b"x", b"\r\n", b"x" * 40 + b"\r\n")) == []
    assert wrong_of(changed(text, bounds(len(text)))) == []


@pytest.mark.parametrize("before", [0, 1, 40, 1022, 1023, 1024])
def test_a_stray_octet_is_found_at_each_end_of_a_run(before: int) -> None:
    """In its first and last lines, and in those around it."""
    head = b"x" * before + b"\r\n"
    first, last = len(head), len(head) + 220 * LINE
    text = head + lines(220) + b"other\r\n" + lines(110) + b"short\r\n"
    places = {at + near for at in (first, last, len(text)) for near in range(-LINE, LINE)}

    assert wrong_of(changed(text, sorted(at for at in places if 0 <= at <= len(text)))) == []


@pytest.mark.parametrize("line", [b"\r\n", b"x\r\n", b"\r\n.\r\n", b"x" * 37 + b"\r\n", b"x" * 2000 + b"\r\n", b"x"])
def test_a_stray_octet_is_found_in_the_midst_of_equal_lines(line: bytes) -> None:
    """However short or long they are; also after two long lines, which promise more of them."""
    for text in (line * (20_000 // len(line)), (b"x" * 900 + b"\r\n") * 2 + line * (20_000 // len(line))):
        places = [*range(0, len(text), 997), *range(len(text) - 4, len(text) + 1)]

        assert wrong_of(changed(text, places)) == []


def test_lines_of_one_length_that_have_other_lines_in_them() -> None:
    """Two lines that are together as long as one: they are no run, and nothing in them is stray."""
    whole = lines(120)
    halves = b"x" * (LINE // 2 - 2) + b"\r\n"

    assert wrong_of([whole + 2 * halves + whole, whole + 2 * halves.replace(b"\r", b"x") + whole]) == []
