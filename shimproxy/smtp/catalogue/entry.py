"""The declaration of a violation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    By = Literal["receiver", "sender", "receiver or sender"]
    _Owner = TypeVar("_Owner")


class CatalogueEntry:
    """A violation as it is declared: a member of `Violation` is made of each.

    Its other texts are in the string below it, which Python does not load: `shimproxy explain` reads them from the
    source (shimproxy/help/explain/words.py). That string has a summary in one line, a paragraph that says what the
    violation means, and then, with an empty line before each:

        Programs:
        - PROGRAM, VERSION: what it does (where that is known from)

        Tell WHOM:
        A paragraph that can be copied into a report.

        No peer: why no peer of `shimproxy misbehave` does it, if none does

        Example: NAME, a dialogue in shimproxy/transcripts

    No program is named for what has not been seen. Nothing says what makes a program crash, hang, or obey a mail.
    """

    __slots__ = ("by", "name", "repair", "rule")

    def __init__(self, name: str, *, by: By, rule: str, repair: str) -> None:
        """Declare one.

        Args:
            name: as it is in logs, session records and metrics.
            by: who does it.
            rule: which rule it breaks: the RFC with its sections.
            repair: what shimproxy does about it, in a line.
        """
        self.name, self.by, self.rule, self.repair = name, by, rule, repair

    if TYPE_CHECKING:  # the attribute of `Violation` that has its name is the member

        def __get__(self, instance: object, owner: type[_Owner]) -> _Owner: ...
