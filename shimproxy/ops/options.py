"""The settings as an operator names them.

`--receiver-tls required` on the command line, `SHIMPROXY_RECEIVER_TLS=required` in the environment and
`receiver-tls = "required"` in a file are one option.

It knows their names and what each takes; what their texts come to is readers.py's, where they stand sources.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.net.proxy_header import Version
from shimproxy.net.receivers import Balance
from shimproxy.ops import readers
from shimproxy.ops.record_files import RecordWhat
from shimproxy.ops.settings import LOG_FORMATS, LOG_LEVELS, Settings
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.policy import EarlyTalk, ReceiverTls, SenderTls
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimproxy.ops.readers import Reader


@attrs.frozen(kw_only=True)
class Option:
    """One setting as an operator gives it, in texts."""

    name: str
    """As a flag has it behind its dashes."""
    group: str
    help: str
    read: Reader
    """What the texts come to."""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    many: bool = False
    """Whether it takes any number of texts; of any other the last one counts."""
    switch: bool = False
    """Whether it is on or off."""
    numeric: bool = False
    """Whether its text is a number."""
    secret: bool = False
    """Whether it is never shown, and no flag, as everyone sees those."""
    file: bool = False
    """Whether its text is the path of a file with certificates or a key."""
    table: bool = False
    """Whether its texts are NAME=VALUE, and in a file a table."""
    default: tuple[str, ...] = ()

    @property
    def of_listener(self) -> bool:
        """Whether it can be different for a listener."""
        return self.group in (_WHERE, _REPAIR, _TLS) or self.name == "deadline"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "SHIMPROXY_" + self.name.upper().replace("-", "_")


# -- the options

_WHERE, _REPAIR, _TLS, _BOUNDS, _RUNNING, _LOG, _RECORDS = (
    "senders and receiver",
    "what is done with mail",
    "TLS and logins",
    "deadlines and limits",
    "running",
    "the log",
    "records of sessions (see also: shimproxy ladder)",
)


def _default(field: str) -> tuple[str, ...]:
    value = attrs.fields_dict(Settings)[field].default
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return (readers.plainly(value),)


def _switched(name: str, field: str, group: str, help: str) -> Option:
    default = _default(field) if isinstance(attrs.fields_dict(Settings)[field].default, bool) else ()
    return Option(name=name, group=group, switch=True, read=readers.switch(field), default=default, help=help)


def _chosen(name: str, field: str, group: str, choices: Sequence[str], help: str) -> Option:
    default = () if attrs.fields_dict(Settings)[field].default is None else _default(field)
    read = readers.choice(field, choices)
    return Option(name=name, group=group, choices=tuple(choices), read=read, default=default, help=help)


def _numbered(name: str, field: str, group: str, metavar: str, help: str) -> Option:
    read = readers.number(field, float if isinstance(attrs.fields_dict(Settings)[field].default, float) else int)
    return Option(name=name, group=group, metavar=metavar, numeric=True, read=read, default=_default(field), help=help)


OPTIONS: Final = (
    Option(
        name="listen",
        group=_WHERE,
        metavar="HOST:PORT[,...]",
        many=True,
        read=readers.texts("listen"),
        help="where senders connect; [::1]:2525 for IPv6, :2525 for all addresses, port 0: a free one; or unix:PATH; "
        "or what systemd has passed, systemd[:NAME]; with ',lf-only-devices' LF alone ends a line there, and LF.LF "
        "mail data: see README for the danger; ',least-tls=1.0' lets senders of that age in; ',tproxy' takes what "
        "TPROXY turns there",
    ),
    Option(
        name="receiver",
        group=_WHERE,
        metavar="HOST:PORT|unix:PATH|original",
        many=True,
        read=readers.texts("receiver"),
        help="the receiver that mail goes to; several in order of preference; or where the sender wanted to, on a "
        "gateway",
    ),
    _chosen(
        "balance", "balance", _WHERE, tuple(Balance), "of several receivers, the first that serves, or each in turn"
    ),
    _numbered(
        "receiver-rest",
        "receiver_rest_seconds",
        _WHERE,
        "SECONDS",
        "how long a receiver that did not answer or greet is the last to be tried",
    ),
    Option(
        name="source",
        group=_WHERE,
        metavar="ADDRESS",
        many=True,
        read=readers.texts("source"),
        help="the address that connections to the receiver come from; one for IPv4 and one for IPv6",
    ),
    _switched(
        "spoof-sender",
        "spoof_sender",
        _WHERE,
        "connections to the receiver come from the sender's own address; needs CAP_NET_RAW or CAP_NET_ADMIN, and "
        "routes that lead the answers back here",
    ),
    Option(
        name="allow-destination",
        group=_WHERE,
        metavar="[NETWORK][:PORT]",
        many=True,
        read=readers.texts("allow_destination"),
        help="with 'original', where senders may go (default: port 25 and 587 of any address but loopback)",
    ),
    Option(
        name="trust",
        group=_WHERE,
        metavar="NETWORK",
        many=True,
        read=readers.texts("trust"),
        help="connections from there begin with a PROXY header, version 1 or 2, that says who the sender is",
    ),
    _chosen("send-proxy", "send_proxy", _WHERE, tuple(Version), "begin connections to the receiver with such a header"),
    _switched("xclient", "xclient", _WHERE, "tell a receiver that offers XCLIENT who the sender is"),
    _switched("lmtp", "lmtp", _WHERE, "senders and the receiver speak LMTP: a reply for each recipient of a mail"),
    _chosen(
        "early-talk",
        "early_talk",
        _REPAIR,
        tuple(EarlyTalk),
        "what senders say before the greeting: hold it, so that no receiver takes them for bots, or refuse them by 554",
    ),
    _chosen(
        "newlines",
        "newlines",
        _REPAIR,
        tuple(Newlines),
        "bare CR, bare LF and NUL in commands and mail data: make canonical, refuse, or pass octet for octet to a "
        "receiver that may be smuggled to",
    ),
    Option(
        name="max-size",
        group=_REPAIR,
        metavar="[DOMAIN=]SIZE",
        many=True,
        read=readers.sizes,
        help="refuse larger mails by 552 5.3.4, in general or for recipients in a domain: 10MiB, 500KiB, or a number "
        "of octets",
    ),
    _switched(
        "tidy",
        "tidy",
        _REPAIR,
        "put commands in order that strict receivers refuse for their blanks, brackets or HELO name",
    ),
    Option(
        name="helo-name",
        group=_REPAIR,
        metavar="NAME",
        read=readers.text("helo_name"),
        help="with tidy: what stands in for an impossible name, instead of this machine's",
    ),
    _switched(
        "pipelining",
        "pipelining",
        _REPAIR,
        "offer PIPELINING where the receiver does; not for receivers that lose commands when several come together",
    ),
    _switched(
        "resume",
        "resume",
        _REPAIR,
        "open a fresh connection to the receiver for the sender's next command whenever that has gone, instead of 421; "
        "unless told otherwise, only after a mail that was refused; never once the sender has logged in",
    ),
    Option(
        name="early-success",
        group=_REPAIR,
        metavar="REPLY",
        read=readers.text("early_success"),
        default=_default("early_success"),
        help="what answers mail data that the receiver accepted before its end",
    ),
    _chosen(
        "sender-tls",
        "sender_tls",
        _TLS,
        tuple(SenderTls),
        "terminate it (by STARTTLS or from the start), pass the receiver's through unread, so that nothing can be "
        "repaired in it, or offer none; unless given: starttls with a cert; without, opaque if receiver-tls is off, "
        "else off",
    ),
    Option(
        name="cert",
        group=_TLS,
        file=True,
        metavar="FILE",
        read=readers.text("certificate"),
        help="the certificate that senders are shown, with its chain, in PEM",
    ),
    Option(
        name="key",
        group=_TLS,
        file=True,
        metavar="FILE",
        read=readers.text("key"),
        help="its key, if that is in another file",
    ),
    _chosen(
        "receiver-tls",
        "receiver_tls",
        _TLS,
        tuple(ReceiverTls),
        "TLS with the receiver, made by shimproxy: by STARTTLS where that works, by STARTTLS or not at all, or from "
        "the start",
    ),
    Option(
        name="receiver-name",
        group=_TLS,
        metavar="NAME",
        read=readers.text("receiver_name"),
        help="whom its certificate must name, instead of its host",
    ),
    Option(
        name="receiver-ca",
        group=_TLS,
        file=True,
        metavar="FILE",
        read=readers.text("receiver_authorities"),
        help="CA certificates to be trusted instead of the system's",
    ),
    Option(
        name="receiver-fingerprint",
        group=_TLS,
        metavar="SHA256",
        read=readers.text("receiver_fingerprint"),
        help="the only certificate that is taken, whoever signed it",
    ),
    _switched(
        "receiver-verify",
        "receiver_verified",
        _TLS,
        "check its certificate; unless given: yes, but for opportunistic TLS of which nothing else is said",
    ),
    _switched(
        "allow-clear", "clear_allowed", _TLS, "let the mail of senders that used TLS go to the receiver in the clear"
    ),
    Option(
        name="login",
        group=_TLS,
        metavar="USER",
        read=readers.text("login_user"),
        help="log in at the receiver for senders that can't",
    ),
    Option(
        name="login-secret",
        group=_TLS,
        secret=True,
        read=readers.text("login_secret"),
        help="the secret",
    ),
    Option(
        name="login-secret-file",
        group=_TLS,
        metavar="FILE",
        read=readers.secret,
        help="its first line is the secret; unless given, SHIMPROXY_LOGIN_SECRET in the environment is",
    ),
    _switched("login-in-clear", "login_in_clear", _TLS, "log in without TLS, too"),
    Option(
        name="deadline",
        group=_BOUNDS,
        metavar="NAME=SECONDS",
        many=True,
        table=True,
        read=readers.changes("deadlines", Deadlines()),
        default=readers.with_defaults(Deadlines()),
        help="change a deadline, in seconds",
    ),
    Option(
        name="limit",
        group=_BOUNDS,
        metavar="NAME=NUMBER",
        many=True,
        table=True,
        read=readers.changes("limits", Limits()),
        default=readers.with_defaults(Limits()),
        help="change a limit",
    ),
    _numbered("sessions", "sessions", _BOUNDS, "N", "sessions at a time"),
    _numbered(
        "sessions-per-network", "sessions_per_network", _BOUNDS, "N", "of these, with senders of one network; 0: any"
    ),
    _numbered(
        "connections-per-minute", "connections_per_minute", _BOUNDS, "N", "that a network may make; 0: any number"
    ),
    _numbered("ipv4-prefix", "ipv4_prefix", _BOUNDS, "BITS", "of an IPv4 address, that say which network it is in"),
    _numbered("ipv6-prefix", "ipv6_prefix", _BOUNDS, "BITS", "the same of an IPv6 address"),
    Option(
        name="workers",
        group=_RUNNING,
        metavar="N|auto",
        read=readers.workers,
        default=("1",),
        help="processes that serve; auto: one a CPU",
    ),
    Option(
        name="admin",
        group=_RUNNING,
        metavar="HOST:PORT|unix:PATH",
        read=readers.text("admin"),
        help="answer for figures (/metrics), health (/healthz, /readyz) and with a status page (/) there, over HTTP",
    ),
    _numbered(
        "grace",
        "grace_seconds",
        _RUNNING,
        "SECONDS",
        "after the first signal to stop, how long open transactions may go on",
    ),
    _chosen(
        "log-level",
        "log_level",
        _LOG,
        LOG_LEVELS,
        "info: a line a session; warning: a line a repair; debug: the dialogue",
    ),
    _chosen("log-format", "log_format", _LOG, LOG_FORMATS, "one line an event, as text or as JSON"),
    Option(
        name="log-to",
        group=_LOG,
        metavar="stderr|syslog[:PATH]",
        read=readers.text("log_to"),
        default=_default("log_to"),
        help="standard error, or syslog's socket, /dev/log unless another is named; facility mail",
    ),
    Option(
        name="log-repeats",
        group=_LOG,
        metavar="N",
        numeric=True,
        read=readers.number("log_repeats", int),
        default=_default("log_repeats"),
        help="after so many repairs of one kind and receiver within ten seconds, count them; 0: log all",
    ),
    Option(
        name="record",
        group=_RECORDS,
        metavar="DIR",
        read=readers.text("record"),
        help="keep each repaired session there as a readable file",
    ),
    _chosen("record-what", "record_what", _RECORDS, tuple(RecordWhat), "which sessions are kept"),
    Option(
        name="record-most",
        group=_RECORDS,
        metavar="SIZE",
        read=readers.size("record_most_octets"),
        default=("100MiB",),
        help="how large all files may be together; the oldest go first",
    ),
    Option(
        name="record-days",
        group=_RECORDS,
        metavar="N",
        numeric=True,
        read=readers.number("record_days", float),
        default=_default("record_days"),
        help="how old a file may become",
    ),
    _switched(
        "record-mail-data",
        "record_mail_data",
        _RECORDS,
        "keep the first 64 KiB of a session's mail data, too, and not their count alone",
    ),
)
BY_NAME: Final = {option.name: option for option in OPTIONS}
