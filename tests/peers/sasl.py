"""Who a Postfix of the tests' own asks whether a login is right: Cyrus SASL or a Dovecot, each with files of its own.

A Postfix hands each line of AUTH to these and invents nothing: the challenges and the verdicts are theirs. What they
take is what its mechanism says, and nothing else.

1. `cyrus` is a library in smtpd: sasldb has the account, and no daemon runs.
2. `dovecot` is a Dovecot without mail protocols, whose auth process listens on a socket; ended by its pid.
3. Its tokens are JWTs (RFC 7519) that it validates itself, with a key in a folder: no provider is asked.
4. It answers at once after refusals too: else each address waits 2 s, 4 s, and up to 15 s before it is heard again.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import shutil
import tempfile
import time
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from tests.peers.processes import in_foreground, need, need_root, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shimproxy import Login

_REALM: Final = "sasl.example"
_ISSUER: Final = "https://issuer.example"
_HOUR_SECONDS: Final = 3600

_ASKED: Final = """
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = {realm}
smtpd_sasl_type = {kind}
smtpd_sasl_path = {path}
smtpd_tls_auth_only = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_client_auth_rate_limit = 0
"""

_CYRUS: Final = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasldb
mech_list: {mechanism}
"""

_DOVECOT: Final = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols =
ssl = no
auth_mechanisms = {mechanism}
auth_verbose = yes
auth_failure_delay = 0
auth_username_chars =
passdb {{
  driver = passwd-file
  mechanisms = plain cram-md5 scram-sha-256
  args = scheme=PLAIN {folder}/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {folder}/auth {{
    mode = 0666
  }}
}}
"""

_OAUTH2: Final = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
issuers = {issuer}
"""


@attrs.frozen
class Sasl:
    """How a Postfix asks whether a login is right."""

    main: str
    """Lines of its main.cf."""
    library: str = ""
    """Its sasl/smtpd.conf, beside main.cf: Debian's Postfix reads it there, whatever cyrus_sasl_config_path says."""


@contextlib.contextmanager
def cyrus(mechanism: str, account: Login) -> Iterator[Sasl]:
    """Cyrus SASL, until the end of the block, that knows one account, by that mechanism alone."""
    program = need("saslpasswd2")
    need_root()
    with _folder() as folder:
        database = folder / "sasldb"
        command = [program, "-p", "-c", "-f", str(database), "-u", _REALM, account.user]
        ended = run(command, given=account.secret.encode())
        assert ended.status == 0, ended.account
        shutil.chown(database, "postfix")
        asked = _ASKED.format(realm=_REALM, kind="cyrus", path="smtpd")
        yield Sasl(asked, _CYRUS.format(folder=folder, mechanism=mechanism))


@attrs.frozen
class Dovecot:
    """A Dovecot whose auth process answers a Postfix."""

    folder: Path
    _key: bytes

    @property
    def sasl(self) -> Sasl:
        """How a Postfix asks it."""
        return Sasl(_ASKED.format(realm=_REALM, kind="dovecot", path=self.folder / "auth"))

    @property
    def log(self) -> str:
        """Its log so far."""
        return (self.folder / "log").read_text()

    def token(self, user: str, lasts_seconds: int = _HOUR_SECONDS, *, about: str = "") -> str:
        """A token of its provider for that user, that expires so long after now; expired, if that is negative."""
        now = int(time.time())
        claims = {"iss": _ISSUER, "sub": user, "iat": now - _HOUR_SECONDS, "exp": now + lasts_seconds, "about": about}
        said = b".".join((_encoded({"typ": "JWT", "alg": "HS256"}), _encoded(claims)))
        return b".".join((said, _base64url(hmac.digest(self._key, said, "sha256")))).decode()


@contextlib.contextmanager
def dovecot(mechanism: str, account: Login) -> Iterator[Dovecot]:
    """A Dovecot of its own until the end of the block, that knows one account, by that mechanism alone."""
    program = need("dovecot")
    need_root()
    with _folder() as folder:
        running = Dovecot(folder, secrets.token_bytes(32))
        (folder / "users").write_text(f"{account.user}:{account.secret}\n")
        keys = folder / "keys" / "default" / "HS256"
        keys.mkdir(parents=True)
        (keys / "default").write_bytes(b64encode(running._key))
        (folder / "oauth2.conf").write_text(_OAUTH2.format(folder=folder, issuer=_ISSUER))
        configuration = folder / "dovecot.conf"
        configuration.write_text(_DOVECOT.format(folder=folder, mechanism=mechanism.lower()))
        with in_foreground([program, "-F", "-c", str(configuration)], (folder / "auth").exists):
            yield running


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="shimproxy-sasl-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _encoded(part: Mapping[str, object]) -> bytes:
    return _base64url(json.dumps(part).encode())


def _base64url(octets: bytes) -> bytes:
    return urlsafe_b64encode(octets).rstrip(b"=")
