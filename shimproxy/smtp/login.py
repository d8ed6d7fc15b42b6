"""AUTH as a client says it (RFC 4954): what is said to each challenge, with a password or with a token.

With a password: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login), and where neither is offered SCRAM-SHA-256 (RFC
5802, 7677) or CRAM-MD5 (RFC 2195), which do not say the password itself. With a token: OAUTHBEARER (RFC 7628), or
XOAUTH2, which providers had before that.

Invariants:

1. What is said of the secret goes into a command and nowhere else: no reason and no error has it.
2. Work that a challenge asks for has a bound.

It does not know whether a secret may be said on the connection.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Generator
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.smtp.command import Command, Verb
from shimproxy.smtp.shown import escaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.smtp.reply import Reply

AUTH: Final = b"AUTH"
"""The keyword whose parameters are the mechanisms."""
CONTINUES: Final = 334
DONE: Final = 235
_MOST_LINE_OCTETS: Final = 510
"""Without CRLF: an initial response that makes the command longer has a line of its own (RFC 4954 section 4)."""
_MOST_ITERATIONS: Final = 100_000
"""That a receiver may ask for: about 50 ms of CPU, in which no other session has any."""
_LEAST_ITERATIONS: Final = 4096  # RFC 7677 section 4
_MOST_SHOWN: Final = 200
_TOLD: Final = ("status", "error", "error_description", "scope", "schemes")
"""What of a provider's error goes into the log (RFC 7628 section 3.2.2, and what others add)."""

_Steps = Generator[bytes, bytes, None]
"""Yields each line that is said, and is sent the text of the challenge to it."""


class LoginGivenUp(Exception):
    """The receiver has said what no login can continue with; the text says what, for the log."""


@attrs.define(eq=False)
class LoginDialogue:
    """One login, line by line."""

    mechanism: str
    _steps: _Steps
    _secrets: tuple[str, ...]
    proven: bool = True
    """Whether the receiver has shown what it has to show: with SCRAM, that it knows the password, too."""
    reason: str = ""
    """Why a provider refuses the token, as far as it has said that."""

    def begin(self) -> Command:
        """What is said first."""
        return _said(next(self._steps))

    def answer(self, challenge: Reply) -> Command | None:
        """What is said to a 334; None if nothing can be. Raises LoginGivenUp."""
        text = challenge.octets.rstrip(b"\r\n").rpartition(b"\n")[2][4:]
        try:
            return _said(self._steps.send(text))
        except StopIteration:
            return None

    def note_error(self, error: bytes) -> None:
        """Keep what a provider says of a token that it refuses (RFC 7628 section 3.2.2), but for the token."""
        try:
            found = json.loads(error)
        except (ValueError, RecursionError):
            found = None
        told = {key: str(found[key]) for key in _TOLD if found.get(key)} if isinstance(found, dict) else {}
        shown = ", ".join(f"{key} {value}" for key, value in told.items()) or error.decode("latin-1")
        for secret in self._secrets:
            shown = shown.replace(secret, "(secret)")
        self.reason = escaped(shown.encode("utf-8", "replace"))[:_MOST_SHOWN]


def login(mechanisms: bytes, user: str, secret: str = "", *, token: str = "", nonce: str = "") -> LoginDialogue | None:
    """What is said to log in; None if no mechanism is known here.

    Args:
        mechanisms: those that the receiver offers, as its EHLO reply lists them.
        user: who logs in.
        secret: the password.
        token: what takes its place, if that is not empty.
        nonce: printable ASCII without a comma, another for each login, where SCRAM may be offered.
    """
    offered = mechanisms.upper().split()
    found: LoginDialogue

    def dialogue(mechanism: str, steps: _Steps, *, proven: bool = True) -> LoginDialogue:
        told = token or secret
        return LoginDialogue(mechanism, steps, (told, b64encode(told.encode()).decode()), proven)

    name, password = user.encode(), secret.encode()
    if token and b"OAUTHBEARER" in offered:
        message = b"n,a=%s,\1auth=Bearer %s\1\1" % (_escaped_name(name), token.encode())
        found = dialogue("OAUTHBEARER", _bearer(b"OAUTHBEARER", message, b"\1", lambda error: found.note_error(error)))
    elif token and b"XOAUTH2" in offered:
        message = b"user=%s\1auth=Bearer %s\1\1" % (name, token.encode())
        found = dialogue("XOAUTH2", _bearer(b"XOAUTH2", message, b"", lambda error: found.note_error(error)))
    elif token:
        return None
    elif b"PLAIN" in offered:
        found = dialogue("PLAIN", _plain(name, password))
    elif b"LOGIN" in offered:
        found = dialogue("LOGIN", _login(name, password))
    elif b"SCRAM-SHA-256" in offered:

        def prove() -> None:
            found.proven = True

        found = dialogue("SCRAM-SHA-256", _scram(name, secret, nonce.encode(), prove), proven=False)
    elif b"CRAM-MD5" in offered:
        found = dialogue("CRAM-MD5", _cram_md5(name, password))
    else:
        return None
    return found


