"""Variables of the environment that are no settings."""

from __future__ import annotations

from typing import Final

FILE_VARIABLE: Final = "SHIMPROXY_CONFIG"
"""Names the settings file where no flag does."""
