"""The buffer that blocks of mail data are read into.

It is as large as the largest read so far has asked for: two MiB that no sender has need of yet are a fifteenth of all
that a worker has in memory.
"""

from __future__ import annotations

from typing import Final

import attrs

BLOCK_OCTETS: Final = 2 * 1024 * 1024
"""CPU for a GiB of mail data falls up to this size and no further."""
LEAST_BLOCK_OCTETS: Final = 64 * 1024
BLOCK_START: Final = 4
"""Where in its buffer a block begins: who holds octets of the last one has room for them before it."""


@attrs.define(eq=False)
class Block:
    """The receive buffer: it is a session's only until its next await."""

    size_octets: int = BLOCK_OCTETS
    """How large the largest block may be."""
    buffer: bytearray = attrs.field(init=False)
    view: memoryview = attrs.field(init=False)
    room: memoryview = attrs.field(init=False)
    """Where a read goes; see `room_for`."""

    def __attrs_post_init__(self) -> None:
        self._make(min(self.size_octets, LEAST_BLOCK_OCTETS))

    def room_for(self, octets: int) -> int:
        """How many octets a read into `room` may ask for, of so many that it would: fewer where memory is short.

        What the buffer holds may be lost.
        """
        room_octets = len(self.room)
        if octets <= room_octets:
            return octets
        try:
            self._make(octets)
        except MemoryError:
            return room_octets
        return octets

    def put(self, octets: bytes) -> int:
        """Have the buffer hold these octets as if they had been read, and nothing else; where they stop."""
        if len(octets) > len(self.room):
            self._make(len(octets))
        stop = BLOCK_START + len(octets)
        self.buffer[BLOCK_START:stop] = octets
        return stop

    def _make(self, octets: int) -> None:
        self.buffer = bytearray(BLOCK_START + octets)
        self.view = memoryview(self.buffer)
        self.room = self.view[BLOCK_START:]
