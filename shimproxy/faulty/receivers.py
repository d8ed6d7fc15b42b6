"""All faulty receivers, by name: the modules that have some are loaded here."""

from __future__ import annotations

from shimproxy.faulty import early, form, opening, silence  # noqa: F401 - their receivers enter the table
from shimproxy.faulty.fault import FAULTS

__all__ = ["FAULTS"]
