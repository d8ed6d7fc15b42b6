"""How code that waits by blocking ends early: by signals that raise KeyboardInterrupt."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

TO_END: Final = (signal.SIGINT, signal.SIGTERM)
"""What asks a command to end."""


@contextlib.contextmanager
def interrupting(*signals: signal.Signals) -> Iterator[None]:
    """Meanwhile, these raise KeyboardInterrupt in the main thread, where this is."""
    previous = {each: signal.signal(each, signal.default_int_handler) for each in signals}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler or signal.SIG_DFL)
