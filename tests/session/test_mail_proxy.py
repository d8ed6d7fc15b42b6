"""nginx' mail proxy before shimproxy, configured as docs/identity.md has it, but for addresses."""

from __future__ import annotations

import contextlib
import functools
import re
import smtplib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from shimproxy.faulty.receiving import HOST, FaultyReceiver
from shimproxy.faulty.talk import Talk
from shimproxy.smtp.catalogue import Violation
from tests.blocks import blocks
from tests.peers import packages
from tests.peers.processes import free_port, missing, need, run, started
from tests.peers.shim import shim

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECONDS = 60
CONFIGURATION = """
load_module {module};
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/log;
events {{}}
mail {{
    server_name nginx.example;
    auth_http {host}:{auth_port}/;
    {server}
}}
"""


def of_page() -> str:
    """The server that the page has."""
    return blocks("identity", "nginx")["nginx"]


def mail_module(nginx: str) -> str:
    """Where nginx has its mail proxy."""
    (folder,) = re.findall(r"--modules-path=(\S+)", run([nginx, "-V"]).account)
    module = Path(folder) / "ngx_mail_module.so"
    if not module.exists():
        missing("nginx has no mail proxy", packages.line(packages.PROGRAMS["nginx"]))
    return str(module)


@contextlib.asynccontextmanager
async def mail_proxy(server: str, to_port: int, folder: Path) -> AsyncIterator[int]:
    """The port where nginx takes mail, for whom it is told over HTTP where that goes."""

    async def tell(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        where = f"Auth-Status: OK\r\nAuth-Server: {HOST}\r\nAuth-Port: {to_port}\r\n"
        await stream.send_all(b"HTTP/1.0 200 OK\r\n" + where.encode() + b"\r\n")
        await stream.aclose()

    nginx, port = need("nginx"), free_port()
    async with trio.open_nursery() as nursery:
        (auth,) = await nursery.start(functools.partial(trio.serve_tcp, host=HOST), tell, 0)
        file = folder / "nginx.conf"
        file.write_text(
            CONFIGURATION.format(
                module=mail_module(nginx),
                folder=folder,
                host=HOST,
                auth_port=auth.socket.getsockname()[1],
                server=server.replace("listen 25;", f"listen {HOST}:{port};"),
            )
        )
        with started([nginx, "-p", str(folder), "-c", str(file), "-e", str(folder / "log")], port):
            yield port
        nursery.cancel_scope.cancel()


def send(port: int) -> None:
    with smtplib.SMTP(HOST, port, timeout=SECONDS) as session:
        session.sendmail("<a@sender.example>", ["<b@receiver.example>"], b"Subject: x\r\n\r\ntext\r\n")


async def test_mail_passes_and_its_sender_is_known(tmp_path: Path) -> None:
    """As the page has it, with its network in --trust."""
    with trio.fail_after(SECONDS), FaultyReceiver(Talk.accept) as receiver:
        async with shim(receiver.port, trust=f"{HOST}/32") as between:
            async with mail_proxy(of_page(), between.port, tmp_path) as port:
                await trio.to_thread.run_sync(send, port)
            await between.watcher.sessions_ended()
    (record,) = between.watcher.ended_sessions
    assert (record.accepted, bool(record.via), between.watcher.repairs) == (1, True, [])
    assert len(receiver.seen.mails) == 1


@pytest.mark.parametrize("left_out", ["xclient off;", "--trust"])
async def test_what_is_lacking_is_in_the_log(left_out: str, tmp_path: Path) -> None:
    """nginx gives its sender a 451 that says nothing; here its XCLIENT, or its PROXY header, is named."""
    server = of_page()
    expected = Violation.NOT_SMTP
    if left_out != "--trust":
        server = server.replace(left_out, "").replace("proxy_protocol on;", "")
        expected = Violation.WITHHELD_COMMAND
    with trio.fail_after(SECONDS), FaultyReceiver(Talk.accept) as receiver:
        async with shim(receiver.port) as between:
            async with mail_proxy(server, between.port, tmp_path) as port:
                with pytest.raises(smtplib.SMTPException):
                    await trio.to_thread.run_sync(send, port)
            await between.watcher.sessions_ended()
    told = {repair.violation: repair.detail for repair in between.watcher.repairs}
    assert expected in told
    if expected is Violation.WITHHELD_COMMAND:
        assert told[expected] == {"verb": "XCLIENT"}
    assert receiver.seen.mails == []
