"""The settings as an operator names them.

`--receiver-tls required` on the command line, `SHIMPROXY_RECEIVER_TLS=required` in the environment and
`receiver-tls = "required"` in a file are one option.

It knows their names, what each takes, and what it comes to in Settings; where they are gathered from is sources.py's.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from shimproxy.ops.settings import LOG_FORMATS, LOG_LEVELS, Settings, SettingsError
from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.policy import ReceiverTls, SenderTls
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})
_UNITS: Final = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

Values = dict[str, Any]
"""Fields of Settings."""


@attrs.frozen(kw_only=True)
class Option:
    """One setting as an operator gives it, in texts."""

    name: str
    """As a flag has it behind its dashes."""
    group: str
    help: str
    read: Callable[[Sequence[str]], Values]
    """What the texts come to. Raises ValueError, or SettingsError for several problems at once."""
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
    table: bool = False
    """Whether its texts are NAME=VALUE, and in a file a table."""
    default: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "SHIMPROXY_" + self.name.upper().replace("-", "_")


# -- what texts come to


def _text(field: str) -> Callable[[Sequence[str]], Values]:
    return lambda texts: {field: texts[-1]}


def _texts(field: str) -> Callable[[Sequence[str]], Values]:
    return lambda texts: {field: tuple(texts)}


def _number(field: str, kind: type[int] | type[float]) -> Callable[[Sequence[str]], Values]:
    def read(texts: Sequence[str]) -> Values:
        try:
            return {field: kind(texts[-1])}
        except ValueError:
            raise ValueError("write a whole number" if kind is int else "write a number") from None

    return read


def _switch(field: str) -> Callable[[Sequence[str]], Values]:
    def read(texts: Sequence[str]) -> Values:
        return {field: is_on(texts[-1])}

    return read


def is_on(text: str) -> bool:
    """Whether a switch is on with that. Raises ValueError."""
    word = text.lower()
    if word not in _YES | _NO:
        raise ValueError("write true or false")
    return word in _YES


def _choice(field: str, choices: Sequence[str]) -> Callable[[Sequence[str]], Values]:
    def read(texts: Sequence[str]) -> Values:
        if texts[-1] not in choices:
            raise ValueError(f"choose from {', '.join(choices)}")
        return {field: texts[-1]}

    return read


def octets_of(text: str) -> int:
    """A size with its unit, as in 10MiB, 500KiB or 1000. Raises ValueError."""
    digits = text.rstrip("KMGiB")
    unit = _UNITS.get(text[len(digits) :])
    if not (digits.isascii() and digits.isdigit()) or unit is None or int(digits) < 1:
        raise ValueError("write a size as in 10MiB, 500KiB or 1000")
    return int(digits) * unit


def _sizes(texts: Sequence[str]) -> Values:
    general: int | None = None
    by_domain: dict[str, int] = {}
    problems: list[str] = []
    for each in texts:
        domain, _, size = each.rpartition("=")
        try:
            octets = octets_of(size)
        except ValueError as error:
            problems.append(f"{each!r}: {error}, or example.com=2MiB")
            continue
        if domain:
            by_domain[domain] = octets
        else:
            general = octets
    if problems:
        raise SettingsError(*problems)
    return {"max_size": general, "max_size_by_domain": by_domain}


def _workers(texts: Sequence[str]) -> Values:
    if texts[-1] == "auto":
        return {"workers": 0}
    if not (texts[-1].isascii() and texts[-1].isdigit() and int(texts[-1])):
        raise ValueError("write a whole number from 1 on, or auto")
    return {"workers": int(texts[-1])}


def _secret(texts: Sequence[str]) -> Values:
    try:
        secret = Path(texts[-1]).read_text().partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(getattr(error, "strerror", None) or str(error)) from None
    if not secret:
        raise ValueError("its first line is empty; write the secret there")
    return {"login_secret": secret}


_Settable = TypeVar("_Settable", Deadlines, Limits)


def _changes(field: str, defaults: _Settable) -> Callable[[Sequence[str]], Values]:
    """Reads NAME=NUMBER, as many as are given."""

    def read(texts: Sequence[str]) -> Values:
        known: dict[str, attrs.Attribute[Any]] = {
            each.name.replace("_", "-"): each for each in attrs.fields(type(defaults))
        }
        values: dict[str, Any] = {}
        problems: list[str] = []
        for change in texts:
            name, _, number = change.partition("=")
            attribute = known.get(name)
            if attribute is None:
                problems.append(f"{change!r}: no such name{nearest(name, [*known])}; there are {', '.join(known)}")
                continue
            try:
                value = values[attribute.name] = type(getattr(defaults, attribute.name))(number)
            except ValueError:
                problems.append(f"{change!r}: write {name}=NUMBER")
                continue
            problems += _problems_of(attribute, value)
        if problems:
            raise SettingsError(*problems)
        return {field: attrs.evolve(defaults, **values)}

    return read


def _problems_of(attribute: attrs.Attribute[Any], value: object) -> list[str]:
    try:
        if attribute.validator:
            attribute.validator(None, attribute, value)
    except ValueError as error:
        return [str(error)]
    return []


def nearest(word: str, known: Sequence[str], least_ratio: float = 0.6) -> str:
    """A question for the one of the `known` that is near, if there is one; else nothing."""
    found = difflib.get_close_matches(word, known, 1, least_ratio)
    return f", did you mean {found[0]}?" if found else ""


def _with_defaults(settable: Deadlines | Limits) -> tuple[str, ...]:
    return tuple(
        f"{each.name.replace('_', '-')}={_plainly(getattr(settable, each.name))}"
        for each in attrs.fields(type(settable))
    )


def _plainly(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- the options

_WHERE, _REPAIR, _TLS, _BOUNDS, _RUNNING, _LOG = (
    "senders and receiver",
    "what is done with mail",
    "TLS and logins",
    "deadlines and limits",
    "running",
    "the log",
)


def _default(field: str) -> tuple[str, ...]:
    value = attrs.fields_dict(Settings)[field].default
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return (_plainly(value),)


def _switched(name: str, field: str, group: str, help: str) -> Option:
    default = _default(field) if isinstance(attrs.fields_dict(Settings)[field].default, bool) else ()
    return Option(name=name, group=group, switch=True, read=_switch(field), default=default, help=help)


def _chosen(name: str, field: str, group: str, choices: Sequence[str], help: str) -> Option:
    default = () if attrs.fields_dict(Settings)[field].default is None else _default(field)
    read = _choice(field, choices)
    return Option(name=name, group=group, choices=tuple(choices), read=read, default=default, help=help)


OPTIONS: Final = (
    Option(
        name="listen",
        group=_WHERE,
        metavar="HOST:PORT[,...]",
        many=True,
        read=_texts("listen"),
        help="where senders connect; [::1]:2525 for IPv6, :2525 for all addresses, port 0: a free one; with "
        "',lf-only-devices' LF alone ends a line there, and LF.LF mail data: see README for the danger; "
        "',least-tls=1.0' lets senders of that age in",
    ),
    Option(
        name="receiver",
        group=_WHERE,
        metavar="HOST:PORT",
        read=_text("receiver"),
        help="the receiver that mail goes to",
    ),
    _switched("lmtp", "lmtp", _WHERE, "senders and the receiver speak LMTP: a reply for each recipient of a mail"),
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
        read=_sizes,
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
        read=_text("helo_name"),
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
        "after a repair, open a fresh connection to the receiver with the sender's next MAIL, instead of 421; not once "
        "the sender has logged in",
    ),
    Option(
        name="early-success",
        group=_REPAIR,
        metavar="REPLY",
        read=_text("early_success"),
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
        metavar="FILE",
        read=_text("certificate"),
        help="the certificate that senders are shown, with its chain, in PEM",
    ),
    Option(name="key", group=_TLS, metavar="FILE", read=_text("key"), help="its key, if that is in another file"),
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
        read=_text("receiver_name"),
        help="whom its certificate must name, instead of its host",
    ),
    Option(
        name="receiver-ca",
        group=_TLS,
        metavar="FILE",
        read=_text("receiver_authorities"),
        help="CA certificates to be trusted instead of the system's",
    ),
    Option(
        name="receiver-fingerprint",
        group=_TLS,
        metavar="SHA256",
        read=_text("receiver_fingerprint"),
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
        read=_text("login_user"),
        help="log in at the receiver for senders that can't",
    ),
    Option(
        name="login-secret",
        group=_TLS,
        secret=True,
        read=_text("login_secret"),
        help="the secret",
    ),
    Option(
        name="login-secret-file",
        group=_TLS,
        metavar="FILE",
        read=_secret,
        help="its first line is the secret; unless given, SHIMPROXY_LOGIN_SECRET in the environment is",
    ),
    _switched("login-in-clear", "login_in_clear", _TLS, "log in without TLS, too"),
    Option(
        name="deadline",
        group=_BOUNDS,
        metavar="NAME=SECONDS",
        many=True,
        table=True,
        read=_changes("deadlines", Deadlines()),
        default=_with_defaults(Deadlines()),
        help="change a deadline, in seconds",
    ),
    Option(
        name="limit",
        group=_BOUNDS,
        metavar="NAME=NUMBER",
        many=True,
        table=True,
        read=_changes("limits", Limits()),
        default=_with_defaults(Limits()),
        help="change a limit",
    ),
    Option(
        name="sessions",
        group=_BOUNDS,
        metavar="N",
        numeric=True,
        read=_number("sessions", int),
        default=_default("sessions"),
        help="sessions at a time",
    ),
    Option(
        name="workers",
        group=_RUNNING,
        metavar="N|auto",
        read=_workers,
        default=("1",),
        help="processes that serve; auto: one a CPU",
    ),
    Option(
        name="grace",
        group=_RUNNING,
        metavar="SECONDS",
        numeric=True,
        read=_number("grace_seconds", float),
        default=_default("grace_seconds"),
        help="after the first signal to stop, how long open transactions may go on",
    ),
    _chosen(
        "log-level",
        "log_level",
        _LOG,
        LOG_LEVELS,
        "info: a line a session; warning: a line a repair; debug: the dialogue",
    ),
    _chosen("log-format", "log_format", _LOG, LOG_FORMATS, "one line an event, as text or as JSON"),
)
BY_NAME: Final = {option.name: option for option in OPTIONS}
