"""The certificates of a shimproxy that runs: files that have changed since they were read, and certificates that age.

Invariants:

1. What is to be said of a file is said when it is noticed, and once a day as long as it is so.
2. Files are loaded once they stay the same from one look to the next: a renewal writes several, one after the other.
3. Files that could not be used are tried again when they change again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

from shimproxy.observe.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.daemon.in_force import SettingsInForce
    from shimproxy.observe.journal import Journal

_LOOK_SECONDS: Final = 10.0
_DAY_SECONDS: Final = 86_400.0


@attrs.define(eq=False)
class CertificateWatch:
    """Looks at the files of the settings in force, every few seconds."""

    _in_force: SettingsInForce
    _journal: Journal
    _load: Callable[[], None]
    """Has the files loaded, as soon as that can be."""
    _changed: dict[str, bytes] = attrs.field(factory=dict)
    """The files that were not as they were read, at the last look."""
    _tried: dict[str, bytes] = attrs.field(factory=dict)
    """Those that were to be loaded."""
    _said_at: dict[str, float] = attrs.field(factory=dict)
    """What was said -> when."""

    async def run(self) -> None:
        """Look, until cancelled."""
        self._say_ages(already=True)
        while True:
            await trio.sleep(_LOOK_SECONDS)
            if self._in_force.settings is not None:
                self.look()

    def look(self) -> None:
        """Compare the files with what was read of them, and have them loaded or say so."""
        settings = self._in_force.settings
        assert settings is not None
        before, changed = self._changed, self._in_force.sources.changed_files()
        self._changed = changed
        is_new = changed == before and changed != self._tried
        if settings.reload_certificates and changed and is_new:
            self._tried = changed
            self._load()
        elif changed == before and (not settings.reload_certificates or changed == self._tried):
            for file in changed:
                mend = "SIGHUP loads it" if not settings.reload_certificates else "the log says why it is not used"
                self._say(Event.FILE_CHANGED, file, f"{file} has changed since it was loaded; {mend}")
        self._say_ages()

    def _say_ages(self, *, already: bool = False) -> None:
        """Say which certificates expire soon, or have expired; `already` if the start has said so."""
        settings = self._in_force.settings
        if not (settings and settings.has_certificates):
            return
        from datetime import UTC, datetime

        from shimproxy.service.certificates import certificates_of

        now = datetime.now(UTC)
        for each in certificates_of(settings):
            problem = each.problem(now)
            if said := problem or each.warning(now):
                key = f"{'problem' if problem else 'warning'} {each.file}"
                if already and not problem:
                    self._said_at[key] = trio.current_time()
                else:
                    self._say(Event.CERTIFICATE, str(each.file), said, key)

    def _say(self, event: Event, file: str, message: str, key: str = "") -> None:
        now, key = trio.current_time(), key or f"changed {file}"
        if now - self._said_at.get(key, -_DAY_SECONDS) >= _DAY_SECONDS:
            self._said_at[key] = now
            self._journal.tell(event, file=file, message=message)
