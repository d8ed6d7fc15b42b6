"""What a client says to log in, by what the receiver offers (RFC 4954)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from shimproxy.smtp.command import Verb
from shimproxy.smtp.login import LoginDialogue, LoginGivenUp, login
from shimproxy.smtp.reply import ReplyReader

if TYPE_CHECKING:
    from shimproxy.smtp.reply import Reply

PLAIN = [b"AUTH PLAIN " + base64.b64encode(b"\0jos\xc3\xa9\0a secret")]
LOGIN = [b"AUTH LOGIN", base64.b64encode("josé".encode()), base64.b64encode(b"a secret")]


def challenge(text: bytes) -> Reply:
    reader = ReplyReader()
    reader.feed(b"334 " + text + b"\r\n")
    reply = reader.next_reply()
    assert reply
    return reply


def encoded(text: bytes) -> Reply:
    return challenge(base64.b64encode(text))


def lines_of(dialogue: LoginDialogue | None, *challenges: Reply) -> list[bytes]:
    """What is said, to these challenges."""
    if dialogue is None:
        return []
    said = [dialogue.begin()]
    for each in challenges:
        more = dialogue.answer(each)
        if more is None:
            break
        said.append(more)
    assert {command.verb for command in said} == {Verb.AUTH}
    return [command.line.removesuffix(b"\r\n") for command in said]


@pytest.mark.parametrize(
    ("mechanisms", "lines"),
    [
        (b"PLAIN", PLAIN),
        (b"login plain", PLAIN),
        (b"LOGIN CRAM-MD5 SCRAM-SHA-256", LOGIN),
        (b"XOAUTH2 OAUTHBEARER XPLAIN", []),
        (b"", []),
    ],
)
def test_the_first_mechanism_that_is_known_is_used(mechanisms: bytes, lines: list[bytes]) -> None:
    """PLAIN is one line; LOGIN asks for the name and the password, each with a 334, whatever that says."""
    dialogue = login(mechanisms, "josé", "a secret")

    assert lines_of(dialogue, challenge(b"VXNlcm5hbWU6"), challenge(b"?"), challenge(b"more")) == lines


def test_cram_md5_as_in_rfc_2195() -> None:
    said = lines_of(
        login(b"CRAM-MD5", "tim", "tanstaaftanstaaf"), encoded(b"<1896.697170952@postoffice.reston.mci.net>")
    )

    assert said == [b"AUTH CRAM-MD5", base64.b64encode(b"tim b913a602c7eda7a495b4e6e7334d3890")]


NONCE = "rOprNGfwEbeRWgbNEkqO"
BOTH = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = b",s=W22ZaJ0SNY7soEsUEjb6gQ=="
PROOF = b"c=biws," + BOTH + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
VERDICT = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_scram_as_in_rfc_7677() -> None:
    dialogue = login(b"CRAM-MD5 SCRAM-SHA-256", "user", "pencil", nonce=NONCE)
    assert dialogue
    assert not dialogue.proven

    said = lines_of(dialogue, encoded(BOTH + SALT + b",i=4096"), encoded(VERDICT))

    opening = b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=user,r=" + NONCE.encode())
    assert said == [opening, base64.b64encode(PROOF), b""]
    assert dialogue.proven


@pytest.mark.parametrize(
    "first",
    [
        b"",
        BOTH,
        BOTH + SALT,
        BOTH + SALT + b",i=many",
        BOTH + SALT + b",i=4095",
        BOTH + SALT + b",i=100001",
        BOTH + SALT + b",i=" + b"9" * 5000,
        BOTH + b",s=!,i=4096",
        b"r=" + NONCE.encode() + SALT + b",i=4096",
        b"r=another" + SALT + b",i=4096",
        b"m=x," + BOTH + SALT + b",i=4096",
    ],
)
def test_a_challenge_that_is_not_scrams_is_not_answered(first: bytes) -> None:
    """Nor one that asks for much work, or for little."""
    dialogue = login(b"SCRAM-SHA-256", "user", "pencil", nonce=NONCE)
    assert dialogue
    dialogue.begin()

    with pytest.raises(LoginGivenUp) as raised:
        dialogue.answer(encoded(first))
    assert len(str(raised.value)) < 100
    assert not dialogue.proven


def test_a_receiver_that_does_not_know_the_password_is_found_out() -> None:
    dialogue = login(b"SCRAM-SHA-256", "user", "pencil", nonce=NONCE)
    assert dialogue
    dialogue.begin()
    dialogue.answer(encoded(BOTH + SALT + b",i=4096"))

    with pytest.raises(LoginGivenUp, match="it does not know the password itself"):
        dialogue.answer(encoded(VERDICT.replace(b"6", b"7")))


def test_xoauth2_as_its_provider_has_it() -> None:
    """https://developers.google.com/workspace/gmail/imap/xoauth2-protocol"""
    token = "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"
    dialogue = login(b"PLAIN XOAUTH2", "someuser@example.com", token=token)
    error = b"eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIG1hYyIsInNjb3BlIjoiaHR0cHM6Ly9tYWlsLmdvb2dsZS5jb20vIn0K"
    assert dialogue

    said = lines_of(dialogue, challenge(error), challenge(b"more"))

    assert said == [
        b"AUTH XOAUTH2 dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRj"
        b"Mk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ==",
        b"",
    ]
    assert dialogue.reason == "status 401, scope https://mail.google.com/, schemes bearer mac"


def test_oauthbearer_goes_before_xoauth2() -> None:
    """A name is escaped as RFC 5801 section 4 has it, and the error is answered by ^A (RFC 7628 section 3.2.3)."""
    dialogue = login(b"XOAUTH2 OAUTHBEARER", "a,b=c", token="t")

    said = lines_of(dialogue, encoded(b'{"status":"invalid_token"}'))

    assert said == [b"AUTH OAUTHBEARER " + base64.b64encode(b"n,a=a=2Cb=3Dc,\1auth=Bearer t\1\1"), b"AQ=="]


def test_a_long_token_has_a_line_of_its_own() -> None:
    dialogue = login(b"XOAUTH2", "u", token="t" * 2000)

    said = lines_of(dialogue, challenge(b""))

    assert said == [b"AUTH XOAUTH2", base64.b64encode(b"user=u\1auth=Bearer " + b"t" * 2000 + b"\1\1")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (b"not json\r\n2026 ERROR forged", "not json\\r\\n2026 ERROR forged"),
        (b'{"status":"a\\nb \\u001b[1m"}', "status a\\nb \\x1b[1m"),
        (b'["t0ken"]', '["(secret)"]'),
        (b'{"error_description":"t0ken dDBrZW4="}', "error_description (secret) (secret)"),
        (b"x" * 1_000_000, "x" * 200),
        (b"[" * 100_000, "[" * 200),
        (b"{}", "{}"),
    ],
)
def test_what_a_provider_says_forges_no_line_and_has_no_token(error: bytes, reason: str) -> None:
    dialogue = login(b"XOAUTH2", "u", token="t0ken")
    assert dialogue
    dialogue.note_error(error)

    assert dialogue.reason == reason
