"""The legs to receivers that a session had before the one that it has now: their octets, and what lingers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import attrs

if TYPE_CHECKING:
    from shimproxy.net.leg import Leg

_MOST_LINGERING: Final = 4


class Lingering(Protocol):
    """A lingering close (lingering_close.py)."""

    leg: Leg

    def hurry(self) -> None:
        """Its verdict is needed no more."""

    async def over(self) -> None:
        """Return when the leg is closed."""


@attrs.define(eq=False)
class EarlierLegs:
    """What is left of the earlier legs of one session."""

    lingering_closes: tuple[Lingering, ...] = ()
    """Those that may still go on."""
    _octets_in: int = 0
    _octets_out: int = 0

    def add(self, leg: Leg, lingering: Lingering | None) -> None:
        """A leg is given up for another one; with a lingering close, or dropped."""
        if lingering:
            self.lingering_closes = (*self.lingering_closes, lingering)
        else:
            self._count(leg)

    @property
    def octets_in(self) -> int:
        """What came on them."""
        lingering = self.lingering_closes
        return self._octets_in + sum(each.leg.octets_in for each in lingering) if lingering else self._octets_in

    @property
    def octets_out(self) -> int:
        """What went out on them."""
        lingering = self.lingering_closes
        return self._octets_out + sum(each.leg.octets_out for each in lingering) if lingering else self._octets_out

    def _count(self, leg: Leg) -> None:
        self._octets_in += leg.octets_in
        self._octets_out += leg.octets_out

    async def see_off(self, all_but: int = _MOST_LINGERING - 1) -> None:
        """Return when so few lingering closes go on, so that no session has any number of connections open."""
        while len(self.lingering_closes) > all_but:
            lingering = self.lingering_closes[0]
            await lingering.over()
            self.lingering_closes = self.lingering_closes[1:]
            self._count(lingering.leg)
