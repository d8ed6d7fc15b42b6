"""The figures, by name: which way is better, and what each means.

Every figure that a measure gives stands here, and nowhere else; the table, the picture, JSON and the page of the
documentation read it.
"""

from __future__ import annotations

import statistics
from enum import Enum
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Samples = dict[str, dict[str, list[float]]]
"""Figure, path, one value a round."""


class Better(Enum):
    """Which way a figure is better."""

    HIGHER = "higher"
    LOWER = "lower"


@attrs.frozen
class Figure:
    """What a number means."""

    name: str
    """As in JSON and in the targets."""
    better: Better
    group: str
    about: str
    short: str = attrs.field()
    """Its name where there is little room."""

    @short.default
    def _short(self) -> str:
        return self.name


_SMALL: Final = "small mails"
_LARGE: Final = "a large mail"
_TLS: Final = "TLS on both legs"
_TIME: Final = "latency"
_MEMORY: Final = "memory"


def _of_mail_data(name: str, about: str, of_cpu: str, short: str = "") -> tuple[Figure, Figure]:
    """The two figures of mail data of one kind."""
    rate, cost = "MiB/s", "CPU s/GiB"
    return (
        Figure(f"{name} {rate}", Better.HIGHER, _LARGE, f"Throughput of {about}.", f"{short or name} {rate}"),
        Figure(
            f"{name} {cost}",
            Better.LOWER,
            _LARGE,
            f"The proxy's CPU time for a GiB of {of_cpu}.",
            f"{short or name} {cost}",
        ),
    )


_LISTED: Final = (
    Figure("sessions/s", Better.HIGHER, _SMALL, "Mails a second, ten at a time, each on a session of its own."),
    Figure(
        "CPU s/1000 sessions",
        Better.LOWER,
        _SMALL,
        "The proxy's CPU time for 1,000 mails, each on a session of its own.",
    ),
    Figure("kept mails/s", Better.HIGHER, _SMALL, "Mails a second on ten sessions that are kept."),
    Figure("CPU s/1000 kept mails", Better.LOWER, _SMALL, "The proxy's CPU time for 1,000 mails on kept sessions."),
    *_of_mail_data(
        "mixed", "whole mails: headers, text, quoted-printable, three attachments in base64", "such whole mails"
    ),
    *_of_mail_data("4 x mixed", "whole mails, four at a time", "whole mails, four at a time"),
    *_of_mail_data("base64", "mail data in base64, which has no dots", "base64"),
    *_of_mail_data("prose", "mail data in words, with dots and stuffed dots", "words"),
    *_of_mail_data(
        "quoted-printable",
        "mail data in quoted-printable, in lines of nearly one length",
        "quoted-printable",
        "quoted-pr.",
    ),
    *_of_mail_data("long lines", "HTML in lines of 400 to 2,400 octets", "HTML in long lines"),
    Figure(
        "drain MiB/s",
        Better.HIGHER,
        _LARGE,
        "Throughput of mail data that shimproxy reads after the receiver's early 552.",
    ),
    Figure("drain CPU s/GiB", Better.LOWER, _LARGE, "The proxy's CPU time for a GiB that it reads after an early 552."),
    Figure(
        "TLS sessions/s", Better.HIGHER, _TLS, "Mails a second, ten at a time, each with a full handshake on each leg."
    ),
    Figure(
        "CPU s/1000 TLS sessions", Better.LOWER, _TLS, "The proxy's CPU time for 1,000 mails with their handshakes."
    ),
    Figure(
        "TLS base64 MiB/s", Better.HIGHER, _TLS, "Throughput of mail data in base64 that is encrypted on both legs."
    ),
    Figure(
        "TLS base64 CPU s/GiB", Better.LOWER, _TLS, "The proxy's CPU time for a GiB that is encrypted on both legs."
    ),
    Figure(
        "latency p50 us",
        Better.LOWER,
        _TIME,
        "Microseconds that half of the small mails on a kept session take at most.",
    ),
    Figure(
        "latency p99 us", Better.LOWER, _TIME, "Microseconds that 99 of 100 small mails on a kept session take at most."
    ),
    Figure(
        "added latency p50 us", Better.LOWER, _TIME, "`latency p50 us` less that of the direct path in the same round."
    ),
    Figure(
        "added latency p99 us", Better.LOWER, _TIME, "`latency p99 us` less that of the direct path in the same round."
    ),
    Figure(
        "pipelined mail, receiver 20 ms away, ms",
        Better.LOWER,
        _TIME,
        "Milliseconds for a small mail of a pipelining sender. A round trip to the receiver takes 20 ms.",
        "mail to 20 ms away, ms",
    ),
    Figure("peak MiB, mail passes", Better.LOWER, _MEMORY, "The proxy's largest memory while a large mail passes."),
    Figure(
        "peak MiB, mail drained",
        Better.LOWER,
        _MEMORY,
        "The proxy's largest memory while it reads a large mail after an early 552.",
    ),
    Figure("idle session KiB", Better.LOWER, _MEMORY, "What each open session adds to the proxy's memory."),
)
FIGURES: Final = {figure.name: figure for figure in _LISTED}


def groups(samples: Samples) -> Iterator[tuple[str, list[Figure]]]:
    """What was measured: each group with its figures, in the order of FIGURES. Raises KeyError for one not there."""
    measured = {FIGURES[name] for name in samples}
    for group in dict.fromkeys(figure.group for figure in _LISTED):
        if figures := [figure for figure in _LISTED if figure in measured and figure.group == group]:
            yield group, figures


def median(values: Sequence[float]) -> float | None:
    """The middle of the values, if there are any."""
    return statistics.median(values) if values else None


def percentile(values: Sequence[float], per_cent: int) -> float:
    """The value that so many per cent of the values do not exceed: of 400, 4 exceed that of 99. Raises IndexError."""
    return sorted(values)[min(len(values) - 1, len(values) * per_cent // 100)]


def spread(values: Sequence[float]) -> float:
    """How far the farthest of the values is from their median, as a share of it; 0 where that says nothing."""
    middle = median(values)
    return max(abs(value - middle) for value in values) / abs(middle) if middle else 0.0


def number(value: float) -> str:
    """The value, in a few digits."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
