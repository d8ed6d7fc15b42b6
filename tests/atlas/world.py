"""An overlay over this machine's files for each program: what is installed or written there stays there.

1. A program is installed with this machine's network, and runs without: loopback alone, in a namespace of its own.
2. Whatever it starts ends with it (a process namespace of its own).
3. The machine is called HOST there, so that no name of it comes into the data.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import attrs

HOST: Final = "host.example"
ROOT: Final = Path(__file__).parents[2]
"""The source tree, which is seen inside."""

_HOSTS: Final = f"127.0.0.1 {HOST} localhost\n::1 localhost\n"

_ENTER: Final = """
set -e
mkdir -p {upper} {work} {root}
mount -t overlay overlay -o lowerdir=/,upperdir={upper},workdir={work} {root}
cd {root}
{names}
printf '%s' {hosts} >etc/hosts
echo {host} >etc/hostname
echo {host} >etc/mailname
printf '#!/bin/sh\\nexit 101\\n' >usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mount -t tmpfs -o mode=1777 tmp tmp
for each in {shown}; do
  [ -e .$each ] && [ -n "$(ls .$each)" ] || {{ mkdir -p .$each; mount --rbind $each .$each; }}
done
hostname {host}
{network}
exec chroot . env {clean} HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH={path} {command}
"""


class NotHere(Exception):
    """A program could not be installed or run here: why."""


@attrs.frozen
class World:
    """The overlays, in a folder: NAME/installed for each program."""

    folder: Path

    def install(self, name: str) -> None:
        """Install a program, once. Raises NotHere."""
        ready = self._of(name) / "ready"
        if ready.exists():
            return
        said = self._enter(name, ["--install", name], is_installing=True)
        ready.write_text(said)

    def measure(self, name: str) -> str:
        """What the program does: JSON. Raises NotHere."""
        return self._enter(name, ["--measure", name], is_installing=False)

    def about(self, name: str) -> str:
        """Its version and the day of its release: JSON."""
        return (self._of(name) / "ready").read_text()

    def _of(self, name: str) -> Path:
        return self.folder / name.lower().replace(" ", "-").replace("/", "-").replace(":", "")

    def _enter(self, name: str, arguments: list[str], *, is_installing: bool) -> str:
        here = self._of(name)
        here.mkdir(parents=True, exist_ok=True)
        script = _ENTER.format(
            upper=here / "upper",
            work=here / "work",
            root=here / "root",
            hosts=shlex.quote(_HOSTS),
            host=HOST,
            shown=" ".join(dict.fromkeys(map(str, (ROOT, sys.prefix, sys.base_prefix)))),
            network="" if is_installing else "ip link set lo up",
            # Where nobody answers, nobody is waited for.
            names="cp /etc/resolv.conf etc/" if is_installing else "echo nameserver 127.0.0.1 >etc/resolv.conf",
            # How the registries are reached may stand in the environment.
            clean="" if is_installing else "-i",
            path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            command=shlex.join(
                ["sh", "-c", f"cd {ROOT} && exec {sys.executable} -m tests.atlas.inside " + shlex.join(arguments)]
            ),
        )
        # It ends if whoever waits for it is ended.
        alone = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--propagation=private",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
        ]
        command = [*alone, *([] if is_installing else ["--net", "--ipc"]), "bash", "-c", script]
        try:
            ended = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=900,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotHere("it did not end within 900 s") from None
        (here / ("install.log" if is_installing else "measure.log")).write_text(ended.stdout + ended.stderr)
        if ended.returncode:
            raise NotHere(
                (ended.stderr.strip() or ended.stdout.strip() or f"status {ended.returncode}").splitlines()[-1]
            )
        return ended.stdout
