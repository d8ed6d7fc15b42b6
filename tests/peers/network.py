"""A network of a test's own, where every port is free and no packet leaves the machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from typing import TYPE_CHECKING, Final

from tests.peers.processes import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLONE_NEWNET: Final = 0x4000_0000


@contextlib.contextmanager
def own_network(*addresses: str) -> Iterator[None]:
    """A network of this thread's own, and of all that it starts; these addresses are there, beside loopback's."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(_CLONE_NEWNET):
            missing(f"no network of its own ({os.strerror(ctypes.get_errno())})", "run the tests as root")
        try:
            subprocess.run([need("ip"), "link", "set", "lo", "up"], check=True)
            for address in addresses:
                subprocess.run([need("ip"), "address", "add", address, "dev", "lo"], check=True)
            yield
        finally:
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0
