"""All targets, by name."""

from __future__ import annotations

from typing import Final

from tests.fuzz import addresses, commands, control, mail_data, proxy_headers, records, replies, settings

TARGETS: Final = {
    target.name: target
    for family in (replies, commands, mail_data, proxy_headers, addresses, settings, records, control)
    for target in family.TARGETS
}
