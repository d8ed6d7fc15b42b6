"""Figures that no worker has: what all processes take together, and when certificates expire."""

from __future__ import annotations

import os
import resource
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shimproxy.net.certificate import Certificate, CertificateInvalid
from shimproxy.observe.series import Series, series

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shimproxy.config.settings import Settings

_PEM_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_PEM_END: Final = "-----END CERTIFICATE-----"
# proc(5): the fields of /proc/PID/stat behind the name of the program.
_USER_TICKS: Final = 11
_SYSTEM_TICKS: Final = 12
_START_TICKS: Final = 19
_RESIDENT_PAGES: Final = 21


def process_figures(workers: Iterable[int]) -> Series:
    """What this process and those workers take; the CPU time of workers that have ended is counted too."""
    ticks_a_second, page_octets = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures: Series = {
        "process_cpu_seconds_total": ended.ru_utime + ended.ru_stime,
        "process_resident_memory_bytes": 0.0,
        "process_open_fds": 0.0,
    }
    for pid in (os.getpid(), *workers):
        with suppress(OSError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
            ticks = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
            figures["process_cpu_seconds_total"] += ticks / ticks_a_second
            figures["process_resident_memory_bytes"] += int(fields[_RESIDENT_PAGES]) * page_octets
            figures["process_open_fds"] += len(os.listdir(f"/proc/{pid}/fd"))
            if pid == os.getpid():
                figures["process_start_time_seconds"] = _boot_at() + int(fields[_START_TICKS]) / ticks_a_second
    return figures


def _boot_at() -> float:
    """When the machine was started, in seconds since 1970. Raises OSError."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def certificate_figures(settings: Settings) -> Series:
    """When the certificates for senders expire, as they were read when the settings were."""
    figures: Series = {}
    for its in (settings, *(settings.of(listener) for listener in settings.listen if listener.own)):
        file = its.certificate
        if file is None:
            continue
        with suppress(OSError, CertificateInvalid, ValueError):
            octets = its.files_read.get(file)
            text = (file.read_bytes() if octets is None else octets).decode("latin-1")
            first = text[text.index(_PEM_BEGIN) : text.index(_PEM_END) + len(_PEM_END)]
            expiry = Certificate.parse(ssl.PEM_cert_to_DER_cert(first)).not_after
            figures[series("certificate_expiry_timestamp_seconds", certificate=str(file))] = expiry.timestamp()
    return figures
