"""The buffer that mail data are read into: as large as the largest read so far, and never too small."""

from __future__ import annotations

import tracemalloc

import pytest

from shimproxy.net import block as block_module
from shimproxy.net.block import BLOCK_OCTETS, BLOCK_START, LEAST_BLOCK_OCTETS, Block


def test_a_new_block_takes_no_more_than_the_least() -> None:
    """A worker that has seen no large mail has no two MiB for one."""
    tracemalloc.start()
    try:
        block = Block()
        used_octets, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert block.size_octets == BLOCK_OCTETS
    assert used_octets < LEAST_BLOCK_OCTETS + 4096


def test_it_grows_with_what_reads_ask_for() -> None:
    """And stays as large for the next reads, whatever these ask for."""
    block = Block()

    assert [block.room_for(octets) for octets in (1, LEAST_BLOCK_OCTETS, BLOCK_OCTETS, 1)] == [
        1,
        LEAST_BLOCK_OCTETS,
        BLOCK_OCTETS,
        1,
    ]
    assert len(block.room) == BLOCK_OCTETS
    assert len(block.buffer) == len(block.view) == BLOCK_START + BLOCK_OCTETS


def test_where_memory_is_short_reads_ask_for_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No session ends for it."""
    block = Block()

    def no_memory(_: int) -> bytearray:
        raise MemoryError

    monkeypatch.setattr(block_module, "bytearray", no_memory, raising=False)

    assert block.room_for(BLOCK_OCTETS) == len(block.room) == LEAST_BLOCK_OCTETS


@pytest.mark.parametrize("size", [0, 10, LEAST_BLOCK_OCTETS, LEAST_BLOCK_OCTETS + 1, BLOCK_OCTETS + 1])
def test_what_was_sent_ahead_stands_in_it_as_if_it_had_been_read(size: int) -> None:
    """However much that is: what a sender may send ahead is a limit of its own."""
    block, octets = Block(), bytes(range(256)) * (size // 256 + 1)

    stop = block.put(octets[:size])

    assert block.buffer[BLOCK_START:stop] == octets[:size]
    assert block.view[BLOCK_START:stop] == octets[:size]


def test_what_was_read_before_it_grew_is_still_there_for_who_holds_it() -> None:
    """A portion that is being forwarded is the session's, although another session reads."""
    block = Block()
    portion = block.view[BLOCK_START : block.put(b"first")]

    block.room_for(BLOCK_OCTETS)

    assert bytes(portion) == b"first"
