"""The shim's own login at a receiver (RFC 4954), for a sender that can't: before anything else, and never told."""

from __future__ import annotations

import os
from base64 import b64encode
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from shimproxy import Login, Settings, SettingsError, Violation, cli
from shimproxy.help.explain import stage as stage_module
from shimproxy.net.errors import TlsFailed
from shimproxy.net.leg import Leg
from shimproxy.service.warnings import warnings_of
from shimproxy.session.own_login import TokenUnusable, token_in
from shimproxy.session.policy import Policy, ReceiverTls, SenderTls
from tests.config.test_settings import settings
from tests.memory import Stage, staged
from tests.peers.exim import exim
from tests.peers.processes import poll
from tests.peers.shim import shim
from tests.peers.tls import make_certificate
from tests.session.test_tls import delivered

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from shimproxy.net.tls import ReceiverSecurity

SECRET = "s3cret"
PLAIN = b"AUTH PLAIN " + b64encode(b"\0user\0s3cret") + b"\r\n"
POLICY = Policy(sender_tls=SenderTls.OFF, login=Login("user", SECRET, in_clear=True))


async def up_to_login(stage: Stage, offered: bytes) -> None:
    """The sender has said EHLO, and the receiver has answered the shim's own."""
    await stage.feed(stage.receiver, b"220 hello\r\n")
    await stage.feed(stage.sender, b"EHLO x\r\n")
    assert stage.receiver.written == b"EHLO x\r\n"
    stage.sender.written.clear()
    await stage.feed(stage.receiver, b"250-hi\r\n250 " + offered + b"\r\n")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_the_shim_logs_in_before_anything_is_forwarded(mechanism: str) -> None:
    """And AUTH is not offered any more; nothing of it is told, nor what the receiver says to it."""

    async def script(stage: Stage) -> None:
        await up_to_login(stage, b"AUTH LOGIN PLAIN" if mechanism == "PLAIN" else b"AUTH LOGIN")
        lines = [PLAIN] if mechanism == "PLAIN" else [b"AUTH LOGIN\r\n", b"dXNlcg==\r\n", b"czNjcmV0\r\n"]
        for line in lines:
            assert stage.receiver.written.endswith(line)
            assert not stage.sender.written
            last = line is lines[-1]
            await stage.feed(stage.receiver, b"235 welcome czNjcmV0\r\n" if last else b"334 czNjcmV0\r\n")
        assert stage.receiver.written.count(b"EHLO") == 1
        assert stage.sender.written == b"250 hi\r\n"
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        assert stage.receiver.written.endswith(b"MAIL FROM:<a@b>\r\n")

    stage = staged(script, policy=POLICY)
    told = repr((stage.account.dialogue, stage.account.repairs))
    assert stage.repaired == []
    assert "czNjcmV0" not in told
    assert ("sender", b"MAIL FROM:<a@b>\r\n") in stage.account.dialogue


@pytest.mark.parametrize(
    ("offered", "reply", "reason"),
    [
        (b"AUTH PLAIN", b"535 5.7.8 no\r\n", "reply 535"),
        (b"AUTH PLAIN", b"334 more\r\n", "reply 334"),
        (b"AUTH GSSAPI", b"", "neither PLAIN, LOGIN, SCRAM-SHA-256 nor CRAM-MD5 is offered"),
        (b"HELP", b"", "neither PLAIN, LOGIN, SCRAM-SHA-256 nor CRAM-MD5 is offered"),
    ],
    ids=str,
)
def test_a_login_that_fails_is_told_and_ends_the_session(offered: bytes, reply: bytes, reason: str) -> None:
    async def script(stage: Stage) -> None:
        await up_to_login(stage, offered)
        if reply:
            await stage.feed(stage.receiver, reply)
        assert stage.sender.written.startswith(b"421 login to the receiver failed")

    (repair,) = staged(script, policy=POLICY).account.repairs
    assert repair.violation is Violation.LOGIN_REFUSED
    assert repair.detail["reason"] == reason


def test_the_secret_is_not_sent_in_the_clear_unasked() -> None:
    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        assert stage.receiver.written == b"QUIT\r\n"
        assert b"\r\n421 login to the receiver failed" in stage.sender.written

    staged(script, policy=Policy(sender_tls=SenderTls.OFF, login=Login("user", SECRET)))


