"""What mail programs believe of each faulty receiver: `python -m tests.believes` measures it for docs/misbehave.md.

It wants Python's smtplib, aiosmtplib, swaks, curl, Node with nodemailer, and Go. A program that is missing has no
column. `SHIMPROXY_NODE_MODULES` names the folder in which `npm install nodemailer` was run. The table says what a
program told of its mail, never how it came to that.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.faulty.fault import FaultPlace
from shimproxy.faulty.mail import RECIPIENT, SENDER
from shimproxy.faulty.plan import Plan
from shimproxy.faulty.receivers import FAULTS
from shimproxy.faulty.receiving import HOST
from shimproxy.faulty.serving import serving_faults
from tests.faulty.test_misbehave import bound
from tests.pages import table, write
from tests.peers.mail import mail_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shimproxy.faulty.fault import Fault

PATIENCE_SECONDS: Final = 20.0
MAIL: Final = mail_of("4MB", 4_000_000)
LANES: Final = 4
_CODE: Final = re.compile(r"(?<![\d.])([245]\d\d)(?![\d.])")
_REFUSAL: Final = re.compile(r"^(?:<\*\*|<) ([45]\d\d)\b", re.MULTILINE)
"""A reply in what swaks and curl print of their dialogue."""

# Each prints one line: "delivered", or the error that it got.
_SMTPLIB: Final = """
import smtplib, sys
port, sender, recipient, mail = sys.argv[1:]
try:
    session = smtplib.SMTP("127.0.0.1", int(port))
    session.sendmail(sender, [recipient], open(mail, "rb").read())
    print("delivered")
except smtplib.SMTPRecipientsRefused as refused:
    print(*refused.recipients.values())
except smtplib.SMTPResponseException as refused:
    print(refused.smtp_code)
except Exception as error:
    print("error", type(error).__name__)
"""
_AIOSMTPLIB: Final = """
import asyncio, sys, aiosmtplib
port, sender, recipient, mail = sys.argv[1:]
async def main():
    try:
        await aiosmtplib.send(
            open(mail, "rb").read(), sender=sender, recipients=[recipient], hostname="127.0.0.1", port=int(port),
            start_tls=False, timeout=60,
        )
        print("delivered")
    except aiosmtplib.SMTPRecipientsRefused as refused:
        print(*(each.code for each in refused.recipients))
    except aiosmtplib.SMTPResponseException as refused:
        print(refused.code)
    except Exception as error:
        print("error", type(error).__name__)
asyncio.run(main())
"""
_NODEMAILER: Final = """
const [port, sender, recipient, mail] = process.argv.slice(2);
const nodemailer = require("nodemailer");
const to = nodemailer.createTransport({host: "127.0.0.1", port: Number(port), ignoreTLS: true});
const envelope = {from: sender, to: [recipient]};
to.sendMail({envelope, raw: require("fs").createReadStream(mail)}).then(
  () => { console.log("delivered"); process.exit(0); },
  (error) => { console.log(error.responseCode || "error " + error.code); process.exit(1); });
"""
_GO: Final = """
package main

import (
	"fmt"
	"net/smtp"
	"net/textproto"
	"os"
)

