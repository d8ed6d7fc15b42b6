"""How the receiver of a session is chosen, where there are several: what receivers.py goes by, and operators set."""

from __future__ import annotations

import enum
from typing import Final

REST_SECONDS: Final = 30.0
"""For how long a receiver that was of no use is tried last."""


class Balance(enum.StrEnum):
    """Which of several receivers a session goes to."""

    FIRST = "first"
    """The first one that is of use."""
    ROUND_ROBIN = "round-robin"
    """Each in its turn."""