def test_a_leg_that_was_lost_over_tls_is_logged_in_at_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """And TLS is not tried again when the sender goes over to it: the second leg would be lost as well."""

    class Fails:
        async def secure(self, _leg: Leg) -> None:
            raise TlsFailed("receiver", "no")

    async def secured(self: Leg, _context: object) -> None:
        self.secured = True

    offer = b"250-hi\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n"

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        for reply in (offer, b"220 go\r\n", b"220 hello\r\n", offer):
            await stage.feed(stage.receiver, reply)
        assert len(stage.earlier_receivers) == 1
        assert PLAIN in stage.receiver.written
        await stage.feed(stage.receiver, b"235 welcome\r\n")
        monkeypatch.setattr(Leg, "secure", secured)
        await stage.feed(stage.sender, b"STARTTLS\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        await stage.feed(stage.sender, b"MAIL FROM:<a@b>\r\n")
        assert stage.receiver.written == b"EHLO x\r\n" + PLAIN + b"MAIL FROM:<a@b>\r\n"
        assert len(stage.earlier_receivers) == 1

    policy = Policy(
        sender_tls=SenderTls.STARTTLS,
        receiver_tls=ReceiverTls.OPPORTUNISTIC,
        receiver_security=cast("ReceiverSecurity", Fails()),
        login=Login("user", SECRET, in_clear=True),
        clear_allowed=True,
        sender_context=cast("ssl.SSLContext", object()),
    )
    staged(script, policy=policy)


def test_a_login_needs_tls_or_leave() -> None:
    with pytest.raises(SettingsError, match="login_user: shimproxy would send the secret without TLS"):
        settings(login_user="user", login_secret=SECRET)
    assert SECRET not in repr(settings(login_user="user", login_secret=SECRET, login_in_clear=True))
    assert SECRET not in repr(Login("user", SECRET))


def test_a_login_needs_a_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SHIMPROXY_LOGIN_SECRET", raising=False)
    given = ["run", "--listen", "127.0.0.1:0", "--receiver", "127.0.0.1:9", "--receiver-tls", "required"]
    given += ["--login", "user"]
    assert cli.main(given) == 2
    assert "--login: no secret; give one (--login-secret-file)" in capsys.readouterr().err
    assert cli.main([*given, "--login-secret-file", "/none"]) == 2
    assert "--login-secret-file: '/none': No such file" in capsys.readouterr().err


async def test_a_sender_that_knows_neither_tls_nor_auth_reaches_an_exim_that_requires_both(tmp_path: Path) -> None:
    """Without the login, the same receiver refuses its mail; with a wrong one, the shim does."""
    right = Login("user", SECRET)
    made = make_certificate(tmp_path)
    given: dict[str, Any] = {"receiver_tls": "required", "receiver_authorities": made.certificate}
    told: list[Violation] = []
    with trio.fail_after(60), exim(daemon=True, login=right, certificate=made) as receiver:
        verdicts: list[bytes] = []
        for user, secret in ((right.user, right.secret), ("", ""), (right.user, "wr0ng")):
            async with shim(receiver.port, **given, login_user=user, login_secret=secret) as between:
                verdicts.append(await delivered(between.port, "many"))
                await between.watcher.sessions_ended()
            told += [repair.violation for repair in between.watcher.repairs]
        await trio.to_thread.run_sync(poll, lambda: receiver.count("many") > 0, "a mail stored")
        assert receiver.count("many") == 1
        (taken,) = [line for line in receiver.log.splitlines() if " <= " in line]
    assert " P=esmtpsa " in taken
    assert " A=plain:user " in taken
    assert verdicts[0].startswith(b"250 OK id="), verdicts
    assert verdicts[1] == b"550 Administrative prohibition\r\n"
    assert verdicts[2].startswith(b"421 login to the receiver failed")
    assert told == [Violation.LOGIN_REFUSED]


@pytest.mark.once
@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "XOAUTH2"])
async def test_an_exim_that_offers_another_mechanism_alone(tmp_path: Path, mechanism: str) -> None:
    """With the right secret or token, and with a wrong one; the token is read again for each session."""
    right = Login("user", SECRET)
    made = make_certificate(tmp_path)
    file = tmp_path / "token"
    verdicts: list[bytes] = []
    given: dict[str, Any] = {"receiver_tls": "required", "receiver_authorities": made.certificate, "login_user": "user"}
    with trio.fail_after(60), exim(daemon=True, login=right, certificate=made, mechanism=mechanism) as receiver:
        if mechanism == "XOAUTH2":
            file.write_text(f"{SECRET}\n")
            async with shim(receiver.port, **given, login_token_file=file) as between:
                verdicts.append(await delivered(between.port, "many"))
                file.write_text("wr0ng\n")
                verdicts.append(await delivered(between.port, "many"))
                await between.watcher.sessions_ended(2)
        else:
            for secret in (SECRET, "wr0ng"):
                async with shim(receiver.port, **given, login_secret=secret) as between:
                    verdicts.append(await delivered(between.port, "many"))
                    await between.watcher.sessions_ended()
        (repair,) = between.watcher.repairs
        assert (repair.violation, repair.detail["reason"]) == (Violation.LOGIN_REFUSED, "reply 535")
    assert verdicts[0].startswith(b"250 OK id="), verdicts
    assert verdicts[1].startswith(b"421 login to the receiver failed"), verdicts


# -- tokens

TOKEN = "ya29.t0ken"


def token_policy(file: Path, *, in_clear: bool = False) -> Policy:
    return Policy(sender_tls=SenderTls.OFF, login=Login("user", "", in_clear, file))


