"""Whether the driver waits for the next events itself, or has trio's loop wait for them.

It does where peers are swift: their next octets are here within a millisecond, and no turn of trio's loop is due
between. Where the peers are tasks of this process, as in a test of somebody else's, they can't go on while the driver
waits: as soon as trio's loop has a turn, they do, and the events are there.

Invariant: the more often a wait has kept its own events from coming, the more rounds have none: up to a thousand.
"""

from __future__ import annotations

import time
from typing import Final

import attrs

_HARMFUL_SECONDS: Final = 0.0005
"""What comes so soon after a wait in vain was kept from coming by that."""
_MOST_HARM: Final = 10


@attrs.define(eq=False)
class Patience:
    """What the last waits of a driver have come to."""

    harm: int = 0
    """After the last harmful wait two to the power of this were left out; 0 where none was harmful of late."""
    _left_out: int = 0
    """How many of the next waits are."""
    _useful: int = 0
    """How many waits have found something since `harm` was changed."""
    _in_vain_at: float = 0.0
    """When the last wait ended that has found nothing, as time.monotonic tells it, unless that is looked into."""

    def waited_in_vain(self) -> None:
        """A wait has found nothing."""
        self._in_vain_at = time.monotonic()

    def may_wait(self, *, has_waited: bool) -> bool:
        """Whether to wait for the next events, after a round that has found some; whether that `has_waited`."""
        if has_waited:
            if self.harm:
                self._useful += 1
                if self._useful >> self.harm:
                    self.harm -= 1
                    self._useful = 0
            return True
        if self._in_vain_at:
            if time.monotonic() - self._in_vain_at < _HARMFUL_SECONDS:
                self.harm = min(self.harm + 1, _MOST_HARM)
                self._useful, self._left_out = 0, 2**self.harm
            self._in_vain_at = 0.0
        if self._left_out:
            self._left_out -= 1
            return False
        return True
