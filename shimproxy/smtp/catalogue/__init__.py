"""The catalogue of violations: everything that shimproxy repairs, by one name each.

The names stand in logs, session records and docs/violations.md. The entries stand in the modules of this package, by
the part of a session that they belong to. Each has all that is said of a violation; `entry.py` says how it is written.
"""

from __future__ import annotations

import enum

from shimproxy.smtp.catalogue.commands import RepliesToCommands, SenderCommands
from shimproxy.smtp.catalogue.entry import CatalogueEntry
from shimproxy.smtp.catalogue.form import FormOfCommands, FormOfReplies
from shimproxy.smtp.catalogue.mail_data import MailData, RepliesToMailData
from shimproxy.smtp.catalogue.opening import ReceiversOpening, SendersOpening, StartOfTls


class Entries(
    RepliesToMailData,
    RepliesToCommands,
    FormOfReplies,
    ReceiversOpening,
    SendersOpening,
    SenderCommands,
    FormOfCommands,
    MailData,
    StartOfTls,
):
    """All entries, in the order of the page of violations: what receivers do comes first."""


class Violation(Entries, enum.Enum):
    """What a peer did that the RFC does not allow; the value is its name in logs."""

    by: str
    """Who does it: "receiver", "sender" or "receiver or sender"."""
    rule: str
    """The rule that it breaks: the RFC with its sections."""
    repair: str
    """What shimproxy does about it."""

    def __new__(cls, entry: CatalogueEntry) -> Violation:
        """The member that `entry` declares."""
        member = object.__new__(cls)
        member._value_ = entry.name
        member.by, member.rule, member.repair = entry.by, entry.rule, entry.repair
        return member

    def __str__(self) -> str:
        return str(self.value)

    # The type checker finds the names in the base class. An enumeration has only the members that its own body names.
    vars().update(
        {name: each for part in Entries.__bases__ for name, each in vars(part).items() if type(each) is CatalogueEntry}
    )
