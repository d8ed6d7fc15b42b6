"""Settings of TLS and of shimproxy's own login."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.config import converters, parsers
from shimproxy.net.tls import sender_context
from shimproxy.session.policy import Login, SenderTls
from shimproxy.session.setting import Group, setting

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from pathlib import Path

    from shimproxy.config.listener import Listener


@attrs.frozen(kw_only=True, slots=False)
class TlsSettings:
    """The part of Settings that is about TLS and the login, but for `receiver_tls` and `clear_allowed`."""

    sender_tls: SenderTls | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(SenderTls),
        metadata=setting(
            "sender-tls",
            Group.TLS,
            "TLS with senders: by STARTTLS; implicit, from the start; opaque, the receiver's own TLS, which shimproxy "
            "cannot read or repair; or off; default: starttls with cert, otherwise opaque if receiver-tls is off, "
            "otherwise off",
            choices=SenderTls,
        ),
    )
    """`Settings.sender_tls_used` is what None comes to."""
    certificate: Path | None = attrs.field(
        default=None,
        converter=converters.file,
        metadata=setting(
            "cert", Group.TLS, "the certificate for senders, with its chain, in PEM", metavar="FILE", file=True
        ),
    )
    key: Path | None = attrs.field(
        default=None,
        converter=converters.file,
        metadata=setting(
            "key", Group.TLS, "the certificate's key, if it is in another file", metavar="FILE", file=True
        ),
    )
    receiver_name: str = attrs.field(
        default="",
        metadata=setting(
            "receiver-name",
            Group.TLS,
            "the name that the receiver's certificate must have (default: the receiver's host)",
            metavar="NAME",
        ),
    )
    receiver_authorities: Path | None = attrs.field(
        default=None,
        converter=converters.file,
        metadata=setting(
            "receiver-ca",
            Group.TLS,
            "trust these CA certificates instead of the system's",
            metavar="FILE",
            file=True,
        ),
    )
    receiver_fingerprint: str = attrs.field(
        default="",
        metadata=setting(
            "receiver-fingerprint",
            Group.TLS,
            "accept only this receiver certificate, without a CA check",
            metavar="SHA256",
        ),
    )
    receiver_verified: bool | None = attrs.field(
        default=None,
        metadata=setting(
            "receiver-verify",
            Group.TLS,
            "check the receiver's certificate; default: yes, but not for opportunistic TLS without name, CA or "
            "fingerprint",
        ),
    )
    login_user: str = attrs.field(
        default="",
        metadata=setting(
            "login",
            Group.TLS,
            "log in to the receiver on behalf of senders that cannot",
            metavar="USER",
        ),
    )
    login_secret: str = attrs.field(
        default="",
        repr=False,
        metadata=setting("login-secret", Group.TLS, "the secret", secret=True)
        | setting(
            "login-secret-file",
            Group.TLS,
            "a file with the secret in its first line (default: SHIMPROXY_LOGIN_SECRET in the environment)",
            metavar="FILE",
            read=parsers.secret,
        ),
    )
    login_token_file: Path | None = attrs.field(
        default=None,
        converter=converters.file,
        metadata=setting(
            "login-token-file",
            Group.TLS,
            "log in with the OAuth 2.0 token in the first line of this file (OAUTHBEARER, XOAUTH2); shimproxy reads it "
            "for each session",
            metavar="FILE",
        ),
    )
    login_in_clear: bool = attrs.field(
        default=False, metadata=setting("login-in-clear", Group.TLS, "allow the login without TLS")
    )
    key_log: Path | None = attrs.field(
        default=None,
        converter=converters.file,
        metadata=setting(
            "key-log",
            Group.TLS,
            "write the keys of TLS sessions with senders and receivers into this file, to decrypt a capture of them "
            "(dangerous); only its owner may be able to read it",
            metavar="FILE",
        ),
    )
    """As NSS and Wireshark read it."""
    files_read: Mapping[Path, bytes] = attrs.field(factory=dict, repr=False)
    """What was read of the certificate, the key and the authorities before: it is used, whatever became of the file."""

    @property
    def login(self) -> Login | None:
        """The user and secret of shimproxy's own login, if it logs in."""
        return (
            Login(self.login_user, self.login_secret, self.login_in_clear, self.login_token_file)
            if self.login_user
            else None
        )

    def sender_context(self, listener: Listener) -> ssl.SSLContext | None:
        """The TLS of a listener's senders, if it is terminated here. Raises TlsUnusable."""
        if self.certificate is None:
            return None
        return sender_context(self.certificate, self.key, listener.least_tls, self.files_read, self.key_log)