def _plain(name: bytes, password: bytes) -> _Steps:
    yield from _opening(b"PLAIN", b"\0%s\0%s" % (name, password))


def _login(name: bytes, password: bytes) -> _Steps:
    yield b"AUTH LOGIN"
    yield b64encode(name)
    yield b64encode(password)


def _cram_md5(name: bytes, password: bytes) -> _Steps:
    challenge = _decoded((yield b"AUTH CRAM-MD5"))
    yield b64encode(b"%s %s" % (name, hmac.new(password, challenge, "md5").hexdigest().encode()))


def _bearer(mechanism: bytes, message: bytes, answer: bytes, note_error: Callable[[bytes], None]) -> _Steps:
    error = yield from _opening(mechanism, message)
    note_error(_decoded(error))
    yield b64encode(answer)  # then the refusal comes


def _scram(name: bytes, secret: str, nonce: bytes, prove: Callable[[], None]) -> _Steps:
    bare = b"n=%s,r=%s" % (_escaped_name(name), nonce)
    first = _decoded((yield from _opening(b"SCRAM-SHA-256", b"n,," + bare)))
    given = dict(each.partition(b"=")[::2] for each in first.split(b","))
    try:
        salt, iterations = b64decode(given[b"s"], validate=True), int(given[b"i"])
    except (KeyError, ValueError):
        raise LoginGivenUp("its challenge is not SCRAM") from None
    if not given.get(b"r", b"").startswith(nonce) or given[b"r"] == nonce or b"m" in given:
        raise LoginGivenUp("its challenge is not SCRAM")
    if not _LEAST_ITERATIONS <= iterations <= _MOST_ITERATIONS:
        raise LoginGivenUp(f"it asks for {iterations} iterations of SCRAM, and {_MOST_ITERATIONS} are the most")
    salted = _salted(unicodedata.normalize("NFKC", secret).encode(), salt, iterations)
    final = b"c=biws,r=" + given[b"r"]
    signed = b",".join((bare, first, final))
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    verdict = _decoded((yield b64encode(final + b",p=" + b64encode(proof))))
    expected = b64encode(hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256"))
    if not hmac.compare_digest(verdict.partition(b",")[0], b"v=" + expected):
        raise LoginGivenUp("it does not know the password itself")
    prove()
    yield b""


@functools.lru_cache(maxsize=8)
def _salted(password: bytes, salt: bytes, iterations: int) -> bytes:
    """The same for each session: a receiver has one salt for an account."""
    return hashlib.pbkdf2_hmac("sha256", password, salt, iterations)


def _opening(mechanism: bytes, response: bytes) -> Generator[bytes, bytes, bytes]:
    """Say AUTH with its initial response; what the challenge after it is."""
    encoded = b64encode(response)
    line = b"AUTH %s %s" % (mechanism, encoded)
    if len(line) <= _MOST_LINE_OCTETS:
        return (yield line)
    yield b"AUTH " + mechanism
    return (yield encoded)


def _decoded(challenge: bytes) -> bytes:
    """Raises LoginGivenUp."""
    try:
        return b64decode(challenge, validate=True)
    except ValueError:
        raise LoginGivenUp("its challenge is not base64") from None


def _escaped_name(name: bytes) -> bytes:
    """As a saslname (RFC 5801 section 4)."""
    return name.replace(b"=", b"=3D").replace(b",", b"=2C")


def _said(line: bytes) -> Command:
    return Command(Verb.AUTH, line + b"\r\n")
