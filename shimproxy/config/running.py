"""Settings of a process that serves: how many sessions, workers, the admin address, the log, and records."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.config import converters, parsers
from shimproxy.net.address import Address, parse_endpoint
from shimproxy.observe.envelope import LogEnvelope
from shimproxy.observe.formats import FORMATS
from shimproxy.observe.log_output import STANDARD_ERROR
from shimproxy.observe.repeats import MOST_IN_A_WINDOW
from shimproxy.records.recording import Recording, RecordWhat
from shimproxy.session.limits import at_least, not_negative, positive
from shimproxy.session.setting import Group, setting

if TYPE_CHECKING:
    from pathlib import Path

    from shimproxy.net.address import Network

LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@attrs.frozen(kw_only=True, slots=False)
class RunningSettings:
    """The part of Settings that is about the process and what can be seen of it."""

    sessions: int = attrs.field(
        default=10_000,
        validator=at_least(1),
        metadata=setting("sessions", Group.BOUNDS, "how many sessions may be open at a time", metavar="N"),
    )
    """Further senders get a 421."""
    sessions_per_network: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(at_least(0)),
        metadata=setting(
            "sessions-per-network",
            Group.BOUNDS,
            "open sessions of one network; 0: no limit; default: three quarters of sessions, without a limit for "
            "loopback",
            metavar="N",
        ),
    )
    connections_per_minute: int = attrs.field(
        default=0,
        validator=at_least(0),
        metadata=setting(
            "connections-per-minute",
            Group.BOUNDS,
            "connections that one network may make; 0: no limit",
            metavar="N",
        ),
    )
    """At once, or one after the other."""
    ipv4_prefix: int = attrs.field(
        default=32,
        validator=converters.is_prefix(32),
        metadata=setting(
            "ipv4-prefix", Group.BOUNDS, "prefix length that groups IPv4 senders into networks", metavar="BITS"
        ),
    )
    """With 32, each address is one."""
    ipv6_prefix: int = attrs.field(
        default=64,
        validator=converters.is_prefix(128),
        metadata=setting(
            "ipv6-prefix", Group.BOUNDS, "prefix length that groups IPv6 senders into networks", metavar="BITS"
        ),
    )
    """64 bits are the least that a site has, and a host can use all the others."""
    workers: int = attrs.field(
        default=1,
        validator=at_least(0),
        metadata=setting(
            "workers",
            Group.RUNNING,
            "the number of worker processes; auto: one for each CPU",
            metavar="N|auto",
            read=parsers.workers,
        ),
    )
    """0 for one a CPU."""
    admin: str = attrs.field(
        default="",
        validator=converters.is_admin_address,
        metadata=setting(
            "admin",
            Group.RUNNING,
            "the HTTP address of the status page (/), metrics (/metrics) and health (/healthz, /readyz)",
            metavar="HOST:PORT|unix:PATH",
        ),
    )
    admin_names: tuple[str, ...] = attrs.field(
        default=(),
        converter=converters.names,
        metadata=setting(
            "admin-name",
            Group.RUNNING,
            "a host name that clients may use for the admin address, as in http://NAME:8025/metrics; IP addresses, "
            "localhost and the host in --admin are always allowed",
            metavar="NAME",
        ),
    )
    allow_admin: tuple[Network, ...] = attrs.field(
        default=(),
        converter=converters.networks,
        metadata=setting(
            "allow-admin",
            Group.RUNNING,
            "where clients of the admin address may connect from (default: the networks in --allow-sender, otherwise "
            "everywhere); loopback is always allowed",
            metavar="NETWORK",
        ),
    )
    reload_certificates: bool = attrs.field(
        default=False,
        metadata=setting(
            "reload-certificates",
            Group.RUNNING,
            "load certificates, keys and CA certificates again when their files change, without SIGHUP",
        ),
    )
    grace_seconds: float = attrs.field(
        default=30.0,
        validator=not_negative,
        metadata=setting(
            "grace",
            Group.RUNNING,
            "how long open transactions may continue after the first signal to stop",
            metavar="SECONDS",
        ),
    )
    log_level: str = attrs.field(
        default="info",
        metadata=setting(
            "log-level",
            Group.LOG,
            "warning: a line for each repair; info: also a line for each session; debug: also the dialogue",
            choices=LOG_LEVELS,
        ),
    )
    log_format: str = attrs.field(
        default="text",
        metadata=setting(
            "log-format",
            Group.LOG,
            "write each event as a line of text or of JSON; ecs: with the names of the Elastic Common Schema",
            choices=FORMATS,
        ),
    )
    log_to: str = attrs.field(
        default=STANDARD_ERROR,
        validator=converters.is_log,
        metadata=setting(
            "log-to",
            Group.LOG,
            "standard error, or a syslog socket (default: /dev/log) with facility mail, or a syslog server (RFC 5424)",
            metavar="stderr|syslog[:PATH|:udp:HOST:PORT|:tcp:HOST:PORT]",
        ),
    )
    log_envelope: LogEnvelope = attrs.field(
        default=LogEnvelope.YES,
        converter=LogEnvelope,
        metadata=setting(
            "log-envelope",
            Group.LOG,
            "mail addresses in the log: as they are, hashed, or none",
        ),
    )
    log_repeats: int = attrs.field(
        default=MOST_IN_A_WINDOW,
        validator=at_least(0),
        metadata=setting(
            "log-repeats",
            Group.LOG,
            "after N repairs of one kind for one receiver in ten seconds, log only their count; 0: log all",
            metavar="N",
        ),
    )
    trace: bool = False
    """Whether each session's record has a trace of it (`SessionRecord.trace`); with `record` it has anyway."""
    record: Path | None = attrs.field(
        default=None,
        converter=converters.file,
        metadata=setting(
            "record",
            Group.RECORDS,
            "write a readable file for each repaired session into this directory",
            metavar="DIR",
        ),
    )
    """It is made if it is not there."""
    record_what: RecordWhat = attrs.field(
        default=RecordWhat.REPAIRED,
        converter=RecordWhat,
        metadata=setting("record-what", Group.RECORDS, "which sessions to keep"),
    )
    record_most_octets: int = attrs.field(
        default=100 * 1024 * 1024,
        validator=at_least(1),
        metadata=setting(
            "record-most",
            Group.RECORDS,
            "how large all files may be together; shimproxy removes the oldest first",
            metavar="SIZE",
            read=parsers.size("record_most_octets"),
            default="100MiB",
        ),
    )
    record_days: float = attrs.field(
        default=14.0,
        validator=positive,
        metadata=setting("record-days", Group.RECORDS, "how many days to keep a file", metavar="N"),
    )
    record_mail_data: bool = attrs.field(
        default=False,
        metadata=setting(
            "record-mail-data",
            Group.RECORDS,
            "also keep the first 64 KiB of a session's mail data, not only their count",
        ),
    )

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
    def workers_used(self) -> int:
        """What `workers` comes to."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def admin_names_used(self) -> frozenset[str]:
        """What `admin_names` comes to, in lower case."""
        endpoint = parse_endpoint(self.admin) if self.admin else None
        own = endpoint.host if isinstance(endpoint, Address) else ""
        return frozenset(each.lower().removesuffix(".") for each in ("localhost", own, *self.admin_names))
