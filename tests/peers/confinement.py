"""Where a program runs that must not have, see or change what the tests may: a root of its own, and another user.

Both are for a process in a mount namespace of its own (unshare --mount); what is made there goes with it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import shimproxy
from tests.peers.processes import need

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE: Final = Path(shimproxy.__file__).parent


def as_user(user: str, group: str, capability: str = "") -> list[str]:
    """What a command line begins with for a user with that capability alone, as net_raw, or with none."""
    sets = "-all" + (f",+{capability}" if capability else "")
    only = [f"--{each}={sets}" for each in ("inh-caps", "ambient-caps", "bounding-set")]
    setpriv = need("setpriv")
    return [setpriv, f"--reuid={user}", f"--regid={group}", "--clear-groups", *only, "--no-new-privs", "--"]


def root_of(folder: Path, shown: Sequence[Path]) -> list[list[str]]:
    """Commands that make a root for a container: what is shown, read-only, and /proc and /dev.

    Directories above are made anew, so that a user may pass who may not outside.
    """
    root = str(folder)
    commands = [["mount", "-t", "tmpfs", "-o", "mode=755", "root", root], ["mkdir", f"{root}/proc", f"{root}/dev"]]
    for path in shown:
        if path.is_symlink():
            commands.append(["cp", "-P", str(path), f"{root}{path}"])
        else:
            commands.append(["mkdir", "-p", f"{root}{path}"])
            commands.append(["mount", "--bind", "-o", "ro", str(path), f"{root}{path}"])
    return [
        *commands,
        ["mount", "-t", "proc", "proc", f"{root}/proc"],
        ["mount", "--rbind", "/dev", f"{root}/dev"],
        ["mount", "-o", "remount,ro", root],
    ]


def shown_from(*more: Path) -> list[Path]:
    """The interpreter of the tests, what it needs of the system, the package, and more; none twice."""
    system = [path for name in ("usr", "bin", "sbin", "lib", "lib64", "etc") if (path := Path("/", name)).exists()]
    wanted = dict.fromkeys([*system, Path(sys.base_prefix), Path(sys.prefix), PACKAGE, *more])
    return [path for path in wanted if not any(path.is_relative_to(other) for other in wanted if other != path)]