func main() {
	mail, _ := os.ReadFile(os.Args[4])
	err := smtp.SendMail("127.0.0.1:"+os.Args[1], nil, os.Args[2], []string{os.Args[3]}, mail)
	if err == nil {
		fmt.Println("delivered")
	} else if reply, is := err.(*textproto.Error); is {
		fmt.Println(reply.Code)
	} else {
		fmt.Println("error")
	}
}
"""


@attrs.frozen
class Program:
    """A sender that is a program."""

    name: str
    command: Callable[[int, str], list[str]]
    """How it is run, for a port and a file of mail."""
    environment: dict[str, str] = attrs.field(factory=dict)
    by_status: bool = False
    """Whether its exit status says whether the mail was delivered, and its output has the dialogue."""

    def believes(self, port: int, mail: str) -> str:
        """What it says of one mail."""
        try:
            ended = subprocess.run(
                self.command(port, mail),
                capture_output=True,
                timeout=PATIENCE_SECONDS,
                env=os.environ | self.environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "hung"
        said = (ended.stdout + ended.stderr).decode("latin-1")
        if self.by_status:
            said = "delivered" if ended.returncode == 0 else " ".join(_REFUSAL.findall(said)[:1])
        return _in_a_word(said)


def _in_a_word(said: str) -> str:
    if said.startswith("delivered"):
        return "delivered"
    if found := _CODE.search(said):
        return {"4": "deferred", "5": "refused", "2": "error"}[found[1][0]] + f" ({found[1]})"
    return "error"


def programs(folder: Path) -> Iterator[Program]:
    """Those that are here, each with its version; what they need is written into the folder."""
    who = [SENDER, RECIPIENT]

    def python(script: Path, port: int, mail: str) -> list[str]:
        return [sys.executable, str(script), str(port), *who, mail]

    def written(name: str, text: str) -> Path:
        file = folder / name
        file.write_text(text)
        return file

    yield Program(f"smtplib {sys.version_info[0]}.{sys.version_info[1]}", partial(python, written("s.py", _SMTPLIB)))
    try:
        version = importlib.metadata.version("aiosmtplib")
    except importlib.metadata.PackageNotFoundError:
        print("without aiosmtplib: pip install aiosmtplib", file=sys.stderr)
    else:
        yield Program(f"aiosmtplib {version}", partial(python, written("a.py", _AIOSMTPLIB)))
    if swaks := shutil.which("swaks"):

        def by_swaks(port: int, mail: str) -> list[str]:
            to = ["--server", HOST, "--port", str(port), "--from", SENDER, "--to", RECIPIENT]
            return [swaks, *to, "--data", f"@{mail}", "--silent", "1"]

        yield Program(f"swaks {_version([swaks, '--version'])}", by_swaks, by_status=True)
    if curl := shutil.which("curl"):

        def by_curl(port: int, mail: str) -> list[str]:
            to = [f"smtp://{HOST}:{port}/sender.example", "--mail-from", SENDER, "--mail-rcpt", RECIPIENT]
            return [curl, "-sv", *to, "-T", mail]

        yield Program(f"curl {_version([curl, '--version'])}", by_curl, by_status=True)
    modules = Path(os.environ.get("SHIMPROXY_NODE_MODULES", ".")) / "node_modules"
    if (node := shutil.which("node")) and (modules / "nodemailer").exists():
        script = str(written("n.js", _NODEMAILER))
        found = re.search(r'"version": "([^"]+)"', (modules / "nodemailer" / "package.json").read_text())
        assert found
        yield Program(
            f"nodemailer {found[1]}",
            lambda port, mail: [node, script, str(port), *who, mail],
            {"NODE_PATH": str(modules)},
        )
    else:
        print("without nodemailer: npm install nodemailer, and SHIMPROXY_NODE_MODULES=FOLDER", file=sys.stderr)
    if go := shutil.which("go"):
        binary = folder / "g"
        subprocess.run(
            [go, "build", "-o", str(binary), str(written("g.go", _GO))],
            check=True,
            env=os.environ | {"GOFLAGS": "-mod=mod", "GO111MODULE": "off"},
        )
        yield Program(
            f"Go net/smtp {_version([go, 'version'])}", lambda port, mail: [str(binary), str(port), *who, mail]
        )
    else:
        print("without Go: apt-get install golang-go", file=sys.stderr)


def _version(command: list[str]) -> str:
    said = subprocess.run(command, capture_output=True, check=True).stdout.decode("latin-1")
    found = re.search(r"\d+(?:\.\d+)+|\d{8}", said)
    return found[0] if found else ""


def _cell(fault: Fault, mail: str, program: Program) -> str:
    listener = bound()
    with serving_faults(Plan(shares=[(fault.name, 100.0)]), listener, lambda _: None) as receiver:
        return program.believes(receiver.port, mail)


def measured() -> str:
    """The table, in Markdown."""
    with tempfile.TemporaryDirectory() as name, concurrent.futures.ThreadPoolExecutor(LANES) as lanes:
        mail = Path(name) / "mail"
        mail.write_bytes(MAIL.text)
        known = list(programs(Path(name)))
        # A fault that only a sender with TLS or a login meets is left out, and so is a port that is closed.
        faults = [each for each in FAULTS.values() if not each.offers and FaultPlace.CONNECTION not in each.acts]
        rows = []
        for fault in faults:
            cells = list(lanes.map(partial(_cell, fault, str(mail)), known))
            print(fault.name, *cells, sep="; ", file=sys.stderr, flush=True)
            rows.append([f"`{fault.name}`", *cells])
    return "\n" + table(["receiver", *(each.name for each in known)], rows) + "\n"


def main() -> int:
    """Measure, and write it into the page; the exit status."""
    for page in write({"believes": measured()}):
        print(f"{page.name}: written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
