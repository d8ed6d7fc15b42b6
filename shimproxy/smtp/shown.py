"""Octets from the wire as text that a terminal, a log and a line of JSON can take."""

from __future__ import annotations

from typing import Final

_MOST_SHOWN: Final = 1000


def escaped(octets: bytes) -> str:
    """The octets as printable ASCII, without their final line end; what is not becomes \\\\xNN and the like."""
    return octets.removesuffix(b"\r\n").decode("latin-1").encode("unicode_escape").decode("ascii")


def on_one_line(octets: bytes) -> str:
    """Lines, as `escaped` shows them, with a slash between two."""
    lines = octets.splitlines(keepends=True)
    return escaped(octets) if len(lines) == 1 else " / ".join([escaped(line) for line in lines])


def shortened(octets: bytes, most_octets: int = _MOST_SHOWN) -> str:
    """Like `escaped`, but of octets that may be many: their beginning, and how many they are."""
    text = escaped(octets[:most_octets])
    return text if len(octets) <= most_octets else f"{text}... ({len(octets)} octets)"
