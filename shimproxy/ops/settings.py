"""What an operator can set, validated once.

The command line and an embedding program make the same Settings; defaults stand here and in session/limits.py.
"""

from __future__ import annotations

import math
import os
import socket
from itertools import chain
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.address import UnixPath
from shimproxy.net.dial import ANYWHERE, Source
from shimproxy.net.origin import Allowed
from shimproxy.net.receivers import REST_SECONDS, Balance
from shimproxy.net.tls import ReceiverSecurity, Verification, fingerprint, sender_context
from shimproxy.ops import values
from shimproxy.ops.listener import Listener, SettingsError, listeners
from shimproxy.ops.log_output import STANDARD_ERROR
from shimproxy.ops.record_files import Recording, RecordWhat
from shimproxy.ops.repeats import MOST_IN_A_WINDOW
from shimproxy.ops.values import Original, Receiver, known_beforehand
from shimproxy.session.limits import Deadlines, Limits, at_least, not_negative, positive
from shimproxy.session.policy import EarlyTalk, Login, ReceiverTls, SenderTls, Sizes
from shimproxy.session.replies import EARLY_SUCCESS
from shimproxy.smtp.newlines import Newlines
from shimproxy.smtp.tidy import is_possible_name

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from shimproxy.net.address import Endpoint, Network
    from shimproxy.net.proxy_header import Version


LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")
_SHARED: Final = ("sessions", "sessions_per_network", "connections_per_minute")
"""What counts over sessions, and so over the workers that serve them."""
_EARLY_SUCCESS: Final = EARLY_SUCCESS.enhanced.octets.decode().rstrip()


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that `serve` goes by. Addresses may be given as text, HOST:PORT.

    Raises AddressError, SettingsError or ValueError for what can't be used.
    """

    receiver: tuple[Receiver, ...] = attrs.field(default=(), converter=values.receivers, validator=values.is_dialable)
    """Where mail goes: the receiver's address, or several; or "original", each session where its sender wanted to. May
    be empty if every listener has its own."""
    listen: tuple[Listener, ...] = attrs.field(default=(), converter=listeners)
    """Where senders connect; port 0 takes a free one. May be empty if `serve` is given listeners."""
    balance: Balance = attrs.field(default=Balance.FIRST, converter=values.balance)
    """Which of several receivers a session goes to."""
    receiver_rest_seconds: float = attrs.field(default=REST_SECONDS, validator=not_negative)
    """How long a receiver that was of no use is the last to be tried."""
    source: tuple[str, ...] = attrs.field(default=(), converter=values.addresses)
    """The address that receiver legs leave from, of IPv4, of IPv6 or one of both; if empty, the kernel's choice."""
    spoof_sender: bool = False
    """Whether they leave from the sender's own address, as TPROXY makes it possible."""
    allow_destination: tuple[Allowed, ...] = attrs.field(default=(Allowed(),), converter=values.allowed)
    """Where sessions may go if the receiver is the original destination."""
    trust: tuple[Network, ...] = attrs.field(default=(), converter=values.networks)
    """Networks whose connections begin with a PROXY header, which says who the sender is."""
    send_proxy: Version | None = attrs.field(default=None, converter=values.version)
    """The PROXY header that connections to the receiver begin with, "v1" or "v2", if any."""
    xclient: bool = False
    """Whether a receiver that offers XCLIENT is told who the sender is."""
    early_talk: EarlyTalk = attrs.field(default=EarlyTalk.HOLD, converter=values.early_talk)
    """What becomes of senders that speak before the greeting: "hold" what they say, or "refuse" them."""
    newlines: Newlines = attrs.field(default=Newlines.NORMALISE, converter=values.newlines)
    """What becomes of bare CR, bare LF and NUL in commands and mail data."""
    max_size: int | None = attrs.field(default=None, validator=attrs.validators.optional(at_least(1)))
    """The largest mail that is let through, in octets as RFC 1870 counts them."""
    max_size_by_domain: Mapping[str, int] = attrs.field(factory=dict)
    """The same for recipients in a domain, instead of `max_size`; of several recipients, the smallest counts."""
    tidy: bool = False
    """Whether commands that strict receivers refuse for their form are put in order."""
    helo_name: str = attrs.field(default="", validator=values.is_possible)
    """With `tidy`: what stands in for a sender's name that can't be one; if empty, this machine's."""
    sender_tls: SenderTls | None = attrs.field(default=None, converter=values.sender_tls)
    """What is done about TLS on sender legs; see `sender_tls_used` for what None comes to."""
    certificate: Path | None = attrs.field(default=None, converter=values.file)
    """A PEM file with the certificate that senders are shown, and its chain."""
    key: Path | None = attrs.field(default=None, converter=values.file)
    """A PEM file with its key, if that is not in the same."""
    receiver_tls: ReceiverTls = attrs.field(default=ReceiverTls.OFF, converter=values.receiver_tls)
    """What is done about TLS on receiver legs."""
    receiver_name: str = ""
    """Whom the receiver's certificate must name, if not the host that is dialled."""
    receiver_authorities: Path | None = attrs.field(default=None, converter=values.file)
    """A PEM file with the CA certificates that are trusted with it, instead of the system's."""
    receiver_fingerprint: str = ""
    """The SHA-256 of its certificate in hexadecimal: that one is taken, whoever signed it, and no other."""
    receiver_verified: bool | None = None
    """Whether its certificate is checked; None: unless TLS is opportunistic and nothing is said of the certificate."""
    login_user: str = ""
    """As whom the shim logs in at the receiver, for senders that can't; if empty, it does not."""
    login_secret: str = attrs.field(default="", repr=False)
    """And with what."""
    login_in_clear: bool = False
    """Whether also without TLS."""
    clear_allowed: bool = False
    """Whether the mail of a sender that used TLS may go to the receiver in the clear."""
    resume: bool | None = None
    """Whether a sender whose receiver has gone finds a fresh connection with its next command, instead of 421; None: if
    its last mail was refused."""
    lmtp: bool = False
    """Whether senders and the receiver speak LMTP (RFC 2033): LHLO, and a reply for each recipient of a mail."""
    pipelining: bool = True
    """Whether PIPELINING is offered where the receiver offers it (RFC 2920)."""
    deadlines: Deadlines = attrs.field(factory=Deadlines)
    limits: Limits = attrs.field(factory=Limits)
    sessions: int = attrs.field(default=10_000, validator=at_least(1))
    """How many sessions at a time; further senders get a 421."""
    admin: str = attrs.field(default="", validator=values.is_admin_address)
    """Where `shimproxy run` answers for figures, health and the status page, HOST:PORT or unix:PATH; or nowhere."""
    sessions_per_network: int = attrs.field(default=0, validator=at_least(0))
    """How many of them with senders of one network; 0 for any number, as all senders may be one relay."""
    connections_per_minute: int = attrs.field(default=0, validator=at_least(0))
    """How many connections a network may make within a minute, at once or one after the other; 0 for any number."""
    ipv4_prefix: int = attrs.field(default=32, validator=values.is_prefix(32))
    """How many bits of a sender's IPv4 address say which network it is in; with 32, each address is one."""
    ipv6_prefix: int = attrs.field(default=64, validator=values.is_prefix(128))
    """The same of an IPv6 address; 64 bits are the least that a site has, and a host can use all the others."""
    workers: int = attrs.field(default=1, validator=at_least(0))
    """How many processes `shimproxy run` serves with; 0 for one a CPU."""
    grace_seconds: float = attrs.field(default=30.0, validator=not_negative)
    """How long open transactions may go on after the first signal to stop."""
    log_level: str = attrs.field(default="info", validator=attrs.validators.in_(LOG_LEVELS))
    """What `shimproxy run` logs: "debug", "info", "warning" or "error"."""
    log_format: str = attrs.field(default="text", validator=attrs.validators.in_(LOG_FORMATS))
    """And how: "text" or "json"."""
    log_to: str = attrs.field(default=STANDARD_ERROR, validator=values.is_log)
    """And where: "stderr", "syslog", or "syslog:PATH" for a socket other than /dev/log."""
    log_repeats: int = attrs.field(default=MOST_IN_A_WINDOW, validator=at_least(0))
    """How many repairs of one kind and receiver are logged in ten seconds; the rest is counted. 0: all of them."""
    early_success: str = attrs.field(
        default=EARLY_SUCCESS.enhanced.octets.decode().rstrip(), validator=values.is_refusal
    )
    """What answers mail data that the receiver accepted before its end."""

    trace: bool = False
    """Whether each session's record has a trace of it (`SessionRecord.trace`); with `record` it has anyway."""
    record: Path | None = attrs.field(default=None, converter=values.file)
    """The directory where sessions are kept as files, if they are; it is made if it is not there."""
    record_what: RecordWhat = attrs.field(default=RecordWhat.REPAIRED, converter=values.record_what)
    """Which sessions are kept."""
    record_most_octets: int = attrs.field(default=100 * 1024 * 1024, validator=at_least(1))
    """How large all their files may be together; the oldest go first."""
    record_days: float = attrs.field(default=14.0, validator=positive)
    """How old one may become."""
    record_mail_data: bool = False
    """Whether the first 64 KiB of a session's mail data are kept with it."""
    files_read: Mapping[Path, bytes] = attrs.field(factory=dict, repr=False)
    """What was read of the certificate, the key and the authorities before: it is used, whatever became of the file."""

    @property
    def recording(self) -> Recording | None:
        """What is kept of sessions in files, if anything."""
        if self.record is None:
            return None
        return Recording(
            directory=self.record,
            what=self.record_what,
            most_octets=self.record_most_octets,
            days=self.record_days,
            mail_data=self.record_mail_data,
        )

    @property
    def sender_tls_used(self) -> SenderTls:
        """What `sender_tls` comes to: starttls with a certificate; else opaque, or off if the shim makes TLS itself."""
        if self.sender_tls is not None:
            return self.sender_tls
        if self.certificate:
            return SenderTls.STARTTLS
        own = self.receiver_tls is not ReceiverTls.OFF or bool(self.login_user)
        return SenderTls.OFF if own else SenderTls.OPAQUE

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The receivers that are known beforehand."""
        return known_beforehand(self.receiver)

    @property
    def goes_to_original(self) -> bool:
        """Whether sessions go where their senders wanted to."""
        return Original.DESTINATION in self.receiver

    @property
    def sender_tls_of_all(self) -> tuple[SenderTls, ...]:
        """What is done about TLS on sender legs, at any listener."""
        its = [self.of(listener) for listener in self.listen] or [self]
        return tuple(dict.fromkeys(each.sender_tls_used for each in its))

    @property
    def receivers_of_all(self) -> tuple[Receiver, ...]:
        """With those of single listeners."""
        own = chain.from_iterable(self.of(listener).receiver for listener in self.listen if listener.own)
        return tuple(dict.fromkeys((*self.receiver, *own)))

    @property
    def source_used(self) -> Source:
        """What `source` comes to."""
        families = {socket.AF_INET6 if ":" in each else socket.AF_INET: (each, 0) for each in self.source}
        return Source(families) if families else ANYWHERE

    def of(self, listener: Listener) -> Settings:
        """What the senders of a listener go by. Raises SettingsError and the like."""
        return attrs.evolve(self, listen=(), **listener.own) if listener.own else self

    def __attrs_post_init__(self) -> None:
        if problems := [*self._problems()]:
            raise SettingsError(*problems)

    def _problems(self) -> Iterator[str]:
        """What does not go together."""
        used = self.sender_tls_used
        terminated = used in (SenderTls.STARTTLS, SenderTls.IMPLICIT)
        in_clear = self.receiver_tls is ReceiverTls.OFF
        if terminated and self.certificate is None:
            yield f"sender_tls: {used} needs a certificate; give one with its key (--cert, --key)"
        if not terminated and self.certificate is not None:
            yield f"certificate: sender_tls is {used}, which shows none; leave it away, or say starttls"
        if self.record_mail_data and self.record is None:
            yield "record_mail_data: there is no directory to keep them in; give one (--record)"
        if self.key is not None and self.certificate is None:
            yield "key: there is no certificate that it belongs to; give one (--cert)"
        if used is SenderTls.OPAQUE and (not in_clear or self.login_user):
            yield (
                "sender_tls: opaque TLS is made by sender and receiver themselves; say off or starttls, or leave "
                "receiver_tls off and login away"
            )
        if terminated and in_clear and not self.clear_allowed:
            yield (
                "receiver_tls: the sender's TLS would end here and its mail go on in the clear; say required, implicit "
                "or opportunistic, or allow it (--allow-clear)"
            )
        if self.spoof_sender and self.source:
            yield "spoof_sender: connections leave from the sender's address or from --source; leave one of them away"
        if not self.receiver and not (self.listen and all("receiver" in listener.own for listener in self.listen)):
            yield "receiver: there is none; write HOST:PORT, as in 127.0.0.1:25"
        of_all: list[Settings] = []
        for listener in self.listen:
            try:
                its = self.of(listener)
            except SettingsError as error:
                yield from (f"listener {listener.address}: {problem}" for problem in error.problems)
                continue
            of_all.append(its)
            if its.goes_to_original and isinstance(listener.address, UnixPath):
                yield f"listener {listener.address}: receiver 'original' is for TCP; give it a receiver of its own"
            if listener.lf_only_devices and its.newlines is not Newlines.NORMALISE:
                yield (
                    f"listener {listener.address}: what lf-only-devices send is always made canonical, and newlines is "
                    f"{its.newlines}; say newlines = normalise for that [[listener]], or leave lf-only-devices away"
                )
        if self.allow_destination != (Allowed(),) and of_all and not any(its.goes_to_original for its in of_all):
            yield ("allow_destination: says where senders may go with receiver 'original'; say that, or leave it away")
        if self.login_user and self.goes_to_original and any(each.network is None for each in self.allow_destination):
            yield (
                "login: with receiver 'original' the secret would go to any receiver that a sender wants; say which "
                "networks may have it (--allow-destination)"
            )
        if self.login_user and not self.login_secret:
            yield "login: no secret; give --login-secret-file FILE, or SHIMPROXY_LOGIN_SECRET in the environment"
        if self.login_user and in_clear and not self.login_in_clear:
            yield (
                "login: the secret would go to the receiver in the clear; say receiver_tls required or implicit, or "
                "allow it (--login-in-clear)"
            )

    @property
    def login(self) -> Login | None:
        """With what the shim logs in, if it does."""
        return Login(self.login_user, self.login_secret, self.login_in_clear) if self.login_user else None

    @property
    def workers_used(self) -> int:
        """What `workers` comes to."""
        return self.workers or len(os.sched_getaffinity(0))

    def of_one_worker(self) -> Settings:
        """What each worker goes by: where sessions are counted, its share."""
        share = {name: math.ceil(getattr(self, name) / self.workers_used) for name in _SHARED}
        return attrs.evolve(self, **share)

    @property
    def helo_name_used(self) -> str:
        """What `helo_name` comes to."""
        name = self.helo_name or socket.gethostname()
        return name if is_possible_name(name.encode()) else "localhost"

    @property
    def sizes(self) -> Sizes | None:
        """The limits of mails, if there are any."""
        by_domain = {name.lower().encode(): octets for name, octets in self.max_size_by_domain.items()}
        return Sizes(self.max_size, by_domain) if self.max_size or by_domain else None

    def sender_context(self, listener: Listener) -> ssl.SSLContext | None:
        """The TLS of a listener's senders, if it is terminated here. Raises TlsUnusable."""
        if self.certificate is None:
            return None
        return sender_context(self.certificate, self.key, listener.least_tls, self.files_read)

    def receiver_security(self) -> ReceiverSecurity | None:
        """The TLS of receiver legs, if there is to be any. Raises TlsUnusable."""
        how = self.receiver_tls
        if how is ReceiverTls.OFF:
            return None
        said = bool(self.receiver_name or self.receiver_authorities or self.receiver_fingerprint)
        verified = self.receiver_verified
        return ReceiverSecurity.make(
            Verification(
                name=self.receiver_name,
                authorities=self.receiver_authorities,
                fingerprint=fingerprint(self.receiver_fingerprint) if self.receiver_fingerprint else None,
                required=(said or how is not ReceiverTls.OPPORTUNISTIC) if verified is None else verified,
            ),
            self.files_read,
        )