def played_with_token(file: Path, script: Callable[[Stage], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A session whose receiver leg counts as one inside TLS."""

    monkeypatch.setattr(stage_module, "Leg", lambda *arguments, **more: _secured(Leg(*arguments, **more)))
    return staged(script, policy=token_policy(file))


def _secured(leg: Leg) -> Leg:
    leg.secured = leg.name == "receiver"
    return leg


ERROR = b64encode(b'{"status":"401","schemes":"bearer","scope":"https://mail.example/","jwt":"x","error":"ya29.t0ken"}')


@pytest.mark.parametrize(("mechanism", "answer"), [("XOAUTH2", b"\r\n"), ("OAUTHBEARER", b"AQ==\r\n")])
def test_a_provider_that_refuses_the_token_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str, answer: bytes
) -> None:
    """Its challenge is answered as the mechanism has it, and its reason is told, but for the token."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")

    async def script(stage: Stage) -> None:
        await up_to_login(stage, f"AUTH PLAIN {mechanism}".encode())
        assert stage.receiver.written.rpartition(b"EHLO x\r\n")[2].startswith(f"AUTH {mechanism} ".encode())
        await stage.feed(stage.receiver, b"334 " + ERROR + b"\r\n")
        assert stage.receiver.written.endswith(b"\r\n" + answer)
        await stage.feed(stage.receiver, b"535 5.7.8 no\r\n")
        assert stage.sender.written.startswith(b"421 login to the receiver failed")

    stage = played_with_token(file, script, monkeypatch)
    (repair,) = stage.account.repairs
    assert repair.detail["reason"] == (
        "reply 535: status 401, error (secret), scope https://mail.example/, schemes bearer"
    )
    told = repr((stage.account.dialogue, stage.account.repairs, stage.record.trace))
    assert TOKEN not in told
    assert ERROR.decode() not in told
    assert b64encode(f"user=user\1auth=Bearer {TOKEN}\1\1".encode()).decode() not in told


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "token: No such file or directory"),
        ("", "token: its first line is empty"),
        ("\nsecond", "token: its first line is empty"),
        ("a b", "token: not a token"),
        ("a\x01b", "token: not a token"),
        ("\u00e9", "token: not a token"),
        ("x" * 1_000_000, "token: not a token"),
    ],
)
def test_a_file_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, reason: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)

    async def script(stage: Stage) -> None:
        await up_to_login(stage, b"AUTH XOAUTH2")
        assert stage.sender.written.startswith(b"421 login to the receiver failed")

    (repair,) = played_with_token(file, script, monkeypatch).account.repairs
    assert repair.detail["reason"] == f"{tmp_path}/{reason}"
    (warning,) = [each for each in warnings_of(given_token(file)) if "login_token_file" in each]
    assert warning.startswith(f"login_token_file: {tmp_path}/{reason}; every session fails")


def given_token(file: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {"listen": "127.0.0.1:2525", "login_user": "u", "login_token_file": file}
    return Settings(**given, receiver="127.0.0.1:25", **{"receiver_tls": "required"} | more)


def test_a_pipe_that_is_never_written_to_keeps_no_session_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")

    with pytest.raises(TokenUnusable, match="its first line is empty"):
        token_in(tmp_path / "token")


def test_a_token_never_goes_in_the_clear(tmp_path: Path) -> None:
    """Whatever is set."""
    file = tmp_path / "token"
    file.write_text(TOKEN)

    async def script(stage: Stage) -> None:
        await stage.feed(stage.receiver, b"220 hello\r\n")
        await stage.feed(stage.sender, b"EHLO x\r\n")
        assert stage.sender.written.endswith(b"421 login to the receiver failed, closing connection\r\n")
        assert b"AUTH" not in stage.receiver.written

    staged(script, policy=token_policy(file, in_clear=True))
    with pytest.raises(SettingsError, match="login_token_file: a token never goes without TLS"):
        given_token(file, receiver_tls="off", login_in_clear=True)
    with pytest.raises(SettingsError, match="login_token_file: conflicts with login_secret; remove one of them"):
        given_token(file, login_secret="s")


@pytest.mark.parametrize("offered", [b"AUTH PLAIN LOGIN", b"HELP"])
def test_a_receiver_that_takes_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: bytes) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)

    async def script(stage: Stage) -> None:
        await up_to_login(stage, offered)

    (repair,) = played_with_token(file, script, monkeypatch).account.repairs
    assert repair.detail["reason"] == "neither OAUTHBEARER nor XOAUTH2 is offered"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"235 fine\r\n", "it has not shown that it knows the password"),
        (b"334 !\r\n", "its challenge is not base64"),
        (b"334 " + b64encode(b"r=x,s=c2FsdA==,i=4096") + b"\r\n", "its challenge is not SCRAM"),
    ],
)
def test_a_receiver_that_does_not_know_the_password_is_not_logged_in_at(reply: bytes, reason: str) -> None:
    async def script(stage: Stage) -> None:
        await up_to_login(stage, b"AUTH SCRAM-SHA-256")
        await stage.feed(stage.receiver, reply)
        assert stage.sender.written.startswith(b"421 login to the receiver failed")

    (repair,) = staged(script, policy=POLICY).account.repairs
    assert repair.detail["reason"] == reason
