"""TLS contexts for both legs, made once and checked when they are made.

What a leg does with a context is leg.py's; who may go without TLS is the session's policy.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import ssl
import stat
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.errors import TlsFailed, TlsUnusable
from shimproxy.net.records import tls_reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shimproxy.net.leg import Leg

VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_NEED_LOWER_LEVEL = ("1.0", "1.1")
_DESCRIPTORS: Final = Path("/proc/self/fd")
NO_FILES: Final[Mapping[Path, bytes]] = {}
_FIN_ENDS_ONE_DIRECTION: Final = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
"""A peer that half-closes by FIN without close_notify can still be written to: else OpenSSL 3 answers that FIN by an
alert as soon as a read has met it, and writes nothing more. Older versions write on, and have no such option."""


def sender_context(
    certificate: Path,
    key: Path | None,
    least_version: str = "1.2",
    read: Mapping[Path, bytes] = NO_FILES,
    key_log: Path | None = None,
) -> ssl.SSLContext:
    """The context in which the shim is the TLS server of senders.

    What was `read` of a file before is used in its place. The keys of sessions go to `key_log`, if there is one.
    Below 1.2, OpenSSL's security level is lowered: old devices have no other ciphers. Raises TlsUnusable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | _FIN_ENDS_ONE_DIRECTION
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the operator knows, and has no choice
        context.minimum_version = VERSIONS[least_version]
    if least_version in _NEED_LOWER_LEVEL:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    try:
        with _found(certificate, read) as where, _found(key or certificate, read) as where_key:
            context.load_cert_chain(where, where_key, password=_no_password)
    except TlsUnusable:
        raise  # for want of a file
    except (ssl.SSLError, ValueError) as error:
        what = str(certificate) if key is None else f"{certificate} and {key}"
        raise TlsUnusable(
            f"{what}: no certificate with its key ({tls_reason(error)}); give a PEM file of the certificate with "
            "its chain, and its key without a password"
        ) from error
    _log_keys(context, key_log)
    return context


def client_context(authorities: str = "") -> ssl.SSLContext:
    """As ssl.create_default_context() makes it, but that it does not obey SSLKEYLOGFILE. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if authorities:
        context.load_verify_locations(authorities)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _log_keys(context: ssl.SSLContext, file: Path | None) -> None:
    """Have the keys of its sessions written to a file that nobody but this user can read. Raises TlsUnusable."""
    if file is None:
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except (OSError, ValueError) as error:
        raise TlsUnusable(f"{file}: {getattr(error, 'strerror', None) or error}; give a file to write to") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise TlsUnusable(f"{file}: others can read it, or it is another user's; remove it, or chmod 600 {file}")
        # That file and no other, whatever its name leads to by now; OpenSSL's callback needs a path.
        name = _DESCRIPTORS / str(descriptor)
        context.keylog_filename = str(name if name.exists() else file)
    finally:
        os.close(descriptor)


@attrs.frozen(kw_only=True)
class Verification:
    """How the receiver's certificate is checked."""

    name: str = ""
    """Whom the certificate must name, if not the host that was dialled; also what is asked for (SNI)."""
    authorities: Path | None = None
    """A file of CA certificates in PEM, instead of the system's."""
    fingerprint: bytes | None = None
    """The SHA-256 of the only certificate that is taken, whoever signed it."""
    required: bool = True
    """Whether it is checked at all."""


@attrs.frozen
class ReceiverSecurity:
    """TLS on receiver legs, with the shim as the client."""

    verification: Verification
    context: ssl.SSLContext

    @classmethod
    def make(
        cls, verification: Verification, read: Mapping[Path, bytes] = NO_FILES, key_log: Path | None = None
    ) -> ReceiverSecurity:
        """The context that checks as `verification` says, with what was `read` of files before. Raises TlsUnusable.

        The keys of sessions go to `key_log`, if there is one.
        """
        context = client_context()
        if not verification.required or verification.fingerprint:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif verification.authorities:
            try:
                with _found(verification.authorities, read) as where:
                    context = client_context(where)
            except ssl.SSLError as error:
                raise TlsUnusable(
                    f"{verification.authorities}: no CA certificates in it ({tls_reason(error)}); give a PEM file"
                ) from error
        context.options |= _FIN_ENDS_ONE_DIRECTION
        _log_keys(context, key_log)
        return cls(verification, context)

    async def secure(self, leg: Leg) -> None:
        """Go over to TLS on a receiver leg. Raises TlsFailed, DeadlinePassed, Interrupted."""
        await leg.secure(self.context, self.verification.name or leg.host)
        pinned = self.verification.fingerprint
        if pinned:
            assert isinstance(leg.sock, ssl.SSLSocket)
            found = hashlib.sha256(leg.sock.getpeercert(binary_form=True) or b"").digest()
            if not hmac.compare_digest(found, pinned):
                leg.broken = True
                raise TlsFailed(leg.name, f"the certificate's SHA-256 is {found.hex()}, which is not the pinned one")


def fingerprint(text: str) -> bytes:
    """The SHA-256 that `text` writes in hexadecimal, with colons or without. Raises TlsUnusable."""
    digits = text.removeprefix("SHA256:").removeprefix("sha256:").replace(":", "")
    try:
        octets = bytes.fromhex(digits)
    except ValueError:
        octets = b""
    if len(octets) != hashlib.sha256().digest_size:
        raise TlsUnusable(
            f"{text!r} is not a SHA-256 fingerprint: write 64 hexadecimal digits, as in the output of "
            "'openssl x509 -noout -fingerprint -sha256'"
        )
    return octets


@contextlib.contextmanager
def _found(file: Path, read: Mapping[Path, bytes]) -> Iterator[str]:
    """Where OpenSSL, which takes nothing but paths, finds what was read of a file; or the file. Raises TlsUnusable."""
    if file not in read or not _DESCRIPTORS.exists():  # a chroot may be without
        _check_readable(file)
        yield str(file)
        return
    descriptor = os.memfd_create("shimproxy")
    try:
        with open(descriptor, "wb", closefd=False) as copy:
            copy.write(read[file])
        yield str(_DESCRIPTORS / str(descriptor))
    finally:
        os.close(descriptor)


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise TlsUnusable(f"{file}: {error.strerror}; check the path and its permissions") from error


def _no_password() -> str:
    raise ValueError("the key has a password")
