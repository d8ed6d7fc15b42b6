"""Garbage collection in a worker: only what is new is looked through, but for once an hour.

A collection stops all sessions. One of all objects takes 60 to 90 ms where 500 sessions have long traces, and CPython
has several of these a minute while such sessions come. They find nothing: a session that is over leaves no circle
(tests/session/test_trace.py), so that counting references has freed all of it. What the interpreter or a library
leaves in a circle while it is new is found as ever; what becomes one later, within the hour.
"""

from __future__ import annotations

import ctypes
import gc
import linecache
from contextlib import suppress
from typing import Final, NoReturn

import trio

_HOUR_SECONDS: Final = 3600.0


def _set_aside(phase: str, _: dict[str, int]) -> None:
    if phase == "stop":
        gc.freeze()  # as frozen objects go once nothing refers to them, this costs no memory


def give_back_memory() -> None:
    """Give the kernel back what a start has needed and nothing needs any more, as far as the C library can."""
    linecache.clearcache()  # attrs leaves the source of each method there that it makes
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


async def collect_what_is_new() -> NoReturn:
    """Have no collection look at an object twice, but for a whole one now, and one each hour, until cancelled."""
    gc.callbacks.append(_set_aside)
    try:
        while True:
            gc.unfreeze()
            gc.collect()
            await trio.sleep(_HOUR_SECONDS)
    finally:
        gc.callbacks.remove(_set_aside)
