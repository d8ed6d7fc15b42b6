"""The certificates for senders, and how long they hold: an error once they do not, a warning two weeks before.

What counts is what was read of the file when the settings were adopted, as sessions get that. Only processes that show
a certificate import this: datetime takes half a MiB.
"""

from __future__ import annotations

import binascii
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.certificate import Certificate, CertificateInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shimproxy.config.settings import Settings

SOON_DAYS: Final = 14
_BLOCK: Final = re.compile(
    rb"^-----BEGIN (|X509 |TRUSTED )CERTIFICATE-----(.*?)^-----END \1CERTIFICATE-----", re.M | re.S
)
"""As OpenSSL finds it: at the beginning of a line, and by any of these names."""


@attrs.frozen
class SendersCertificate:
    """A certificate that senders are shown."""

    file: Path
    setting: str
    """What the operator calls the setting that names it."""
    not_before: datetime
    not_after: datetime

    def problem(self, now: datetime) -> str:
        """Why it can't be used now, if it can't."""
        where = f"{self.setting}: {self.file}"
        if now >= self.not_after:
            return f"{where}: the certificate expired on {self.not_after:%Y-%m-%d at %H:%M} UTC; renew it"
        if now < self.not_before:
            return (
                f"{where}: the certificate holds from {self.not_before:%Y-%m-%d at %H:%M} UTC on; wait until then, or "
                "correct the clock"
            )
        return ""

    def warning(self, now: datetime) -> str:
        """That it expires soon, if it does."""
        days = (self.not_after - now).days
        if self.problem(now) or days >= SOON_DAYS:
            return ""
        left = "today" if not days else "in 1 day" if days == 1 else f"in {days} days"
        return f"{self.setting}: {self.file}: the certificate expires {left}, on {self.not_after:%Y-%m-%d}; renew it"


def certificates_of(settings: Settings) -> list[SendersCertificate]:
    """Those that can be read, each once: of all listeners, and the one that most have."""
    found: dict[Path, SendersCertificate] = {}
    for its in (settings, *map(settings.of, settings.listen)):
        file = its.certificate
        if file is not None and file not in found:
            try:
                octets = its.files_read[file] if file in its.files_read else file.read_bytes()
                certificate = Certificate.parse(binascii.a2b_base64(_BLOCK.findall(octets)[0][1]))
            except (OSError, IndexError, ValueError, CertificateInvalid):
                continue  # whoever makes a context of it says why
            found[file] = SendersCertificate(
                file, its.named("certificate"), certificate.not_before, certificate.not_after
            )
    return [*found.values()]


def problems_of_age(settings: Settings) -> list[str]:
    """Those that do not hold now."""
    now = datetime.now(UTC)
    return [problem for each in certificates_of(settings) if (problem := each.problem(now))]


def warnings_of_age(settings: Settings) -> Iterator[str]:
    """Those that expire soon."""
    now = datetime.now(UTC)
    for each in certificates_of(settings):
        if warning := each.warning(now):
            yield warning
