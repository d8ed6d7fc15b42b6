"""Packages of Debian, PyPI and npm: how each is installed in an overlay, and which version of which day that was."""

from __future__ import annotations

import datetime
import email.utils
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import attrs

HOME: Final = Path("/atlas")
"""Where PyPI's and npm's packages are installed, inside."""
PYTHON: Final = str(HOME / "bin" / "python")
MODULES: Final = HOME / "node_modules"

# pip prints no dates: its own finder knows them where the index tells (PEP 700).
_RELEASED = """
import sys
from pip._internal.commands.index import IndexCommand

class Released(IndexCommand):
    def run(self, options, args):
        with self._build_session(options) as session:
            finder = self._build_package_finder(options, session)
            for each in finder.find_all_candidates(args[0]):
                if str(each.version) == args[1] and each.link.upload_time:
                    print(each.link.upload_time.date())
        return 0

sys.exit(Released("released", "").main(sys.argv[1:]))
"""


@attrs.frozen
class Package:
    """What is installed for a program: the first package is the program's own."""

    registry: str
    """Debian, PyPI or npm."""
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.registry} {self.names[0]}"

    def install(self) -> None:
        """Install it, inside."""
        HOME.mkdir(exist_ok=True)
        if self.registry == "Debian":
            _said("apt-get", "-qq", "update")
            _said("apt-get", "-qq", "install", "-y", "--no-install-recommends", *self.names)
        elif self.registry == "PyPI":
            _said(sys.executable, "-m", "venv", str(HOME))
            _said(PYTHON, "-m", "pip", "-q", "install", "--upgrade", "pip", *self.names)
        else:
            _said("npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(HOME), *self.names)

    def version(self) -> str:
        """Which version is installed."""
        name = self.names[0]
        if self.registry == "Debian":
            return _said("dpkg-query", "-W", "-f", "${Version}", name)
        if self.registry == "PyPI":
            program = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
            return _said(PYTHON, "-c", program, name.partition("==")[0])
        return str(json.loads((MODULES / name.partition("@")[0] / "package.json").read_text())["version"])

    def released(self) -> str:
        """The day on which this version was released, as in 2026-11-20; empty if nobody says."""
        name, version = self.names[0], self.version()
        if self.registry == "Debian":
            package = _said("dpkg-query", "-W", "-f", "${Package}", name)
            for path in sorted(
                Path("/usr/share/doc", package).glob("changelog.Debian*.gz"), key=lambda each: len(each.name)
            ):
                text = subprocess.run(["zcat", path], capture_output=True, check=True).stdout
                date = subprocess.run(
                    ["dpkg-parsechangelog", "-l-", "-S", "Date"], input=text, capture_output=True, check=True
                ).stdout
                return str(email.utils.parsedate_to_datetime(date.decode().strip()).date())
            return ""
        if self.registry == "PyPI":
            return min(_said(PYTHON, "-c", _RELEASED, name.partition("==")[0], version).split(), default="")
        times = json.loads(_said("npm", "view", f"{name.partition('@')[0]}@{version}", "time", "--json"))
        return str(datetime.datetime.fromisoformat(times[version]).date())


def debian(*names: str) -> Package:
    """From Debian's repository, as this machine has it."""
    return Package("Debian", names)


def pypi(*names: str) -> Package:
    """From PyPI, into an environment of its own."""
    return Package("PyPI", names)


def npm(*names: str) -> Package:
    """From npm, into a folder of its own."""
    return Package("npm", names)


def _said(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stdout[-1500:]}{ended.stderr[-1500:]}")
    return ended.stdout.strip()
