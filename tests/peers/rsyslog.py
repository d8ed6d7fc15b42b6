"""An rsyslogd of the tests' own: it takes lines over UDP and TCP, and writes what it has made of each as JSON.

1. In the foreground, ended by its pid; it may be stopped and started again within the block, on the same ports.
2. It is Debian's, with its defaults but for where it listens and what it writes: lines of 8 KiB, control characters
   escaped, octets counted where a line begins with a number.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from shimproxy.faulty.receiving import HOST
from tests.peers.processes import accepts, end, free_port, need, poll

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIGURATION: Final = """
global(workDirectory="{folder}")
module(load="imudp")
module(load="imtcp")
module(load="mmjsonparse")
input(type="imudp" address="{host}" port="{port}")
input(type="imtcp" address="{host}" port="{port}")
template(name="line" type="list" option.jsonf="on") {{
    property(outname="facility" name="syslogfacility-text" format="jsonf")
    property(outname="severity" name="syslogseverity-text" format="jsonf")
    property(outname="version" name="protocol-version" format="jsonf")
    property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="program" name="app-name" format="jsonf")
    property(outname="process" name="procid" format="jsonf")
    property(outname="event" name="msgid" format="jsonf")
    property(outname="data" name="structured-data" format="jsonf")
    property(outname="by" name="inputname" format="jsonf")
    property(outname="text" name="msg" format="jsonf")
    property(outname="parsed" name="$!" format="jsonf")
}}
action(type="mmjsonparse" cookie="")
action(type="omfile" file="{folder}/lines" template="line")
"""


@attrs.frozen
class Line:
    """A line as rsyslogd has understood it."""

    facility: str
    severity: str
    version: str
    time: str
    host: str
    program: str
    process: str
    event: str
    """MSGID."""
    data: str
    by: str
    """The input that has taken it."""
    text: str
    """MSG."""
    parsed: dict[str, Any]
    """The keys and values in that, if it is JSON."""


@attrs.define(eq=False)
class Rsyslog:
    """An rsyslogd, and what it has written."""

    port: int
    """For datagrams and for connections."""
    _folder: Path
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        files = ["-f", str(self._folder / "rsyslog.conf"), "-i", str(self._folder / "pid")]
        log = (self._folder / "said").open("ab")
        with log:
            process = self._process = subprocess.Popen(
                [need("rsyslogd"), "-n", *files],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def is_ready() -> bool:
            assert process.poll() is None, self.said
            return accepts(self.port)

        poll(is_ready, "rsyslogd accepts connections")

    def stop(self) -> None:
        """End it; what it has taken is written then."""
        if self._process:
            end(self._process)
            self._process = None

    @property
    def said(self) -> str:
        """What it has complained of."""
        return (self._folder / "said").read_text()

    @property
    def lines(self) -> list[Line]:
        """Those of shimproxy, in the order in which they were written."""
        file = self._folder / "lines"
        text = file.read_text() if file.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        ours = [each for each in found if each["program"] == "shimproxy"]
        return [Line(**each | {"parsed": json.loads(each["parsed"] or "{}")}) for each in ours]

    def wrote(self, event: str, times: int = 1) -> list[Line]:
        """Those of an event, when there are so many."""

        def of_event() -> list[Line]:
            return [line for line in self.lines if line.event == event]

        poll(lambda: len(of_event()) >= times, f"{times} lines of {event} written")
        return of_event()


@contextlib.contextmanager
def rsyslog() -> Iterator[Rsyslog]:
    """An rsyslogd of its own, until the end of the block."""
    need("rsyslogd")
    folder = Path(tempfile.mkdtemp(prefix="shimproxy-rsyslog-"))
    running = Rsyslog(free_port(), folder)
    try:
        (folder / "rsyslog.conf").write_text(_CONFIGURATION.format(folder=folder, host=HOST, port=running.port))
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)
