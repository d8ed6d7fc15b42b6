"""Values of the log that have parts: objects and lists in JSON, and words in text."""

from __future__ import annotations


class Counts(dict[str, int]):
    """How often each was counted: an object in JSON; in text `early-reply:1,late-reply:2`, or `none`."""

    def __str__(self) -> str:
        return ",".join([f"{name}:{count}" for name, count in self.items()]) or "none"


class Sides(dict[str, str | None]):
    """A word for each of several sides: an object in JSON; in text `sender/QUIT`, with "-" where there is none."""

    def __str__(self) -> str:
        return "/".join([value or "-" for value in self.values()])


class Pairs(list[dict[str, str]]):
    """Several things of one kind, each with the same names: a list of objects in JSON; in text NAME=VALUE for each.

    In text the names are keys of their own, so that it can be told where a value ends, whatever it is.
    """

    def __str__(self) -> str:
        return " ".join([field_word(*each) for pair in self for each in pair.items()])


def quoted(value: str) -> str:
    """A value as it stands in text, with quotes where a reader needs them."""
    # Backslashes of what a peer sent are doubled already, so that a quote that ends the field is never a peer's.
    return '"{}"'.format(value.replace('"', '\\"')) if not value or " " in value or '"' in value else value


def field_word(name: str, value: object) -> str:
    """NAME=VALUE."""
    if isinstance(value, Pairs):
        return str(value)
    return f"{name}={value if isinstance(value, int | float) else quoted(str(value))}"
