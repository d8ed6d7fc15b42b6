"""What a misbehaving receiver is told to be, and which fault each session of it has.

1. A fault has its share of the sessions in per cent; the rest of them are well served. Which they are depends on the
   seed and on the order in which the connections come.
2. Where the sender chooses, NAME is a receiver of the table or a violation of the catalogue. The sender names it in
   `EHLO NAME.fault.example` or in `RCPT TO:<NAME@fault.example>`; a fault that comes before that can't be chosen.
"""

from __future__ import annotations

import difflib
import math
import random
import re
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.fault import Fault, FaultPlace
from shimproxy.faulty.receivers import FAULTS
from shimproxy.faulty.senders import SENDERS
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

CHOSEN: Final = "chosen"
DOMAIN: Final = "fault.example"
EACH_OCTET: Final = "octets"
WELL_BEHAVED: Final = FAULTS["well-behaved"]
PATIENCE_SECONDS: Final = 600.0
_ALL: Final = 100.0
_SHARE: Final = re.compile(r"(?P<name>[^:]*):(?P<percent>\d+(?:\.\d+)?)%")
_IN_EHLO: Final = re.compile(rb"(?:EHLO|HELO|LHLO)\s+([^\s.]+)\.fault\.example\s*", re.IGNORECASE)
_IN_RCPT: Final = re.compile(rb"RCPT\s+TO:\s*<?([^\s<>@]+)@fault\.example\b.*", re.IGNORECASE)


class NoSuchFault(ValueError):
    """There is no fault of that name, or none at that place."""


def doing(violation: Violation | None) -> list[Fault]:
    """The receivers that do it; for None those that do nothing wrong."""
    return [fault for fault in FAULTS.values() if fault.violation is violation]


def fault_named(name: str) -> Fault:
    """The receiver of that name, or the first that does the violation of that name. Raises NoSuchFault."""
    name = name.lower()
    if name in FAULTS:
        return FAULTS[name]
    by_violation = {str(each): faults for each in Violation if (faults := doing(each))}
    if name in by_violation:
        return by_violation[name][0]
    if name in {*SENDERS, *(str(each.violation) for each in SENDERS.values())}:
        raise NoSuchFault(f"{name!r} is a fault of a sender: play it by --sender {name} --to HOST:PORT")
    if name in {str(each) for each in Violation}:
        raise NoSuchFault(no_peer(name))
    raise NoSuchFault(no_such_name(name, [*FAULTS, *by_violation]))


def no_peer(violation: str) -> str:
    """What is wrong with the name of a violation that no faulty receiver or sender does."""
    return f"no peer does {violation!r}; `shimproxy explain {violation}` shows it in a dialogue"


def no_such_name(name: str, known: Iterable[str]) -> str:
    """What is wrong with a name that is not one of the known, with the nearest ones."""
    near = difflib.get_close_matches(name, [*known], 3, 0.5)
    mend = f"did you mean {' or '.join(near)}?" if near else "--list has them all"
    return f"{name!r} is unknown; {mend}"


@attrs.frozen(kw_only=True)
class Plan:
    """What a misbehaving receiver is to be. Raises ValueError for what can't be."""

    shares: Sequence[tuple[str, float]] = ()
    """Names, each with its share of the sessions in per cent."""
    chosen: bool = False
    """Whether the sender chooses the fault."""
    seed: int = 0
    delay_seconds: float = 0.0
    """What passes before each reply."""
    segments: int | None = 1
    """How many segments each reply has; None for one for each octet."""
    lmtp: bool = False
    security: ssl.SSLContext | None = None
    """With it, STARTTLS is offered."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long a session waits for its sender."""
    _faults: tuple[tuple[Fault, float], ...] = attrs.field(init=False)
    _dice: random.Random = attrs.field(init=False)

    @_faults.default
    def _find(self) -> tuple[tuple[Fault, float], ...]:
        return tuple((fault_named(name), percent) for name, percent in self.shares)

    @_dice.default
    def _with_seed(self) -> random.Random:
        return random.Random(self.seed)

    def __attrs_post_init__(self) -> None:
        shares = [percent for _, percent in self._faults]
        if not all(0 < each <= _ALL for each in shares):
            raise ValueError("a share is a number above 0 and up to 100, as in --as early-reply:20%")
        if sum(shares) > _ALL:
            raise ValueError(f"the shares come to {sum(shares):g} %; let them be 100 % together at most")
        for name, seconds in ("--delay", self.delay_seconds), ("--patience", self.patience_seconds):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"{name} must be a number of seconds from 0 on, not {seconds:g}")
        if self.segments is not None and self.segments < 1:
            raise ValueError(f"--segments must be a number from 1 on, or {EACH_OCTET}, not {self.segments}")
        for fault, percent in self._faults:
            if FaultPlace.CONNECTION in fault.acts and percent < _ALL:
                raise ValueError(f"a port that is closed is so for every sender: write --as {fault.name} alone")

    @property
    def is_unreachable(self) -> bool:
        """Whether nobody can connect."""
        return any(FaultPlace.CONNECTION in fault.acts for fault, _ in self._faults)

    @property
    def tight(self) -> bool:
        """Whether a fault has a receive buffer that is full soon, which connections take from their listener."""
        return any(fault.tight for fault, _ in self._faults)

    @property
    def title(self) -> str:
        """What the receiver is, in words."""
        shares = [f"{fault.name}{'' if percent == _ALL else f':{percent:g}%'}" for fault, percent in self._faults]
        return ", ".join([*shares, *(["what the sender chooses"] if self.chosen else [])]) or WELL_BEHAVED.name

    def next_fault(self) -> Fault:
        """The fault of the next connection; call it once for each, in the order in which they come."""
        thrown = self._dice.random() * _ALL
        for fault, percent in self._faults:
            if thrown < percent:
                return fault
            thrown -= percent
        return WELL_BEHAVED

    def chosen_by(self, command: bytes) -> Fault | None:
        """The fault that the sender chooses by this command, if it does. Raises NoSuchFault."""
        for stage, pattern in (FaultPlace.EHLO, _IN_EHLO), (FaultPlace.RCPT, _IN_RCPT):
            if self.chosen and (found := pattern.fullmatch(command.strip())):
                fault = fault_named(found[1].decode("latin-1"))
                by_ehlo = f"EHLO {fault.name}.{DOMAIN}"
                if stage > FaultPlace.EHLO and fault.offers:
                    raise NoSuchFault(f"{fault.name} begins with what EHLO is answered: choose it by {by_ehlo}")
                if fault.stage < stage:
                    also = f", or choose it by {by_ehlo}" if fault.stage >= FaultPlace.EHLO else ""
                    raise NoSuchFault(f"{fault.name} comes before {stage.name}: serve it by --as {fault.name}{also}")
                return fault
        return None


def share(text: str) -> tuple[str, float]:
    """The name and the share that `text` writes as NAME or NAME:20%. Raises ValueError."""
    if ":" not in text:
        return text, _ALL
    if not (found := _SHARE.fullmatch(text)):
        raise ValueError(f"{text!r}: write a name, or a name and its share as in early-reply:20%")
    return found["name"], float(found["percent"])
